package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Default and largest page of List.
const (
	defaultPage = 50
	maxPage     = 1000
)

// Bounds of what List reads: objects at once, the time of one call, how many queued runs are looked at again a second (most of them have no
// HEAD to be read, and one that a worker holds is looked at in every call), how long a HEAD is good, what a listing may cost to be done in
// every call, and the longest that one is kept.
const (
	rollReaders    = 16
	rollBudget     = 3 * time.Second
	rollQueuedASec = 200
	rollFresh      = time.Second
	rollCheap      = 100 * time.Millisecond
	rollKept       = 20 * time.Second
)

// roll remembers of each run what lists are sorted, filtered and counted by, so that a list among many thousands reads the record of an
// ended run once. Which runs there are is read from the store in every call; nothing here is truth.
type roll struct {
	// turn is held by the call that reads; it guards what follows.
	turn chan struct{}

	lines  map[string]*line // by "tenant/run"
	began  time.Time        // when the listing that made them was begun
	cost   time.Duration    // what it took
	passed time.Time        // when queued runs were looked at last
	// accepted counts the runs that this service has accepted, listed those that the listing knows of.
	accepted atomic.Int64
	listed   int64
}

// line is one run.
type line struct {
	tenant, run, pool, name string
	// created is when the run was accepted: by its id where that tells the time, else by its index entry.
	created time.Time
	// ended is the key of the record of an ended run, version that of the record; "" = open.
	ended, version string
	// state was read at looked; "" = not yet. named says that the name, too, was read, and of an ended run its pool.
	state  schemas.RunState
	looked time.Time
	named  bool
}

// unread reports whether the filter asks for something of the run that was not read yet.
func (l *line) unread(f schemas.RunFilter) bool {
	return (f.Counts || len(f.States) > 0) && l.state == "" || f.Name != "" && !l.named || f.Pool != "" && l.pool == ""
}

func (l *line) id() string { return l.tenant + "/" + l.run }

// List returns one page of runs, the newest first. Runs whose records could not be read in time are not among those that are selected or
// counted by what the records say: RunList.Unread says how many, and the next call goes on reading.
func (s *Service) List(ctx context.Context, f schemas.RunFilter) (*schemas.RunList, error) {
	after, err := checkFilter(f)
	if err != nil {
		return nil, err
	}
	all, err := s.look(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &schemas.RunList{Runs: []schemas.RunView{}}
	if f.Counts {
		out.Counts = map[schemas.RunState]int{}
	}
	limit := cmp.Or(f.Limit, defaultPage)
	limit = min(max(limit, 1), maxPage)
	var page []line
	for _, l := range all {
		if l.unread(f) && (f.Tenant == "" || f.Tenant == l.tenant) {
			out.Unread++
		}
		if !selects(f, &l) {
			continue
		}
		if f.Counts && l.state != "" {
			out.Counts[l.state]++
		}
		if len(f.States) > 0 && !slices.Contains(f.States, l.state) {
			continue
		}
		out.Total++
		switch {
		case after.covers(&l):
		case len(page) < limit:
			page = append(page, l)
		case out.Next == "":
			last := page[limit-1]
			out.Next = cursor{last.created, last.id()}.String()
		}
	}
	views, err := s.views(ctx, page)
	for _, v := range views {
		if v != nil && (len(f.States) == 0 || slices.Contains(f.States, v.State)) { // it may have moved on
			out.Runs = append(out.Runs, *v)
		}
	}
	return out, err
}

// checkFilter refuses what selects nothing by its form, and reads where the page begins.
func checkFilter(f schemas.RunFilter) (after cursor, err error) {
	for place, n := range map[string]string{"tenant": f.Tenant, "pool": f.Pool} {
		if n != "" && !schemas.ValidName(n) {
			return after, schemas.Errorf(schemas.CodeInvalid, place, "%q is not a name", n)
		}
	}
	for _, st := range f.States {
		if !slices.Contains(schemas.RunStates(), st) {
			return after, schemas.Errorf(schemas.CodeInvalid, "state", "%q is no state; states are %v", st, schemas.RunStates())
		}
	}
	return parseCursor(f.After)
}

// selects reports whether a run is among those that a filter asks for, whatever its state.
func selects(f schemas.RunFilter, l *line) bool {
	text := strings.ToLower(f.Name)
	return (f.Tenant == "" || f.Tenant == l.tenant) && (f.Pool == "" || f.Pool == l.pool) && (f.Since.IsZero() || !l.created.Before(f.Since)) &&
		(f.Until.IsZero() || l.created.Before(f.Until)) && (text == "" || strings.Contains(strings.ToLower(l.name), text) || strings.Contains(l.id(), text))
}

// cursor is where a page ended.
type cursor struct {
	created time.Time
	id      string
}

func (c cursor) String() string { return strconv.FormatInt(c.created.UnixNano(), 10) + "." + c.id }

// covers reports whether a run was on the pages up to the cursor.
func (c cursor) covers(l *line) bool {
	return c.id != "" && cmp.Or(l.created.Compare(c.created), cmp.Compare(l.id(), c.id)) >= 0
}

func parseCursor(s string) (cursor, error) {
	if s == "" {
		return cursor{}, nil
	}
	at, id, ok := strings.Cut(s, ".")
	n, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil || id == "" {
		return cursor{}, schemas.Errorf(schemas.CodeInvalid, "after", "%q is not the next of a page", s)
	}
	return cursor{time.Unix(0, n), id}, nil
}

// look lists the runs, newest first, and reads what the filter needs to know of them.
func (s *Service) look(ctx context.Context, f schemas.RunFilter) ([]line, error) {
	r := &s.roll
	asked := time.Now()
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot list runs: %w", ctx.Err())
	}
	// A call that waited takes what the one before has listed; one listing among many runs, which costs, serves for as long again. What this
	// service has accepted is shown at once.
	accepted := r.accepted.Load()
	age := asked.Sub(r.began)
	if stale := age > 0 && (r.cost < rollCheap || age > min(2*r.cost, rollKept)); stale || accepted != r.listed {
		began := time.Now()
		if err := s.relist(ctx); err != nil {
			return nil, err
		}
		r.began, r.cost, r.listed = began, time.Since(began), accepted
	}
	out := make([]*line, 0, len(r.lines))
	for _, l := range r.lines {
		out = append(out, l)
	}
	newestFirst := func(a, b *line) int { return cmp.Or(b.created.Compare(a.created), cmp.Compare(b.id(), a.id())) }
	slices.SortFunc(out, newestFirst)
	if f.Counts || len(f.States) > 0 || f.Pool != "" || f.Name != "" {
		if err := s.readLines(ctx, s.due(ctx, out, f), f.Name != ""); err != nil {
			return nil, err
		}
		slices.SortFunc(out, newestFirst) // records tell when their runs were accepted
	}
	lines := make([]line, len(out))
	for i, l := range out {
		lines[i] = *l
	}
	return lines, nil
}

// relist brings the lines up to what the store lists.
func (s *Service) relist(ctx context.Context) error {
	next := make(map[string]*line, len(s.roll.lines))
	add := func(l line) {
		old := s.roll.lines[l.id()]
		if old != nil && old.ended == l.ended && old.version == l.version {
			next[l.id()] = old
			return
		}
		if old != nil {
			l.created, l.name, l.named, l.pool = old.created, old.name, old.named, cmp.Or(l.pool, old.pool)
		}
		next[l.id()] = &l
	}
	for info, err := range s.objects.List(ctx, "open/") {
		if err != nil {
			return unreachable(err)
		}
		if tenant, run, ok := parseOpen(info.Key); ok {
			pool, _, _ := strings.Cut(strings.TrimPrefix(info.Key, "open/"), "/")
			add(line{tenant: tenant, run: run, pool: pool, created: acceptedAt(run, info.Modified)})
		}
		if !schemas.IsOpenBatch(info.Key) {
			continue
		}
		specs, err := readBatch(ctx, s.objects, info.Key) // accepted a moment ago, or while there is no control
		if err != nil {
			return unreachable(err)
		}
		for _, spec := range specs {
			add(line{tenant: spec.Tenant, run: spec.ID, pool: spec.Pool, name: spec.Name, named: true, created: acceptedAt(spec.ID, info.Modified)})
		}
	}
	for info, err := range s.objects.List(ctx, schemas.EndedPrefix("")) {
		if err != nil {
			return unreachable(err)
		}
		tenant, run, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(info.Key, schemas.EndedPrefix("")), ".json"), "/")
		if ok {
			add(line{tenant: tenant, run: run, ended: info.Key, version: info.ETag, created: acceptedAt(run, info.Modified)})
		}
	}
	s.roll.lines = next
	return nil
}

// acceptedAt is when a run was accepted: an id that is a ULID tells it, for one made from a key it is when its index entry was written.
func acceptedAt(run string, modified time.Time) time.Time {
	id, err := ulid.ParseStrict(strings.ToUpper(run))
	if err != nil || strings.Trim(run, "0123456789abcdef") == "" { // a hash (26 hexadecimal digits) would be read as a ULID
		return modified
	}
	return ulid.Time(id.Time())
}

// due are the lines whose records are to be read now: those that never were, open runs that have begun, those that workers hold, and some of
// the queued ones, those first that were not looked at for longest.
func (s *Service) due(ctx context.Context, all []*line, f schemas.RunFilter) []*line {
	now := time.Now()
	held := map[string]bool{}
	if workers, err := s.Workers(ctx, ""); err == nil { // a hint
		for _, w := range workers.Workers {
			if t, rest, ok := strings.Cut(w.Busy, "/"); ok {
				run, _, _ := strings.Cut(rest, "/")
				held[t+"/"+run] = true
			}
		}
	}
	var out, queued []*line
	for _, l := range all {
		switch {
		case f.Tenant != "" && l.tenant != f.Tenant:
		case l.unread(f):
			out = append(out, l)
		case l.ended != "" || now.Sub(l.looked) < rollFresh/2:
		case l.state != schemas.RunQueued || held[l.id()]:
			out = append(out, l)
		default:
			queued = append(queued, l)
		}
	}
	// What is at work is what people look for first.
	slices.SortStableFunc(out, func(a, b *line) int { return cmp.Compare(rank(held[b.id()]), rank(held[a.id()])) })
	slices.SortStableFunc(queued, func(a, b *line) int { return a.looked.Compare(b.looked) })
	n := int(min(now.Sub(s.roll.passed), 2*time.Second).Seconds() * rollQueuedASec)
	s.roll.passed = now
	return append(out, queued[:min(n, len(queued))]...)
}

func rank(first bool) int {
	if first {
		return 1
	}
	return 0
}

// readLines reads records until all are read or the time for it is over.
func (s *Service) readLines(ctx context.Context, lines []*line, names bool) error {
	deadline := time.Now().Add(rollBudget)
	return parallel(ctx, rollReaders, lines, func(ctx context.Context, l *line) error {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return ctx.Err()
		}
		err := s.readLine(ctx, l, names)
		if schemas.IsCode(err, schemas.CodeNotFound) {
			return nil // gone since it was listed
		}
		return err
	})
}

// readLine reads the record of an ended run; of an open one HEAD, and its spec where the name is asked for.
func (s *Service) readLine(ctx context.Context, l *line, names bool) error {
	at := time.Now()
	if l.ended != "" {
		v, err := s.entry(ctx, l.id(), l.ended)
		if err != nil {
			return err
		}
		l.state, l.name, l.pool, l.named, l.looked = v.State, v.Name, v.Pool, true, at
		if !v.Created.IsZero() {
			l.created = acceptedAt(l.run, v.Created)
		}
		return nil
	}
	head, _, err := s.heads.Read(ctx, l.tenant, l.run)
	switch {
	case err == nil:
		l.state, l.looked = head.State, at
	case errors.Is(err, store.ErrNotFound):
		l.state, l.looked = schemas.RunQueued, at
	default:
		return unreachable(err)
	}
	if !names || l.named {
		return nil
	}
	spec, _, err := s.spec(ctx, l.tenant, l.run)
	if err == nil {
		l.name, l.named = spec.Name, true
	}
	return err
}

// views reads the runs of a page; nil for one that is gone.
func (s *Service) views(ctx context.Context, page []line) ([]*schemas.RunView, error) {
	out := make([]*schemas.RunView, len(page))
	at := make([]int, len(page))
	for i := range at {
		at[i] = i
	}
	err := parallel(ctx, rollReaders, at, func(ctx context.Context, i int) error {
		v, err := s.entry(ctx, page[i].id(), page[i].ended)
		if schemas.IsCode(err, schemas.CodeNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !v.State.Terminal() {
			s.progress(ctx, v)
		}
		out[i] = v
		return nil
	})
	return out, err
}

func (s *Service) entry(ctx context.Context, id, key string) (*schemas.RunView, error) {
	if key != "" {
		data, _, err := s.objects.Get(ctx, key, maxResultBytes)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, unreachable(err)
		}
		var view schemas.RunView
		if err == nil && json.Unmarshal(data, &view) == nil {
			return &view, nil
		}
	}
	tenant, run, _ := strings.Cut(id, "/")
	spec, at, err := s.spec(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	head, _, err := s.heads.Read(ctx, tenant, run)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, unreachable(err)
	}
	return RunView(spec, head, at), nil
}
