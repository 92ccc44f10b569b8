package control

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/queue/memq"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// backlog stores n open runs with one train stage each.
func backlog(tb testing.TB, objects store.Objects, n int) {
	tb.Helper()
	for i := range n {
		s := trainSpec(fmt.Sprintf("run%07d", i), 1+i%3, 1, 1)
		s.Tenant = fmt.Sprintf("tenant%d", i%7)
		data, err := json.Marshal(s)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := objects.Put(context.Background(), schemas.OpenKey("cpu", s.Priority, s.Tenant, s.ID), data, store.Condition{}); err != nil {
			tb.Fatal(err)
		}
	}
}

func newTestPool(tb testing.TB, objects store.Objects, workers int) *pool {
	tb.Helper()
	leases, work := memlease.New(), memq.New(0)
	for i := range workers {
		name := fmt.Sprint("w", i)
		if err := leases.Register(context.Background(), lease.Worker{Name: name, Incarnation: name, Pool: "cpu"}, time.Hour); err != nil {
			tb.Fatal(err)
		}
	}
	if err := work.Ensure(context.Background(), map[string]int{"cpu": workers}); err != nil {
		tb.Fatal(err)
	}
	c, err := New(objects, work, leases, Config{Name: "c"})
	if err != nil {
		tb.Fatal(err)
	}
	return newPool(c, "cpu")
}

// countingStore counts GETs.
type countingStore struct {
	store.Objects
	gets atomic.Int64
}

func (c *countingStore) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	c.gets.Add(1)
	return c.Objects.Get(ctx, key, limit)
}

// TestBacklogIsReadInSteps: a long backlog is taken up at a bounded pace, and the first runs start before all of it is known.
func TestBacklogIsReadInSteps(t *testing.T) {
	objects := &countingStore{Objects: memstore.New()}
	backlog(t, objects, 600)
	p := newTestPool(t, objects, 2)
	began := time.Now()
	known, started := 0, 0
	for tick := 1; known < 600; tick++ {
		before := known
		known = 0
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		for _, r := range p.runs {
			if r.spec != nil {
				known++
			}
			if r.head != nil && len(r.head.Seats) > 0 && started == 0 {
				started = tick
			}
		}
		if known-before > maxReads {
			t.Fatalf("%d runs were read in one tick", known-before)
		}
		if n, most := objects.gets.Load(), getRate*(1+time.Since(began).Seconds()); float64(n) > most {
			t.Fatalf("%d GETs after %s", n, time.Since(began))
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%d runs are known after 20 s", known)
		}
		if known == before {
			time.Sleep(5 * time.Millisecond) // the window is full
		}
	}
	if started == 0 || started > 4 {
		t.Fatalf("the first started in tick %d", started)
	}
}

func BenchmarkTick(b *testing.B) {
	objects := memstore.New()
	backlog(b, objects, 20000)
	p := newTestPool(b, objects, 0)
	for range 140 {
		if _, err := p.tick(b.Context(), false); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := p.tick(b.Context(), false); err != nil {
			b.Fatal(err)
		}
	}
}

// TestClosedRunsAreForgotten: runs that are closed between two listings are not looked at again.
func TestClosedRunsAreForgotten(t *testing.T) {
	objects := memstore.New()
	backlog(t, objects, 5)
	p := newTestPool(t, objects, 0)
	if _, err := p.tick(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.runs {
		h := NewHead(r.spec)
		h.State = schemas.RunCancelled
		if _, err := p.c.heads.Create(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		r.readAt = 0
	}
	for range 3 {
		p.listedAt = p.c.clock() // no listing in between
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	for info := range objects.List(t.Context(), "open/") {
		t.Errorf("%s is still open", info.Key)
	}
	if len(p.runs) != 0 {
		t.Errorf("%d runs are remembered", len(p.runs))
	}
}

// keyedStore counts GETs by key.
type keyedStore struct {
	store.Objects
	mu   sync.Mutex
	gets map[string]int
}

func (k *keyedStore) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	k.mu.Lock()
	k.gets[key]++
	k.mu.Unlock()
	return k.Objects.Get(ctx, key, limit)
}

// TestARunIsReadOnceInALook: also while the cursor moves over a backlog that is looked at again in turns, and a gang is forming.
func TestARunIsReadOnceInALook(t *testing.T) {
	objects := &keyedStore{Objects: memstore.New(), gets: map[string]int{}}
	backlog(t, objects, 100)
	p := newTestPool(t, objects, 2)
	for known, started := 0, false; known < 100 || !started; {
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		known = 0
		for _, r := range p.runs {
			if r.spec != nil {
				known++
			}
			started = started || r.head != nil && len(r.head.Seats) > 0
		}
	}
	for look := range 3 {
		rest := rereadAfter
		if look == 0 {
			rest = paceWindow // what was read until now takes nothing from this look
		}
		for newest := time.Duration(0); p.c.clock()-newest <= rest; time.Sleep(time.Millisecond) {
			for _, r := range p.runs {
				newest = max(newest, r.readAt)
			}
		}
		clear(objects.gets)
		if err := p.refresh(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if look == 0 { // the pacer may hold the later ones back
			for _, r := range p.runs {
				if r.head != nil && len(r.head.Seats) > 0 && objects.gets[schemas.HeadKey(r.tenant, r.run)] == 0 {
					t.Errorf("the gang of %s was not looked at", r.run)
				}
			}
		}
		for key, n := range objects.gets {
			if n > 1 {
				t.Errorf("look %d: %s was read %d times", look, key, n)
			}
		}
	}
}

// TestAPokeIsNotMissed: a run that changes just after it was read is not read again by the poke's tick; the pool says how soon it can be.
func TestAPokeIsNotMissed(t *testing.T) {
	objects := &keyedStore{Objects: memstore.New(), gets: map[string]int{}}
	backlog(t, objects, 1)
	p := newTestPool(t, objects, 2)
	var r *openRun
	began := time.Now()
	for r == nil || r.head == nil || len(r.head.Seats) == 0 {
		if time.Since(began) > time.Minute {
			t.Fatal("no seats were given in a minute")
		}
		if _, err := p.tick(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		for _, r = range p.runs {
		}
	}
	for p.c.clock()-r.readAt <= rereadAfter {
		time.Sleep(time.Millisecond)
	}
	p.missed = 0
	if err := p.refresh(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if p.missed != 0 {
		t.Fatalf("a run that was read counts as missed for %s", p.missed)
	}
	heads := checkpoint.NewHeads(objects, checkpoint.Config{})
	word := schemas.ControlPause
	for began = time.Now(); ; { // until the machine is quick enough between two looks
		if time.Since(began) > time.Minute {
			t.Fatal("in a minute no look came soon enough after the one before")
		}
		r.readAt = p.c.clock()
		if _, err := heads.Swap(t.Context(), r.tenant, r.run, func(h *schemas.Head) error {
			h.Control = word
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := p.refresh(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if r.head.Control != word {
			break
		}
		if word = schemas.ControlPause; r.head.Control == word {
			word = schemas.ControlPreempt
		}
		p.missed = 0
	}
	if p.missed <= 0 || p.missed > rereadAfter {
		t.Fatalf("the poke's tick says that it missed something for %s", p.missed)
	}
	time.Sleep(p.missed)
	if err := p.refresh(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if r.head.Control != word {
		t.Error("the change was not seen when the pool said that it could be")
	}
}
