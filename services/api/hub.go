package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

// ringEvents is how many of a run's newest events its streams share in memory; who is further behind reads from the lease server.
const ringEvents = 1024

// segmentEvents is how many events of a run's segment logs are kept for those who join later.
const segmentEvents = 1 << 16

// entry is an event of a run's tail, in the form in which all its streams write it.
type entry struct {
	id    string
	event schemas.Event
	// frame is the event as SSE. Made once: a run with thousands of streams would make it thousands of times.
	frame func() ([]byte, error)
}

func entries(evs []lease.StreamEvent) []*entry {
	out := make([]*entry, len(evs))
	for i, e := range evs {
		out[i] = &entry{id: e.ID, event: e.Event, frame: sync.OnceValues(func() ([]byte, error) { return frame(e.ID, e.Event) })}
	}
	return out
}

// hub lets all streams of a run share one reader of the lease server and of HEAD: thousands of clients cost them what one does.
type hub struct {
	live lease.Progress
	runs Runs
	poll time.Duration

	mu    sync.Mutex
	feeds map[string]*feed
}

func newHub(live lease.Progress, runs Runs, poll time.Duration) *hub {
	return &hub{live: live, runs: runs, poll: poll, feeds: map[string]*feed{}}
}

// feed follows one run for as long as somebody streams it.
type feed struct {
	hub         *hub
	tenant, run string
	users       int // under the hub's lock

	mu sync.Mutex
	// begun: a reader follows the run, from the event after from on; ring is what it has read of late. err is of its newest look, view the run
	// before that look. changed is closed when any of it changes; stop ends the reader.
	begun   bool
	from    string
	ring    []*entry
	err     error
	view    *schemas.RunView
	changed chan struct{}
	stop    context.CancelFunc

	// segments are the segment logs, read once for all.
	segments checkpoint.Segments
	// heading is held while HEAD is read; known is what was read last, asked for at asked.
	heading sync.Mutex
	known   *schemas.Head
	asked   time.Time
	// opening is held while the tail is read from its start.
	opening sync.Mutex
}

// head reads HEAD, or takes what another stream has read since this one asked.
func (f *feed) head(ctx context.Context, objects store.Objects) (*schemas.Head, error) {
	since := time.Now()
	f.heading.Lock()
	defer f.heading.Unlock()
	if f.known != nil && f.asked.After(since) {
		return f.known, nil
	}
	at := time.Now()
	head, _, err := checkpoint.NewHeads(objects, checkpoint.Config{}).Read(ctx, f.tenant, f.run)
	if err == nil {
		f.known, f.asked = head, at
	}
	return head, err
}

// join returns the run's feed; leave must be called once.
func (h *hub) join(tenant, run string) *feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := tenant + "/" + run
	f := h.feeds[key]
	if f == nil {
		f = &feed{hub: h, tenant: tenant, run: run, changed: make(chan struct{}), segments: checkpoint.Segments{Limit: segmentEvents}}
		h.feeds[key] = f
	}
	f.users++
	return f
}

func (f *feed) leave() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	delete(f.hub.feeds, f.tenant+"/"+f.run)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop()
	}
}

// begin starts the reader after an event that a stream has caught up with.
func (f *feed) begin(ctx context.Context, after string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		f.from = after
		f.start(ctx, after)
	}
}

// start starts the reader; f.mu is held.
func (f *feed) start(ctx context.Context, after string) {
	f.begun = true
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	go f.follow(rctx, after)
}

// open reads the tail from its start. One that is short is kept: those who join next find it in memory.
func (f *feed) open(ctx context.Context, limit int) ([]*entry, error) {
	f.opening.Lock()
	defer f.opening.Unlock()
	f.mu.Lock()
	if f.begun && f.from == "" { // by who held the lock before
		defer f.mu.Unlock()
		return slices.Clone(f.ring[:min(len(f.ring), limit)]), nil
	}
	f.mu.Unlock()
	read, err := f.hub.live.Tail(ctx, f.tenant, f.run, "", eventBatch, 0)
	if err != nil {
		return nil, err
	}
	evs := entries(read)
	first := slices.Clone(evs[:min(len(evs), limit)])
	if len(evs) == eventBatch {
		return first, nil // there are more
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		last := ""
		if len(evs) > 0 {
			last = evs[len(evs)-1].id
		}
		f.ring = evs
		f.start(ctx, last)
	}
	return first, nil
}

func (f *feed) follow(ctx context.Context, after string) {
	for ctx.Err() == nil {
		// The state is read before the tail: whoever sees it sees all events that were told before.
		view, verr := f.hub.runs.Get(ctx, f.tenant, f.run)
		began := time.Now()
		for done := false; !done && ctx.Err() == nil; {
			left := f.hub.poll - time.Since(began)
			evs, err := f.hub.live.Tail(ctx, f.tenant, f.run, after, eventBatch, max(0, left))
			if len(evs) > 0 {
				after = evs[len(evs)-1].ID
			}
			// One look at HEAD in each poll, however many events come.
			done = err != nil || len(evs) == 0 || time.Since(began) >= f.hub.poll
			f.mu.Lock()
			f.ring, f.err = append(f.ring, entries(evs)...), err
			if n := len(f.ring) - ringEvents; n > 0 {
				f.from = f.ring[n-1].id
				f.ring = slices.Clone(f.ring[n:])
			}
			if verr == nil {
				f.view = view
			}
			close(f.changed)
			f.changed = make(chan struct{})
			f.mu.Unlock()
			if err != nil {
				wait(ctx, nil, f.hub.poll)
			}
		}
	}
}

// wait returns when ctx is done, something changed, or the time is over; the last as false.
func wait(ctx context.Context, changed <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
		return false
	}
	return true
}

// state is the run as the reader saw it, nil when there is none yet.
func (f *feed) state() *schemas.RunView {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}

// tail is lease.Progress.Tail: from memory what is there, from the lease server what is older. Who waits has caught up.
func (f *feed) tail(ctx context.Context, after string, limit int, d time.Duration) ([]*entry, error) {
	if d > 0 {
		f.begin(ctx, after)
	}
	deadline := time.Now().Add(d)
	for {
		f.mu.Lock()
		covered := f.begun && !idBefore(after, f.from)
		var evs []*entry
		if covered {
			i, _ := slices.BinarySearchFunc(f.ring, after, func(e *entry, id string) int {
				if idBefore(id, e.id) {
					return 1
				}
				return -1 // the first that is after
			})
			evs = slices.Clone(f.ring[i:min(len(f.ring), i+limit)])
		}
		changed, err := f.changed, f.err
		f.mu.Unlock()
		if !covered {
			if after == "" {
				evs, err = f.open(ctx, limit)
			} else {
				var older []lease.StreamEvent
				older, err = f.hub.live.Tail(ctx, f.tenant, f.run, after, limit, 0)
				evs = entries(older)
			}
			if err != nil {
				return nil, err
			}
		}
		left := time.Until(deadline)
		if len(evs) > 0 || left <= 0 {
			return evs, nil
		}
		if err != nil {
			return nil, err
		}
		if !wait(ctx, changed, left) {
			return nil, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}
