package train

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
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
	for _, c := range []*cadence{{every: 7}, {every: 7, auto: true, step: 1}, {every: 7, stall: 1, step: 1, flight: 1, life: 1e6}} {
		if c.interval() != 7 || !c.due(14) || c.due(15) {
			t.Errorf("%+v: interval %d", c, c.interval())
		}
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
	commits := 0
	for ref := h.Manifest; ref != nil; commits++ {
		m, err := checkpoint.ReadManifest(t.Context(), f.objects, *ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = m.Parent
	}
	if commits > (60-28)/2 {
		t.Errorf("%d commits of 60 steps: none was left out", commits)
	}
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
