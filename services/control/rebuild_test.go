package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// fastClock lets the pacer's seconds pass so many times faster than the clock: the pace is a matter of TestPacer....
func fastClock(p *pool, times int) {
	p.c.pace.clock = func() time.Duration { return time.Duration(times) * p.c.clock() }
}

// TestLineUp: runs are read in about the order in which they start.
func TestLineUp(t *testing.T) {
	runs := map[string]*openRun{}
	for _, r := range []struct {
		priority    int
		tenant, run string
	}{{1, "a", "1"}, {1, "a", "2"}, {1, "a", "3"}, {0, "b", "1"}, {0, "b", "2"}, {0, "a", "9"}, {1, "c", "0"}, {1, "c", "1"}, {3, "b", "0"}} {
		key := schemas.OpenKey("cpu", r.priority, r.tenant, r.run)
		runs[key] = &openRun{key: key, tenant: r.tenant, run: r.run}
	}
	var got []string
	for _, key := range lineUp(runs) {
		got = append(got, strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".json"))
	}
	if want := strings.Fields("0-a-9 0-b-1 0-b-2 1-a-1 1-c-0 1-a-2 1-c-1 1-a-3 3-b-0"); !slices.Equal(got, want) {
		t.Errorf("the line is %v, want %v", got, want)
	}
}

// rebuilt ticks until every run that is listed has been read, and fails when that takes longer than a minute. between is called after each
// tick with the number of runs that were read.
func rebuilt(t *testing.T, p *pool, between func(known int)) {
	t.Helper()
	for began := time.Now(); ; {
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		known := 0
		for _, r := range p.runs {
			if r.readAt > 0 {
				known++
			}
		}
		if between != nil {
			between(known)
		}
		if known == len(p.runs) {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%d of %d runs are known after a minute", known, len(p.runs))
		}
	}
}

// TestRebuildCostsOneReadARun: a control that remembers nothing knows a long line of runs, many of each tenant, for little more than one GET
// a run, and the specs of those that come next.
func TestRebuildCostsOneReadARun(t *testing.T) {
	const n = 8000
	objects := &countingStore{Objects: memstore.New()}
	for i := range n {
		s := trainSpec(fmt.Sprintf("run%07d", i), 1+i%3, 1, 1)
		s.Tenant = fmt.Sprintf("tenant%03d", i%80)
		storeOpen(t, objects, s)
	}
	p := newTestPool(t, objects, 0)
	fastClock(p, 100)
	objects.gets.Store(0)
	rebuilt(t, p, nil)
	per := float64(objects.gets.Load()) / n
	t.Logf("%.3f GETs a run", per)
	if per > 1.05 { // the specs ahead are a fortieth of so few runs
		t.Errorf("%.3f GETs a run", per)
	}
	// What comes next is known soon after, and nothing of it is read twice.
	for specs := 0; specs < maxQueued; {
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		specs = 0
		for _, r := range p.runs {
			if r.spec != nil {
				specs++
			}
		}
	}
}

func storeOpen(tb testing.TB, objects store.Objects, s *schemas.RunSpec) {
	tb.Helper()
	if err := putSpec(context.Background(), objects, s); err != nil {
		tb.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := objects.Put(context.Background(), schemas.OpenKey(s.Pool, s.Priority, s.Tenant, s.ID), data, store.Condition{Absent: true}); err != nil {
		tb.Fatal(err)
	}
}

// TestRebuildSeesWhatHappensMeanwhile: while a control without memory reads, runs that it has read are cancelled and paused, and others are
// submitted. Its memory of them is old; no decision may follow from it: an ended run never starts, a paused one keeps its HEAD, and all of
// them are known in the end.
func TestRebuildSeesWhatHappensMeanwhile(t *testing.T) {
	const n = 3000
	objects := memstore.New()
	backlog(t, objects, n)
	p := newTestPool(t, objects, 40)
	fastClock(p, 30)
	heads := checkpoint.NewHeads(objects, checkpoint.Config{})
	var cancelled, paused []string // tenant/id
	hurt := map[string]bool{}
	late := 0
	rebuilt(t, p, func(int) {
		// Of what is known to be queued, the next in line are hit: those that the next decisions are about.
		hit := 0
		for _, key := range p.keys {
			r := p.runs[key]
			if r == nil || r.readAt == 0 || r.spec == nil || r.head != nil || hurt[key] || hit == 4 || len(cancelled)+len(paused) > 200 {
				continue
			}
			hit++
			hurt[key] = true
			h := NewHead(r.spec)
			mutate, list := pauseHead, &paused
			if hit%2 == 0 {
				mutate, list = func(h *schemas.Head) error { return cancel(h, "on request", time.Now()) }, &cancelled
			}
			h.State = schemas.RunQueued
			if err := mutate(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := heads.Create(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			*list = append(*list, r.tenant+"/"+r.run)
		}
		if late < 100 {
			s := trainSpec(fmt.Sprintf("late%06d", late), 0, 1, 1)
			s.Tenant = "tenant9"
			storeOpen(t, objects, s)
			p.dirty = true
			late++
		}
	})
	if late < 10 || len(cancelled) < 10 || len(paused) < 10 {
		t.Fatalf("only %d were submitted, %d cancelled, %d paused meanwhile", late, len(cancelled), len(paused))
	}
	p.sweptAt = p.c.clock() - p.c.cfg.SweepEvery // what happened is known at the next sweep at the latest
	rebuilt(t, p, nil)
	p.dirty = true
	if _, err := p.tick(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := len(p.runs); got != n+late-len(cancelled) {
		t.Errorf("%d runs are open, want %d", got, n+late-len(cancelled))
	}
	for i, id := range append(cancelled, paused...) {
		tenant, run, _ := strings.Cut(id, "/")
		head, _, err := heads.Read(t.Context(), tenant, run)
		if err != nil {
			t.Fatal(err)
		}
		want := schemas.RunCancelled
		if i >= len(cancelled) {
			want = schemas.RunPaused
		}
		if head.State != want || len(head.Seats) > 0 || head.Rev != 1 {
			t.Errorf("run %s is %s with %d seats at revision %d, want %s as it was", id, head.State, len(head.Seats), head.Rev, want)
		}
	}
}

// lateHead writes HEAD of a run between the reading that finds none and the answer to it.
type lateHead struct {
	store.Objects
	mu   sync.Mutex
	left int
	late func(key string)
}

func (l *lateHead) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	data, info, err := l.Objects.Get(ctx, key, limit)
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasSuffix(key, "/HEAD.json") && err != nil && l.left > 0 {
		l.left--
		l.late(key)
	}
	return data, info, err
}

// TestHeadWrittenAfterItWasRead: what was read as queued is running elsewhere an instant later. The start fails, HEAD is read, and the run
// goes on from it with its own seats.
func TestHeadWrittenAfterItWasRead(t *testing.T) {
	base := memstore.New()
	backlog(t, base, 20)
	heads := checkpoint.NewHeads(base, checkpoint.Config{})
	theirs := map[string]uint64{}
	objects := &lateHead{Objects: base, left: 5}
	objects.late = func(key string) {
		parts := strings.Split(key, "/")
		tenant, run := parts[1], parts[2]
		s := trainSpec(run, 1, 1, 1)
		s.Tenant = tenant
		h := StartHead(s, Action{Stage: s.Stages[0].Name, Seats: []schemas.Seat{{Seat: 0, Issue: 7}}}, time.Now())
		if _, err := heads.Create(context.Background(), h); err != nil {
			t.Error(err)
		}
		theirs[tenant+"/"+run] = 7
	}
	p := newTestPool(t, objects, 30)
	for range 50 {
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if len(theirs) != 5 {
		t.Fatalf("%d HEADs were written late", len(theirs))
	}
	for id, issue := range theirs {
		tenant, run, _ := strings.Cut(id, "/")
		head, _, err := heads.Read(t.Context(), tenant, run)
		if err != nil {
			t.Fatal(err)
		}
		r := p.byName[id]
		if r == nil || r.head == nil || head.LastIssue < issue {
			t.Errorf("run %s: HEAD %+v is known as %+v", id, head, r)
		}
		if len(head.Seats) != 1 || head.Seats[0].Issue != issue {
			t.Errorf("run %s has the seats %v, the first start gave it issue %d", id, head.Seats, issue)
		}
	}
}
