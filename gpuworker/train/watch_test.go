package train

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
)

func TestAnomaliesByHand(t *testing.T) {
	t.Parallel()
	w := &watch{}
	for i := range 19 {
		w.keep(1+float64(i%3)/10, 2+float64(i%5)/10)
	}
	if w.anomaly(100, 100) != "" {
		t.Error("an outlier of 19 steps: too few to tell")
	}
	w.keep(1, 2)
	// Norms 2, 2.1, ... 2.4: median 2.2, deviation 0.1. Losses 1, 1.1, 1.2: median 1.1, deviation 0.1.
	for _, c := range []struct {
		loss, norm float64
		want       string
	}{{1.1, 3.1, ""}, {1.1, 3.3, "gradient_outlier"}, {2.0, 2.2, ""}, {2.2, 2.2, "loss_spike"}, {math.NaN(), 1, "loss_not_finite"}, {1, math.Inf(1), "gradient_not_finite"}} {
		if got := w.anomaly(c.loss, c.norm); got != c.want {
			t.Errorf("loss %g and norm %g: %q, want %q", c.loss, c.norm, got, c.want)
		}
	}
	flat := &watch{}
	for range 30 {
		flat.keep(1, 1)
	}
	if flat.anomaly(1.5, 1.5) != "" {
		t.Error("without any deviation nothing is an outlier")
	}
	for range 100 {
		flat.keep(1, 1)
	}
	if len(flat.Losses) != watchWindow || len(flat.Norms) != watchWindow {
		t.Errorf("%d and %d are remembered", len(flat.Losses), len(flat.Norms))
	}
}

func TestEarlyStoppingCounts(t *testing.T) {
	t.Parallel()
	f := &schemas.TrainFeatures{EarlyStopping: 2, EarlyStoppingThreshold: 0.1}
	w := &watch{}
	var best []int64
	for i, loss := range []float64{3, 2, 1.95, 2.5} {
		if w.evaluated(int64(i+1), loss, f) {
			best = append(best, int64(i+1))
		}
	}
	// 1.95 is the best, but not by more than the threshold.
	if w.Stop != 4 || w.BestStep != 3 || !slices.Equal(best, []int64{1, 2, 3}) {
		t.Errorf("stopped at %d, best %d, bests %v", w.Stop, w.BestStep, best)
	}
}

// noisyData has one row in the middle of training that follows no rule and is long: a spike.
func noisyStage(policy string) schemas.Stage {
	s := toyStage("train", "full")
	s.Train.Epochs, s.Train.Steps, s.Train.CommitEvery = 0, 40, 6 // a stage that may roll back takes a snapshot every 4 steps then
	s.Train.MicroBatch, s.Train.Leaves, s.Train.World.Max = 2, 2, 2
	s.Train.Optim.LR, s.Train.Optim.Schedule = 0.003, "constant"
	s.Train.Order = &schemas.SampleOrder{Kind: "sequential"}
	s.Train.Features = &schemas.TrainFeatures{OnAnomaly: policy}
	return s
}

func noisy(t *testing.T, policy string) *fleet {
	f := newFleet(t, noisyStage(policy))
	d := newToyData(160, 5)
	for i := range d.rows {
		if i < 120 || i >= 124 {
			// The same rows again and again, so that losses hardly vary but for their fall.
			d.rows[i] = d.rows[i%4]
			continue
		}
		r := &d.rows[i]
		for k := range r.IDs {
			r.IDs[k] = int32((i*31 + k*k*17) % toyVocab)
			r.Labels[k] = r.IDs[k]
		}
	}
	f.rows = d
	return f
}

func (f *fleet) anomalies() []string {
	var out []string
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.Type == schemas.EventAnomaly {
			out = append(out, e.Message)
		}
	}
	return out
}

// A step whose data are out of line is an event, computed once more, and then kept, skipped or rolled back; whatever the policy, ranks and
// interruptions change nothing.
func TestAnomaliesFollowThePolicy(t *testing.T) {
	hashes := map[string]string{}
	for _, policy := range []string{"keep", "skip", "rollback"} {
		one := noisy(t, policy)
		hashes[policy] = one.complete("train", 1).StateHash
		seen := one.anomalies()
		if len(seen) == 0 || !strings.Contains(strings.Join(seen, " "), "same result; "+policy) {
			t.Errorf("%s: events %v", policy, seen)
		}
		if got := noisy(t, policy).complete("train", 2).StateHash; got != hashes[policy] {
			t.Errorf("%s: 2 ranks gave other weights", policy)
		}
		f := noisy(t, policy)
		if errs := f.generation("train", plan{world: 2, killAt: 33, kill: 1}); !errors.Is(errors.Join(errs...), collective.ErrPeerLost) {
			t.Fatalf("nothing was lost: %v", errs)
		}
		if got := f.complete("train", 1).StateHash; got != hashes[policy] {
			t.Errorf("%s: killed after step 33, weights differ", policy)
		}
	}
	if hashes["keep"] == hashes["skip"] || hashes["skip"] == hashes["rollback"] {
		t.Errorf("policies gave the same weights: %v", hashes)
	}
}

// Early stopping ends the stage, load_best makes the best evaluated weights its result, and both survive interruptions and other worlds.
func TestEarlyStoppingAndBestWeights(t *testing.T) {
	stage := func(f schemas.TrainFeatures) schemas.Stage {
		s := toyStage("train", "full")
		s.Train.Epochs, s.Train.Steps, s.Train.CommitEvery, s.Train.Eval = 0, 30, 3, "prep/eval"
		s.Train.Optim.LR, s.Train.Optim.Schedule = 0.05, "constant"
		f.EvalEvery = 2
		s.Train.Features = &f
		return s
	}
	stopped := stage(schemas.TrainFeatures{EarlyStopping: 2, LoadBest: true})
	one := newFleet(t, stopped)
	m := one.complete("train", 1)
	if m.Step >= 30 || m.Step%2 != 0 {
		t.Fatalf("stopped at step %d", m.Step)
	}
	plain := newFleet(t, stage(schemas.TrainFeatures{EarlyStopping: 2})).complete("train", 1)
	if plain.Step != m.Step || plain.StateHash == m.StateHash {
		t.Errorf("without load_best: step %d and the same weights %v", plain.Step, plain.StateHash == m.StateHash)
	}
	if got := newFleet(t, stopped).complete("train", 3); got.StateHash != m.StateHash || got.Step != m.Step {
		t.Errorf("3 ranks: step %d, weights equal %v", got.Step, got.StateHash == m.StateHash)
	}
	f := newFleet(t, stopped)
	if errs := f.generation("train", plan{world: 2, killAt: m.Step - 1, kill: 1}); !errors.Is(errors.Join(errs...), collective.ErrPeerLost) {
		t.Fatalf("nothing was lost: %v", errs)
	}
	if got := f.complete("train", 1); got.StateHash != m.StateHash || got.Step != m.Step {
		t.Errorf("killed after step %d: step %d, weights equal %v", m.Step-1, got.Step, got.StateHash == m.StateHash)
	}
}
