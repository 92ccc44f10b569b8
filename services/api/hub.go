package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// ringEvents is how many of a run's newest events its streams share in memory; who is further behind reads from the lease server.
const ringEvents = 1024

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
	ring    []lease.StreamEvent
	err     error
	view    *schemas.RunView
	changed chan struct{}
	stop    context.CancelFunc
}

// join returns the run's feed; leave must be called once.
func (h *hub) join(tenant, run string) *feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := tenant + "/" + run
	f := h.feeds[key]
	if f == nil {
		f = &feed{hub: h, tenant: tenant, run: run, changed: make(chan struct{})}
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
	if f.begun {
		return
	}
	f.begun, f.from = true, after
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	go f.follow(rctx, after)
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
			f.ring, f.err = append(f.ring, evs...), err
			if n := len(f.ring) - ringEvents; n > 0 {
				f.from = f.ring[n-1].ID
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
func (f *feed) tail(ctx context.Context, after string, limit int, d time.Duration) ([]lease.StreamEvent, error) {
	if d > 0 {
		f.begin(ctx, after)
	}
	deadline := time.Now().Add(d)
	for {
		f.mu.Lock()
		covered := f.begun && !idBefore(after, f.from)
		var evs []lease.StreamEvent
		if covered {
			i, _ := slices.BinarySearchFunc(f.ring, after, func(e lease.StreamEvent, id string) int {
				if idBefore(id, e.ID) {
					return 1
				}
				return -1 // the first that is after
			})
			evs = slices.Clone(f.ring[i:min(len(f.ring), i+limit)])
		}
		changed, err := f.changed, f.err
		f.mu.Unlock()
		if !covered {
			if evs, err = f.hub.live.Tail(ctx, f.tenant, f.run, after, limit, 0); err != nil {
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
