package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// workload keeps runs of the toy in the fleet: it submits as producers do, with a key and again until acknowledged, cancels a few, and
// follows all to their end.
type workload struct {
	f    *fleet
	seed uint64
	// open is how many runs are kept open.
	open int

	mu    sync.Mutex
	rng   *rand.Rand
	next  int
	live  map[string]*liveRun // tenant/run
	heads map[string]*schemas.Head
	// handing counts submissions and cancels under way. paused: nothing new is submitted.
	handing int
	paused  bool
	// problem is a reply that may never come.
	problem error
	wg      sync.WaitGroup
}

type liveRun struct {
	spec *schemas.RunSpec
	// tail is where the live stream was read to.
	tail string
}

func newWorkload(f *fleet, seed uint64, open int) *workload {
	return &workload{f: f, seed: seed, open: open, rng: rand.New(rand.NewPCG(seed, 0x3017)), live: map[string]*liveRun{}, heads: map[string]*schemas.Head{}} //nolint:gosec // the workload must be repeatable
}

// spec draws the next run. What is drawn depends on the seed and the run's number only.
func (w *workload) spec() (*schemas.RunSpec, *check.Expect, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, r := w.next, w.rng
	w.next++
	o := chaostest.Options{Steps: 30 + r.Int64N(120), CommitEvery: 5 + r.Int64N(10), StepDelayMS: 5 + r.IntN(20), World: 1 + r.IntN(2), Seed: w.seed + uint64(n), PrepParts: 1 + r.IntN(2)} //nolint:gosec // n counts up
	if n%4 == 1 {                                                                                                                                                                           // long enough to outlive a lapsed lease, and of one seat: who is frozen trains on alone
		o.Steps, o.StepDelayMS, o.World = 150+r.Int64N(50), 60+r.IntN(20), 1
	}
	if r.IntN(5) == 0 {
		o.EvalSlices = 1
	}
	if r.IntN(8) == 0 {
		o.Export = true
	}
	poison, cancel := r.IntN(25), r.IntN(7) == 0
	s := chaostest.Spec(o)
	s.Tenant = []string{"alpha", "beta-1"}[n%2]
	s.Key = fmt.Sprintf("chaos-%d-%d", w.seed, n)
	s.ID = schemas.RunID(s.Tenant, s.Key)
	e := &check.Expect{Outcomes: []string{check.OutcomeSucceeded}, Stage: "tune", Steps: o.Steps, Every: o.CommitEvery}
	switch {
	case poison == 0 && n > 3:
		s.Name = chaostest.PoisonPanic
	case poison == 1 && n > 3:
		s.Name = chaostest.PoisonExit
	case cancel:
		e.Outcomes = []string{check.OutcomeCancelled, check.OutcomeSucceeded}
		return s, e, true
	default:
		return s, e, false
	}
	e.Outcomes, e.Poison = []string{check.OutcomeFailed}, true
	return s, e, false
}

// run submits and follows until ctx ends.
func (w *workload) run(ctx context.Context) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	submitting := 0
	done := make(chan struct{}, 64)
	for {
		select {
		case <-ctx.Done():
			w.wg.Wait()
			return
		case <-done:
			submitting--
			continue
		case <-tick.C:
		}
		w.follow(ctx)
		w.mu.Lock()
		room := !w.paused && len(w.live)+submitting < w.open
		w.mu.Unlock()
		if room {
			submitting++
			w.wg.Go(func() { w.submit(ctx); done <- struct{}{} })
		}
	}
}

// submit hands one run in until it is acknowledged.
func (w *workload) submit(ctx context.Context) {
	w.mu.Lock()
	w.handing++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.handing--
		w.mu.Unlock()
	}()
	spec, expect, cancel := w.spec()
	hash, err := chaostest.Expected(spec)
	if err != nil {
		w.fail(err)
		return
	}
	expect.Hash = hash
	w.f.history.Add(check.Event{Kind: check.KindExpect, Tenant: spec.Tenant, Run: spec.ID, Expect: expect})
	if !w.hand(ctx, spec) {
		return
	}
	w.mu.Lock()
	w.live[spec.Tenant+"/"+spec.ID] = &liveRun{spec: spec}
	w.mu.Unlock()
	if w.chance(6) && !w.hand(ctx, spec) { // a producer that did not see the answer: the same run, once
		return
	}
	if cancel {
		w.cancel(ctx, spec)
	}
}

func (w *workload) chance(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n) == 0
}

// hand submits with the same key until the front answers.
func (w *workload) hand(ctx context.Context, spec *schemas.RunSpec) bool {
	in := *spec
	in.ID = ""
	raw, err := json.Marshal(&in)
	if err != nil {
		w.fail(fmt.Errorf("cannot encode a run: %w", err))
		return false
	}
	for ctx.Err() == nil {
		actx, cancel := context.WithTimeout(ctx, 5*time.Second)
		answer, err := w.f.client.Queue.Submit(actx, raw, nil)
		cancel()
		var reply schemas.SubmitReply
		if err == nil {
			err = json.Unmarshal(answer, &reply)
		}
		switch {
		case err == nil && reply.Error == nil && reply.Run == spec.ID:
			w.f.history.Add(check.Event{Kind: check.KindAccepted, Tenant: spec.Tenant, Run: spec.ID})
			return true
		case err == nil && reply.Error == nil:
			w.fail(fmt.Errorf("run %s was submitted, %s was acknowledged", spec.ID, reply.Run))
			return false
		case reply.Error != nil && reply.Error.Code != schemas.CodeUnavailable && reply.Error.Code != schemas.CodeInternal && reply.Error.Code != schemas.CodeDiskFull:
			w.fail(fmt.Errorf("the front refused a valid run: %w", reply.Error))
			return false
		}
		pause(ctx, 200*time.Millisecond)
	}
	return false
}

// cancel cancels a run after a moment; the acknowledgement is noted.
func (w *workload) cancel(ctx context.Context, spec *schemas.RunSpec) {
	w.mu.Lock()
	d := time.Duration(w.rng.Int64N(int64(4 * time.Second)))
	w.mu.Unlock()
	pause(ctx, d)
	service := control.NewService(w.f.client.Objects, w.f.client.Leases, w.f.client.Queue, nil)
	for ctx.Err() == nil {
		actx, cancel := context.WithTimeout(ctx, 10*time.Second)
		view, err := service.Cancel(actx, spec.Tenant, spec.ID, "by the chaos suite")
		cancel()
		if err == nil && view.State == schemas.RunCancelled {
			w.f.history.Add(check.Event{Kind: check.KindCancelled, Tenant: spec.Tenant, Run: spec.ID})
			return
		}
		if schemas.IsCode(err, schemas.CodeConflict) {
			return // it ended before
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// follow looks at every live run: its HEAD, and its live stream for steps.
func (w *workload) follow(ctx context.Context) {
	w.mu.Lock()
	runs := make(map[string]*liveRun, len(w.live))
	for k, r := range w.live {
		runs[k] = r
	}
	w.mu.Unlock()
	for name, r := range runs {
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		head, _, err := w.f.heads.Read(rctx, r.spec.Tenant, r.spec.ID)
		if err == nil {
			w.mu.Lock()
			w.heads[name] = head
			w.mu.Unlock()
		}
		w.steps(rctx, r)
		over := err == nil && head.State.Terminal() && w.closed(rctx, r.spec)
		cancel()
		if over {
			w.mu.Lock()
			delete(w.live, name)
			delete(w.heads, name)
			w.mu.Unlock()
		}
	}
}

// closed reports whether control has cleaned up after a run: its open object is the last thing to go.
func (w *workload) closed(ctx context.Context, s *schemas.RunSpec) bool {
	for _, err := range w.f.direct.Objects.List(ctx, schemas.OpenKey(s.Pool, s.Priority, s.Tenant, s.ID)) {
		_ = err
		return false
	}
	return ctx.Err() == nil
}

func (w *workload) steps(ctx context.Context, r *liveRun) {
	events, err := w.f.direct.Leases.Tail(ctx, r.spec.Tenant, r.spec.ID, r.tail, 500, time.Millisecond)
	if err != nil {
		return // the lease server is one of the faults
	}
	for _, e := range events {
		r.tail = e.ID
		if e.Event.Type == schemas.EventStep {
			w.f.history.Add(check.Event{At: max(1e-9, w.f.history.Seconds(madeAt(e.Event.At, time.Now()))), Kind: check.KindStep, Proc: e.Event.Worker, Tenant: r.spec.Tenant, Run: r.spec.ID, Stage: e.Event.Stage,
				Step: e.Event.Step, Generation: e.Event.Generation, Loss: e.Event.Values["loss"]})
		}
	}
}

// madeAt is when a step was made, by what its worker says, unless the worker's clock cannot be right: then it is when it was seen.
func madeAt(said, seen time.Time) time.Time {
	if d := seen.Sub(said); d > steadyClock || d < -steadyClock {
		return seen
	}
	return said
}

// steadyClock is how old a step may be when it is seen.
const steadyClock = 10 * time.Minute

func (w *workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == nil {
		w.problem = err
	}
}

// pauseSubmit stops or resumes new runs.
func (w *workload) pauseSubmit(stop bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = stop
}

// training lists live runs with a gang that has committed, in a fixed order.
func (w *workload) training() []*schemas.Head {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*schemas.Head
	for _, h := range w.heads {
		if h.State == schemas.RunRunning && len(h.Members) > 0 && h.Manifest != nil && !h.Manifest.Final {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *schemas.Head) int { return int(a.Created.Sub(b.Created)) })
	return out
}

// remaining is how long the run's train stage takes at least from its newest commit on.
func (w *workload) remaining(h *schemas.Head) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.live[h.Tenant+"/"+h.Run]
	if r == nil {
		return 0
	}
	st, err := r.spec.StageOf(h.Stage)
	if err != nil || st.Train == nil {
		return 0
	}
	return time.Duration(st.Train.Steps-h.Step) * time.Duration(st.Train.StepDelayMS) * time.Millisecond
}

// await waits for a training gang that ok accepts.
func (w *workload) await(ctx context.Context, limit time.Duration, ok func(*schemas.Head) bool) *schemas.Head {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		for _, h := range w.training() {
			if ok(h) {
				return h
			}
		}
	}
	return nil
}

// drained waits until every run has ended and was closed.
func (w *workload) drained(ctx context.Context, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		w.mu.Lock()
		n := len(w.live) + w.handing
		w.mu.Unlock()
		if n == 0 {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
