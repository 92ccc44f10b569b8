package consume_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/queue/memq"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

const patience = 40 * time.Second

// fleet is control and workers over in-memory twins, with times short enough for a test.
type fleet struct {
	t       *testing.T
	objects *memstore.Store
	leases  *memlease.Store
	work    *memq.Queue
	heads   *checkpoint.Heads
	front   *control.Front
	logger  *slog.Logger
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	f := &fleet{t: t, objects: memstore.New(), leases: memlease.New(), work: memq.New(2 * time.Second), logger: logger}
	f.heads = checkpoint.NewHeads(f.objects, checkpoint.Config{})
	f.front = control.NewFront(f.objects, f.work, f.logger)
	ctl, err := control.New(f.objects, f.work, f.leases, control.Config{Interval: 20 * time.Millisecond, LedgerTTL: time.Second, EnsureEvery: time.Second,
		Limits: control.Limits{LeaseTTL: leaseTTL, Retry: 50 * time.Millisecond, Forming: 10 * time.Second, Republish: 200 * time.Millisecond, Grow: 200 * time.Millisecond}, Logger: f.logger.With("process", "control")})
	if err != nil {
		t.Fatal(err)
	}
	f.background("control", ctl.Run)
	return f
}

// leaseTTL is never waited for here: long enough that a loaded machine renews in time.
const leaseTTL = 1500 * time.Millisecond

// background runs fn until the returned stop is called or the test ends.
func (f *fleet) background(name string, fn func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil {
			f.t.Errorf("%s: %v", name, err)
		}
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			f.t.Errorf("%s does not stop", name)
		}
	}
	f.t.Cleanup(stop)
	return stop
}

// worker starts an agent; handlers default to the toy's.
func (f *fleet) worker(name string, handlers map[schemas.StageKind]consume.Handler, change func(*consume.Config)) (*consume.Goroutines, func()) {
	f.t.Helper()
	if handlers == nil {
		handlers = chaostest.Handlers()
	}
	cfg := consume.Config{Name: name, Pool: "cpu", Dir: f.t.TempDir(), LeaseTTL: leaseTTL, PullWait: 20 * time.Millisecond, FormPoll: 20 * time.Millisecond,
		WatchPoll: 100 * time.Millisecond, FormTimeout: 3 * time.Second, KillGrace: time.Second, DrainTimeout: 10 * time.Second, BlameGrace: 200 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	g := &consume.Goroutines{Handlers: handlers, Objects: f.objects}
	a, err := consume.NewInProcess(cfg, consume.Services{Work: f.work, Leases: f.leases, Objects: f.objects, Logger: f.logger}, g)
	if err != nil {
		f.t.Fatal(err)
	}
	return g, f.background("worker "+name, a.Run)
}

func (f *fleet) submit(spec *schemas.RunSpec) {
	f.t.Helper()
	reply, err := f.front.Accept(f.t.Context(), spec)
	if err != nil || reply.Error != nil {
		f.t.Fatalf("cannot submit: %v %+v", err, reply)
	}
	spec.ID = reply.Run
}

// until polls HEAD until cond holds.
func (f *fleet) until(spec *schemas.RunSpec, what string, cond func(h *schemas.Head) bool) *schemas.Head {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	var last *schemas.Head
	for time.Now().Before(deadline) {
		h, _, err := f.heads.Read(f.t.Context(), spec.Tenant, spec.ID)
		if err == nil {
			if last = h; cond(h) {
				return h
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Fatalf("no %s within %s; HEAD: %+v", what, patience, last)
	return nil
}

func (f *fleet) finish(spec *schemas.RunSpec, want schemas.RunState) *schemas.Head {
	f.t.Helper()
	h := f.until(spec, "end of the run", func(h *schemas.Head) bool { return h.State.Terminal() })
	if h.State != want {
		f.t.Fatalf("the run is %s, want %s: %s %v; ended %+v", h.State, want, h.Reason, h.Error, h.Ended)
	}
	return h
}

// lineage verifies the run's train stage and returns what is known of it.
func (f *fleet) lineage(spec *schemas.RunSpec, h *schemas.Head) chaostest.Lineage {
	f.t.Helper()
	l, err := chaostest.ReadLineage(f.t.Context(), f.objects, h, "tune")
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// drained checks that the workers have let go of everything: no message of the run is left.
func (f *fleet) drained(m schemas.Message) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		queued, err := f.work.Queued(f.t.Context(), schemas.WorkSubject(m))
		if err == nil && !queued {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("message %s is still queued (%v)", schemas.WorkSubject(m), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func undisturbed(t *testing.T, spec *schemas.RunSpec) string {
	t.Helper()
	h, err := chaostest.Expected(spec)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestGangTrainsToTheEnd(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 40, CommitEvery: 10})
	f.submit(spec)
	h := f.finish(spec, schemas.RunSucceeded)
	l := f.lineage(spec, h)
	if l.Hash != undisturbed(t, spec) || l.Steps != 40 || l.Commits != 4 || l.Generations != 1 {
		t.Fatalf("lineage %+v", l)
	}
}

func TestLostRankRepeatsOnlyTheSegment(t *testing.T) {
	f := newFleet(t)
	g, _ := f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 60, CommitEvery: 10, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "second commit", func(h *schemas.Head) bool { return h.Step >= 20 })
	g.KillNewest()
	h := f.finish(spec, schemas.RunSucceeded)
	l := f.lineage(spec, h)
	if l.Hash != undisturbed(t, spec) || l.Generations < 2 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	if !slices.ContainsFunc(h.Ended, func(e schemas.GenerationEnd) bool { return e.Cause == schemas.CauseInfrastructure }) {
		t.Errorf("no generation ended by infrastructure: %+v", h.Ended)
	}
}

func TestDrainGivesTheSeatBackWithoutLoss(t *testing.T) {
	f := newFleet(t)
	_, stopA := f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 80, CommitEvery: 1000, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "generation", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	f.awaitStep(spec, 10)
	f.worker("c", nil, nil)
	stopA()
	h := f.finish(spec, schemas.RunSucceeded)
	l := f.lineage(spec, h)
	if l.Hash != undisturbed(t, spec) || l.Commits != 2 || l.Generations != 2 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	if h.Ended[0].Cause != schemas.CausePreempted || h.Ended[0].Step == 0 {
		t.Errorf("the first generation ended as %+v, want preempted after a commit", h.Ended[0])
	}
}

// awaitStep waits for a step in the live stream.
func (f *fleet) awaitStep(spec *schemas.RunSpec, step int64) {
	f.t.Helper()
	after := ""
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		events, err := f.leases.Tail(f.t.Context(), spec.Tenant, spec.ID, after, 100, 100*time.Millisecond)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, e := range events {
			after = e.ID
			if e.Event.Type == schemas.EventStep && e.Event.Step >= step {
				return
			}
		}
	}
	f.t.Fatalf("no step %d in the live stream", step)
}

func TestCancelStopsTheGangAndClearsTheQueue(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 100_000, CommitEvery: 50, StepDelayMS: 2})
	f.submit(spec)
	h := f.until(spec, "generation", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	generation := h.Generation
	if _, err := f.heads.Swap(t.Context(), spec.Tenant, spec.ID, func(h *schemas.Head) error {
		h.State, h.Generation, h.Members = schemas.RunCancelled, h.Generation+1, nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.work.Poke(t.Context(), spec.Tenant, spec.ID)
	for _, s := range h.Seats {
		f.drained(schemas.Message{Kind: schemas.KindTrain, Pool: "cpu", Tenant: spec.Tenant, Run: spec.ID, Stage: "tune", Seat: s.Seat, Issue: s.Issue})
	}
	after := f.until(spec, "cancelled HEAD", func(h *schemas.Head) bool { return h.State == schemas.RunCancelled })
	if after.Manifest != nil && after.Manifest.Generation > generation {
		t.Errorf("a commit after the cancel: %+v", after.Manifest)
	}
	// The workers are free again.
	next := chaostest.Spec(chaostest.Options{Steps: 5, CommitEvery: 5})
	f.submit(next)
	f.finish(next, schemas.RunSucceeded)
}

func TestBadInputFailsTheRunAtOnce(t *testing.T) {
	f := newFleet(t)
	var attempts atomic.Int64
	handlers := chaostest.Handlers()
	handlers[schemas.KindTrain] = func(ctx context.Context, task *consume.Task) error {
		if task.Gang.Rank == 0 {
			attempts.Add(1)
		}
		if err := task.Gang.Collective.Barrier(ctx); err != nil {
			return err
		}
		return schemas.Errorf(schemas.CodeNumeric, "step 7", "the loss is NaN")
	}
	f.worker("a", handlers, nil)
	f.worker("b", handlers, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 10, CommitEvery: 5})
	f.submit(spec)
	h := f.finish(spec, schemas.RunFailed)
	if h.Error == nil || h.Error.Code != schemas.CodeNumeric || h.Error.Place != "step 7" {
		t.Fatalf("error %+v", h.Error)
	}
	if n := attempts.Load(); n != 1 {
		t.Errorf("%d attempts at input that cannot work", n)
	}
}

func TestFailuresInARowFailTheRun(t *testing.T) {
	f := newFleet(t)
	handlers := chaostest.Handlers()
	handlers[schemas.KindTrain] = func(ctx context.Context, task *consume.Task) error {
		if err := task.Gang.Collective.Barrier(ctx); err != nil {
			return err
		}
		return errors.New("a bug")
	}
	f.worker("a", handlers, nil)
	f.worker("b", handlers, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 10, CommitEvery: 5})
	f.submit(spec)
	h := f.finish(spec, schemas.RunFailed)
	if h.Error == nil || !strings.Contains(h.Error.Message, "a bug") {
		t.Fatalf("error %+v, ended %+v", h.Error, h.Ended)
	}
	// The seats were given back after each failure: nobody forms another generation before control has said so.
	if n := len(h.Ended); n != 3 || slices.ContainsFunc(h.Ended, func(e schemas.GenerationEnd) bool { return e.Cause != schemas.CauseApplication }) {
		t.Fatalf("%d attempts: %+v", n, h.Ended)
	}
}

func TestHungRankLosesItsGeneration(t *testing.T) {
	f := newFleet(t)
	handlers := chaostest.Handlers()
	var once sync.Once
	stopped := make(chan struct{})
	handlers[schemas.KindTrain] = func(ctx context.Context, task *consume.Task) error {
		hang := false
		if task.Gang.Rank == 1 {
			once.Do(func() { hang = true })
		}
		if hang {
			task.Phase(consume.PhaseStep, 1, 10)
			<-ctx.Done()
			close(stopped)
			return ctx.Err()
		}
		return chaostest.Toy(ctx, task)
	}
	limit := func(c *consume.Config) { c.Stall = map[string]time.Duration{consume.PhaseStep: 400 * time.Millisecond} }
	f.worker("a", handlers, limit)
	f.worker("b", handlers, limit)
	spec := chaostest.Spec(chaostest.Options{Steps: 20, CommitEvery: 10})
	f.submit(spec)
	h := f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) {
		t.Fatalf("lineage %+v", l)
	}
	if len(h.Ended) == 0 || h.Ended[0].Cause != schemas.CauseInfrastructure {
		t.Fatalf("ended %+v", h.Ended)
	}
	// The agent of the hung rank said so and took its seat from it, not its peer that waited for it.
	if e := h.Ended[0].Error; e == nil || e.Code != schemas.CodeTimeout || !strings.Contains(e.Message, `phase "step" did not advance`) {
		t.Errorf("the generation ended by %+v", e)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("the hung rank runs on")
	}
}

func TestLeaseServerLossCostsNoStep(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 300, CommitEvery: 50, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "first commit", func(h *schemas.Head) bool { return h.Step >= 50 })
	f.leases.Wipe()
	f.until(spec, "third commit", func(h *schemas.Head) bool { return h.Step >= 150 })
	f.leases.SetDown(true)
	f.until(spec, "fourth commit", func(h *schemas.Head) bool { return h.Step >= 200 })
	f.leases.SetDown(false)
	h := f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Generations != 1 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
}

func TestAllKindsOfStages(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 10, CommitEvery: 5, PrepParts: 4, EvalSlices: 3, Export: true})
	f.submit(spec)
	h := f.finish(spec, schemas.RunSucceeded)
	for _, st := range h.Stages {
		if st.State != schemas.StageSucceeded {
			t.Errorf("stage %s is %s", st.Name, st.State)
		}
	}
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) {
		t.Fatalf("lineage %+v", l)
	}
}

func TestFailedPartIsTriedAgain(t *testing.T) {
	f := newFleet(t)
	handlers := chaostest.Handlers()
	var first atomic.Bool
	handlers[schemas.KindPrep] = func(ctx context.Context, task *consume.Task) error {
		if task.Message.Part == 1 && first.CompareAndSwap(false, true) {
			return errors.New("a hiccup")
		}
		return chaostest.Part(ctx, task)
	}
	f.worker("a", handlers, nil)
	spec := chaostest.Spec(chaostest.Options{PrepParts: 3})
	f.submit(spec)
	h := f.finish(spec, schemas.RunSucceeded)
	if got := h.StageByName("prep").PartIssue(1); got != 2 {
		t.Errorf("part 1 is at issue %d, want 2", got)
	}
	key := schemas.FailureKey(spec.Tenant, spec.ID, "prep", 1, 1)
	if _, err := f.objects.Stat(t.Context(), key); err != nil {
		t.Errorf("no failure record: %v", err)
	}
}

func TestBadDataFailsThePartForGood(t *testing.T) {
	f := newFleet(t)
	handlers := chaostest.Handlers()
	handlers[schemas.KindPrep] = func(context.Context, *consume.Task) error {
		return fmt.Errorf("prep: %w", schemas.Errorf(schemas.CodeData, "clauses.jsonl:17", "broken JSON"))
	}
	f.worker("a", handlers, nil)
	spec := chaostest.Spec(chaostest.Options{PrepParts: 1})
	f.submit(spec)
	h := f.finish(spec, schemas.RunFailed)
	if h.Error == nil || h.Error.Code != schemas.CodeData || !strings.Contains(h.Error.Error(), "clauses.jsonl:17") {
		t.Fatalf("error %+v", h.Error)
	}
}

// careless is a store that ignores conditions, as some S3 servers do.
type careless struct{ *memstore.Store }

func (c careless) Put(ctx context.Context, key string, data []byte, _ store.Condition) (string, error) {
	return c.Store.Put(ctx, key, data, store.Condition{})
}

// away is a store that cannot be reached.
type away struct{ *memstore.Store }

func (away) Put(context.Context, string, []byte, store.Condition) (string, error) {
	return "", store.ErrUnavailable
}

func TestWorkerRefusesItsStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		objects store.Objects
		code    schemas.Code
	}{
		{"without conditional writes", careless{memstore.New()}, schemas.CodeStoreUnsafe},
		{"that cannot be reached", away{memstore.New()}, schemas.CodeUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := consume.NewInProcess(consume.Config{Pool: "cpu", Dir: t.TempDir(), StartTimeout: 100 * time.Millisecond}, consume.Services{Work: memq.New(0),
				Leases: memlease.New(), Objects: c.objects, Logger: slog.New(slog.DiscardHandler)}, &consume.Goroutines{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Run(t.Context()); !schemas.IsCode(err, c.code) || schemas.AsErrorInfo(err).Hint == "" {
				t.Fatalf("got %v, want %s with a hint", err, c.code)
			}
		})
	}
}

// TestBrokerAwayIsWaitedFor: a broker that is down at the start or in between costs time only.
func TestBrokerAwayIsWaitedFor(t *testing.T) {
	f := newFleet(t)
	f.work.SetDown(true)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 100, CommitEvery: 10, StepDelayMS: 5})
	f.submit(spec)
	f.work.SetDown(false)
	f.until(spec, "commit", func(h *schemas.Head) bool { return h.Step >= 20 })
	f.work.SetDown(true)
	f.until(spec, "last commit", func(h *schemas.Head) bool { return h.Step == 100 || h.State.Terminal() })
	f.work.SetDown(false)
	h := f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Generations != 1 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
}

// TestUnusableScratchFolderFailsThePart: a host that cannot work says so in the run, instead of trying for ever.
func TestUnusableScratchFolderFailsThePart(t *testing.T) {
	f := newFleet(t)
	dir := filepath.Join(t.TempDir(), "scratch")
	f.worker("a", nil, func(c *consume.Config) { c.Dir = dir })
	deadline := time.Now().Add(patience)
	for os.Remove(dir) != nil { // made when the worker starts
		if time.Now().After(deadline) {
			t.Fatal("the worker makes no scratch folder")
		}
		time.Sleep(time.Millisecond)
	}
	spec := chaostest.Spec(chaostest.Options{PrepParts: 1})
	f.submit(spec)
	h := f.finish(spec, schemas.RunFailed)
	if h.Error == nil || !strings.Contains(h.Error.Message, "cannot create a scratch folder") {
		t.Fatalf("error %+v", h.Error)
	}
}
