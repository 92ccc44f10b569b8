package train

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestIntervalCostsLeast: the interval is where the expected cost per second (checkpoints, and half an interval lost per loss) is lowest.
func TestIntervalCostsLeast(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c := &cadence{every: 50, auto: true, step: 0.01 + r.Float64(), stall: 0.001 + 5*r.Float64(), flight: 1e-6, life: 60 + 1e5*r.Float64()}
		n := float64(c.interval()) * c.step
		cost := func(seconds float64) float64 { return c.stall/seconds + seconds/2/c.life }
		for _, other := range []float64{n / 2, n * 2, n - 2*c.step, n + 2*c.step} {
			if other > 0 && cost(other) < cost(n) {
				t.Fatalf("%+v: an interval of %v s costs %v, one of %v s only %v", c, n, cost(n), other, cost(other))
			}
		}
		// One checkpoint is on its way at a time.
		c.flight = 10 * n
		if got := float64(c.interval()) * c.step; got < c.flight-1e-6 || got > c.flight+c.step+1e-6 {
			t.Fatalf("%+v: an interval of %v s, a checkpoint takes %v s", c, got, c.flight)
		}
	}
}

// TestSnapshotsLeadTheInterval: a snapshot is taken so early that its commit stands before a loss costs more than the interval.
func TestSnapshotsLeadTheInterval(t *testing.T) {
	for _, c := range []struct {
		cadence
		spacing int64
	}{
		{cadence{every: 20}, 15}, // nothing is known: a quarter
		{cadence{every: 20, auto: true, step: 1}, 15},
		{cadence{every: 1}, 1},
		{cadence{every: 2}, 1},
		{cadence{every: 500, step: 1, flight: 0.1}, 499}, // a commit within a step
		{cadence{every: 20, step: 0.25, flight: 0.45}, 17},
		{cadence{every: 500, step: 0.5, flight: 60}, 350},
		{cadence{every: 20, step: 0.1, flight: 60}, 1}, // the store is too slow: one after the other
		{cadence{every: 20, exact: true, step: 0.1, flight: 60}, 15},
	} {
		if got := c.plan(100) - 100; got != c.spacing {
			t.Errorf("%+v: the next snapshot comes after %d steps", c.cadence, got)
		}
	}
	c := cadence{every: 20, next: 37}
	if c.due(36, 20, 99) || !c.due(37, 20, 99) || !c.due(40, 20, 99) {
		t.Error("a snapshot is due from the step on that rank 0 named")
	}
	if c.due(38, 20, 40) || !c.due(38, 20, 41) {
		t.Error("no snapshot is due where the last step is no more than the interval away, else one is")
	}
	exact := cadence{every: 20, exact: true, next: 37}
	if exact.due(37, 30, 99) || !exact.due(45, 30, 99) {
		t.Error("where a rollback goes to depends on what was measured")
	}
	// What is known of a commit rises at once and falls slowly.
	c.observe(1)
	c.observe(3)
	c.observe(0)
	if c.flight != 3 {
		t.Errorf("a commit is taken to need %v s", c.flight)
	}
	if c.observe(1); c.flight <= 2 || c.flight >= 3 {
		t.Errorf("after a faster one: %v s", c.flight)
	}
}

// TestHoldingIsBounded: training is held for a bounded time at once, from the first steps on, and not again before a commit stands.
func TestHoldingIsBounded(t *testing.T) {
	stage := &schemas.TrainStage{CommitEvery: 20}
	c := newCadence(stage, nil, 2)
	if got := c.allowance(); got != holdMost {
		t.Errorf("before anything was trained: %s", got)
	}
	if c.waited(); c.allowance() != 0 {
		t.Error("training is held again while the store is away")
	}
	if c.observe(0.1); c.allowance() != holdMost {
		t.Errorf("when a commit stands again: %s", c.allowance())
	}
	auto := *stage
	auto.CommitAuto = true
	if got := newCadence(&auto, nil, 1).allowance(); got != 0 {
		t.Errorf("with a measured interval, which promises nothing: %s", got)
	}
}

// TestLossesShortenTheInterval: what the run has seen counts beside the prior, and a larger gang is hit more often.
func TestLossesShortenTheInterval(t *testing.T) {
	calm := meanLife(nil, 1)
	if calm != priorLife.Seconds() || meanLife(nil, 8) != calm/8 {
		t.Fatalf("mean life %v, of eight workers %v", calm, meanLife(nil, 8))
	}
	h := &schemas.Head{Time: schemas.TimeUse{Seconds: map[string]float64{schemas.TimeStep: 1e6}}}
	if got := meanLife(h, 1); got != calm+1e6 {
		t.Errorf("after 1e6 s without a loss: %v", got)
	}
	for range 100 {
		h.Ended = append(h.Ended, schemas.GenerationEnd{Cause: schemas.CauseInfrastructure}, schemas.GenerationEnd{Cause: schemas.CausePreempted})
	}
	if got := meanLife(h, 1); math.Abs(got-(calm+1e6)/101) > 1 {
		t.Errorf("after 100 losses in 1e6 s: %v", got)
	}
}

// TestMeasuredIntervalHasTheSameBits: committing when measurement says so changes no bit.
func TestMeasuredIntervalHasTheSameBits(t *testing.T) {
	want := newFleet(t, elasticStage("full")).complete("train", 1).StateHash
	stage := elasticStage("full")
	stage.Train.CommitAuto, stage.Train.CommitEvery = true, 2
	f := newFleet(t, stage)
	if m := f.play("train", []segment{{world: 3, kill: 5}, {world: 2, regroup: 6}, {world: 4}}); m.StateHash != want {
		t.Error("weights differ")
	}
}

// slowStore lets parts be stored only while it is open.
type slowStore struct {
	store.Objects
	gate   chan struct{}
	delay  time.Duration
	failed atomic.Int64
}

func (s *slowStore) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	select {
	case <-s.gate:
	default:
		s.failed.Add(1)
		return errors.Join(errors.New("away"), store.ErrUnavailable)
	}
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Objects.Upload(ctx, key, r, size)
}

// TestTrainingWaitsForNoStore: while the store is away steps go on, checkpoints that come due are left out, and nothing is lost when it is
// back.
func TestTrainingWaitsForNoStore(t *testing.T) {
	stage := elasticStage("full")
	stage.Train.Steps, stage.Train.CommitEvery, stage.Train.StepDelayMS = 60, 2, 5
	undisturbed := newFleet(t, stage)
	want := undisturbed.complete("train", 1).StateHash
	f := newFleet(t, stage)
	s := &slowStore{Objects: f.objects, gate: make(chan struct{}), delay: 40 * time.Millisecond}
	f.objects = s
	stop := make(chan struct{})
	go func() {
		// The store comes back when most of the steps are done.
		for {
			f.mu.Lock()
			n := int64(0)
			for _, e := range f.events {
				if e.Type == schemas.EventStep {
					n = max(n, e.Step)
				}
			}
			f.mu.Unlock()
			if n >= 30 {
				close(s.gate)
				close(stop)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if m := f.complete("train", 2); m.StateHash != want {
		t.Error("weights differ from those of the undisturbed run")
	}
	<-stop
	h := f.head()
	if s.failed.Load() == 0 {
		t.Fatal("the store was never away")
	}
	f.sameCurve(undisturbed.losses())
	// 30 steps went on while nothing could be stored: the checkpoints that came due then were left out.
	for ref := h.Manifest; ref != nil; {
		m, err := checkpoint.ReadManifest(t.Context(), f.objects, *ref)
		if err != nil {
			t.Fatal(err)
		}
		if m.Step > 4 && m.Step < 29 {
			t.Errorf("step %d was committed while the store was away", m.Step)
		}
		ref = m.Parent
	}
}

// countedStore needs lag steps to store a part, fewer at the end: time of the machine does not enter.
type countedStore struct {
	store.Objects
	steps      atomic.Int64
	lag, total int64
}

func (s *countedStore) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	until := min(s.steps.Load()+s.lag, s.total)
	for strings.Contains(key, "/ckpt/") && s.steps.Load() < until {
		select {
		case <-time.After(100 * time.Microsecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Objects.Upload(ctx, key, r, size)
}

// TestALossCostsAtMostTheInterval: whenever a rank is killed, no more than commit_every steps were made since the newest commit, though a
// commit needs some steps to come to stand.
func TestALossCostsAtMostTheInterval(t *testing.T) {
	stage := elasticStage("full")
	stage.Train.Steps, stage.Train.CommitEvery, stage.Train.StepDelayMS = 90, 20, 2
	undisturbed := newFleet(t, stage)
	want := undisturbed.complete("train", 1).StateHash
	for _, world := range []int{1, 3} {
		f := newFleet(t, stage)
		s := &countedStore{Objects: f.objects, total: 90, lag: 2}
		f.objects = s
		// What a kill right after this step would cost, and the step after which it would cost most.
		worst, at := int64(0), int64(0)
		f.seen = func(e schemas.Event) {
			if e.Type != schemas.EventStep {
				return
			}
			s.steps.Store(e.Step)
			head, _, err := f.heads.Read(context.WithoutCancel(t.Context()), "acme", "r1")
			if err != nil {
				t.Error(err)
				return
			}
			if lost := e.Step - head.Step; lost > worst {
				worst, at = lost, e.Step
			}
		}
		if m := f.complete("train", world); m.StateHash != want {
			t.Error("weights differ from those of the undisturbed run")
		}
		if worst > 20 || worst < 10 {
			t.Errorf("%d ranks: a kill after step %d costs %d steps, the interval is 20", world, at, worst)
		}
	}
	// The kill where a boundary at every 20th step would not be committed yet, and one after it.
	for _, kill := range []int64{21, 42} {
		f := newFleet(t, stage)
		s := &countedStore{Objects: f.objects, total: 90, lag: 2}
		f.objects = s
		made := map[int64]int{}
		f.seen = func(e schemas.Event) {
			if e.Type == schemas.EventStep {
				s.steps.Store(e.Step)
				made[e.Step]++
			}
		}
		if err := errors.Join(f.generation("train", plan{world: 2, killAt: kill, kill: 1})...); err == nil {
			t.Fatal("nothing was killed")
		}
		s.steps.Store(0)
		if m := f.complete("train", 2); m.StateHash != want {
			t.Error("weights differ from those of the undisturbed run")
		}
		f.sameCurve(undisturbed.losses())
		again := 0
		for step := int64(1); step <= 90; step++ {
			if made[step] == 0 {
				t.Errorf("step %d was not made", step)
			}
			again += made[step] - 1
		}
		if again > 20 {
			t.Errorf("killed after step %d: %d steps were made again, the interval is 20", kill, again)
		}
	}
}

// TestTrainingIsHeldForALateCommit: where one commit takes much longer than those before it, or each takes longer than the interval, training
// waits at the last step that may be lost, from its first steps on.
func TestTrainingIsHeldForALateCommit(t *testing.T) {
	stage := elasticStage("full")
	stage.Train.Steps, stage.Train.CommitEvery, stage.Train.StepDelayMS = 90, 20, 1
	for _, c := range []struct {
		late   time.Duration
		always bool
		waits  float64
	}{{300 * time.Millisecond, false, 0.1}, {120 * time.Millisecond, true, 0.2}} {
		f := newFleet(t, stage)
		f.objects = &lateStore{Objects: f.objects, late: c.late, always: c.always}
		worst := int64(0)
		f.seen = func(e schemas.Event) {
			if e.Type != schemas.EventStep {
				return
			}
			head, _, err := f.heads.Read(context.WithoutCancel(t.Context()), "acme", "r1")
			if err != nil {
				t.Error(err)
				return
			}
			worst = max(worst, e.Step-head.Step)
		}
		f.complete("train", 2)
		if worst != 20 {
			t.Errorf("always late: %v: a kill would have cost %d steps; training had to be held at the 20th", c.always, worst)
		}
		if waited := f.head().Time.Seconds[schemas.TimeCheckpoint]; waited < c.waits {
			t.Errorf("always late: %v: training waited for %v s only", c.always, waited)
		}
	}
}

// lateStore takes its time with the parts of the second checkpoint, or of every one.
type lateStore struct {
	store.Objects
	late    time.Duration
	always  bool
	uploads atomic.Int64
}

func (s *lateStore) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	if !strings.Contains(key, "/ckpt/") {
		return s.Objects.Upload(ctx, key, r, size)
	}
	if n := s.uploads.Add(1); s.always || n > 2 && n <= 4 { // of two ranks
		select {
		case <-time.After(s.late):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Objects.Upload(ctx, key, r, size)
}

// BenchmarkCheckpointStall trains 8.4 M parameters on one rank (100 MB a checkpoint: values and both moments) with a checkpoint every 10
// steps to a store as slow as a network disk (20 ms and 200 MB/s). stall-% is the share of the training time that steps wait for
// checkpoints; slowed-% how much longer the steps themselves take beside checkpoints on their way, on the same cores.
func BenchmarkCheckpointStall(b *testing.B) {
	seconds := func(every int64) (perStep, stall float64) {
		stage := toyStage("train", "full")
		stage.Train.Epochs, stage.Train.Steps, stage.Train.CommitEvery, stage.Train.MicroBatch = 0, 40, every, 8
		stage.Train.Model.Config = []byte(`{"architectures":["LlamaForCausalLM"],"vocab_size":97,"hidden_size":512,"intermediate_size":1024,"num_hidden_layers":4,
"num_attention_heads":8,"num_key_value_heads":4,"max_position_embeddings":64}`)
		f := newFleet(b, stage)
		f.objects = &pacedStore{Objects: f.objects, delay: 20 * time.Millisecond, rate: 200e6}
		for _, err := range f.generation("train", plan{world: 1, threads: runtime.NumCPU()}) {
			if err != nil {
				b.Fatal(err)
			}
		}
		spent := f.head().Time.Seconds
		return spent[schemas.TimeStep] / 40, spent[schemas.TimeCheckpoint] / (spent[schemas.TimeStep] + spent[schemas.TimeCheckpoint])
	}
	var alone, beside, stall float64
	for b.Loop() {
		alone, _ = seconds(1000)
		beside, stall = seconds(10)
	}
	b.ReportMetric(1000*beside, "ms/step")
	b.ReportMetric(100*stall, "stall-%")
	b.ReportMetric(100*(beside/alone-1), "slowed-%")
}

// pacedStore stores parts at a rate in bytes a second, after a delay.
type pacedStore struct {
	store.Objects
	delay time.Duration
	rate  float64
}

func (s *pacedStore) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	select {
	case <-time.After(s.delay + time.Duration(float64(size)/s.rate*float64(time.Second))):
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Objects.Upload(ctx, key, r, size)
}
