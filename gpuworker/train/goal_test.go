package train

import (
	"errors"
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
)

// groupedData are the rows of toyData two by two: chosen and rejected, or a row and the one that its divergence is estimated from.
type groupedData struct{ *toyData }

func (d groupedData) Group() int { return 2 }

// newGroupedData makes n pairs: the first of each follows the rule, the second (whose tokens are shuffled) does not.
func newGroupedData(n int, seed uint64) groupedData {
	good, bad := newToyData(n, seed), newToyData(n, seed+1)
	d := &toyData{}
	for i := range n {
		g, b := good.rows[i], bad.rows[i]
		for k := range b.IDs {
			b.IDs[k] = (b.IDs[k]*7 + int32(k*k)) % toyVocab
			if b.Labels[k] >= 0 {
				b.Labels[k] = b.IDs[k]
			}
		}
		g.Tag, b.Tag = int32(i%3), int32(i%3)
		d.rows = append(d.rows, g, b)
	}
	return groupedData{d}
}

// prefStage is a stage of an objective over groupedData.
func prefStage(objective, method, loss string) schemas.Stage {
	s := toyStage("train", method)
	s.Train.Objective = objective
	s.Train.Epochs, s.Train.Steps = 0, 6
	s.Train.MicroBatch, s.Train.Leaves, s.Train.World.Max = 1, 5, 4
	switch objective {
	case "dpo":
		s.Train.Pref = &schemas.Preference{Loss: loss}
	case "kto":
		s.Train.Pref = &schemas.Preference{}
	}
	spec := schemas.RunSpec{Stages: []schemas.Stage{s}}
	return spec.WithDefaults().Stages[0]
}

// cases are the objectives that work on pairs or marked rows.
func prefCases() map[string]schemas.Stage {
	out := map[string]schemas.Stage{
		"rm full": prefStage("rm", "full", ""), "rm lora": prefStage("rm", "lora", ""),
		"kto full": prefStage("kto", "full", ""), "kto lora": prefStage("kto", "lora", ""),
		"dpo full": prefStage("dpo", "full", "sigmoid"), "dpo full with more": prefStage("dpo", "full", "sigmoid"),
	}
	*out["dpo full with more"].Train.Pref = schemas.Preference{Loss: "sigmoid", Beta: 0.1, FTX: 0.2, LDAlpha: 0.9, LabelSmoothing: 0.1}
	for _, loss := range schemas.PrefLosses() {
		out["dpo lora "+loss] = prefStage("dpo", "lora", loss)
	}
	return out
}

func grouped(t *testing.T, stage schemas.Stage) *fleet {
	f := newFleet(t, stage)
	f.rows = newGroupedData(13, 5)
	return f
}

// Every preference objective learns, ends with the same bits on 1, 2 and 3 ranks, sharded or not, and a gang that loses a rank ends with
// the same bits as one that does not.
func TestPreferencesLearnOnAnyWorldAndResume(t *testing.T) {
	for name, stage := range prefCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := grouped(t, stage)
			want := one.complete("train", 1).StateHash
			losses := one.losses()
			if n := len(losses); n != 6 || !(losses[4] < losses[1]) { // the second steps of both epochs
				t.Fatalf("losses %v: 6 steps that learn were expected", losses)
			}
			for _, world := range []int{2, 3, 4} {
				f := grouped(t, stage)
				if m := f.complete("train", world); m.StateHash != want {
					t.Errorf("%d ranks: weights differ from those of one rank", world)
				}
				for i, l := range f.losses() {
					if l != losses[i] {
						t.Errorf("%d ranks: step %d has loss %v, on one rank %v", world, i+1, l, losses[i])
					}
				}
			}
			for threads := 2; threads <= 4; threads++ {
				f := grouped(t, stage)
				if errs := f.generation("train", plan{world: 1, threads: threads}); errors.Join(errs...) != nil {
					t.Fatal(errs)
				}
				if m := f.manifest(); m.StateHash != want {
					t.Errorf("%d threads: weights differ", threads)
				}
			}
			none := stage
			train := *stage.Train
			train.Sharding = "none"
			none.Train = &train
			if m := grouped(t, none).complete("train", 2); m.StateHash != want {
				t.Error("sharding none: weights differ")
			}
			for _, kill := range []int64{1, 4} {
				f := grouped(t, stage)
				for r, err := range f.generation("train", plan{world: 2, killAt: kill, kill: 1}) {
					if !errors.Is(err, collective.ErrPeerLost) {
						t.Fatalf("rank %d: %v, want a lost peer", r, err)
					}
				}
				if m := f.complete("train", 3); m.StateHash != want {
					t.Errorf("killed after step %d: weights differ", kill)
				}
			}
		})
	}
}

// A reference that is a model of its own, equal to the start, gives what the frozen copy of the start gives; another one does not.
func TestReferenceModel(t *testing.T) {
	stage := prefStage("dpo", "full", "sigmoid")
	want := grouped(t, stage).complete("train", 1).StateHash
	stage.Train.Pref.Reference = &schemas.ModelSpec{Config: []byte(toyConfig)}
	if got := grouped(t, stage).complete("train", 1).StateHash; got != want {
		t.Error("a second model equal to the start gave other weights")
	}
	first := toyStage("base", "full")
	stage.Train.Pref.Reference = &schemas.ModelSpec{From: "stage:base"}
	stage.Needs = []string{"base"}
	f := newFleet(t, first, stage)
	f.complete("base", 1)
	f.rows = newGroupedData(13, 5)
	if got := f.complete("train", 2).StateHash; got == want {
		t.Error("another reference gave the same weights")
	}
}

// Features of sft change what is learned, and still neither the world nor an interruption does.
func TestSFTFeatures(t *testing.T) {
	seen := map[string]string{}
	for name, f := range map[string]schemas.TrainFeatures{"plain": {}, "smoothing": {LabelSmoothing: 0.1}, "z": {ZLoss: 1e-2}, "dft": {DFT: true}} {
		stage := toyStage("train", "full")
		stage.Train.Features = &f
		one := newFleet(t, stage)
		want := one.complete("train", 1).StateHash
		if l := one.losses(); name != "dft" && !(l[7] < l[0]) {
			t.Errorf("%s: losses %v do not fall", name, l)
		}
		if got := newFleet(t, stage).complete("train", 3).StateHash; got != want {
			t.Errorf("%s: 3 ranks gave other weights", name)
		}
		for other, hash := range seen {
			if hash == want {
				t.Errorf("%s and %s gave the same weights", name, other)
			}
		}
		seen[name] = want
	}
	if seen["plain"] != newFleet(t, toyStage("train", "full")).complete("train", 1).StateHash {
		t.Error("no feature at all changes the weights")
	}
}

// Every optimizer ends with the same bits on several ranks and after a rank was lost.
func TestEveryOptimizerThroughTheHandler(t *testing.T) {
	for _, name := range schemas.Optimizers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage := toyStage("train", "full")
			stage.Train.Epochs, stage.Train.Steps = 0, 5
			stage.Train.Optim.Name = name
			stage.Train.Optim.Options = &schemas.OptimOptions{Rank: 4, Interval: 2}
			if name == "sgd" {
				stage.Train.Optim.Options.Momentum = 0.9
			}
			want := newFleet(t, stage).complete("train", 1).StateHash
			if got := newFleet(t, stage).complete("train", 3).StateHash; got != want {
				t.Error("3 ranks: weights differ")
			}
			for _, kill := range []int64{2, 3} {
				f := newFleet(t, stage)
				if errs := f.generation("train", plan{world: 2, killAt: kill, kill: 1}); errors.Join(errs...) == nil {
					t.Fatal("nothing was lost")
				}
				if got := f.complete("train", 2).StateHash; got != want {
					t.Errorf("killed after step %d: weights differ", kill)
				}
			}
		})
	}
}

// Data that were prepared for another objective are refused with a sentence that says so.
func TestDataOfAnotherFormAreRefused(t *testing.T) {
	f := newFleet(t, prefStage("dpo", "full", "sigmoid"))
	for _, err := range f.generation("train", plan{world: 1}) {
		if !schemas.IsCode(err, schemas.CodeData) {
			t.Errorf("got %v", err)
		}
	}
}

// TestLeafMeans: the loss is the sum of the leaves' own means, on any number of ranks.
func TestLeafMeans(t *testing.T) {
	stage := toyStage("train", "full")
	stage.Train.Steps, stage.Train.Epochs = 2, 0
	plain := newFleet(t, stage)
	plain.complete("train", 1)
	stage.Train.Features = &schemas.TrainFeatures{LeafMeans: true}
	f := newFleet(t, stage)
	want := f.complete("train", 1).StateHash
	leaves := float64(stage.Train.Leaves)
	if r := f.losses()[0] / plain.losses()[0]; math.Abs(r-leaves) > 0.1*leaves || r == leaves {
		t.Errorf("the first loss is %.4f times the mean over all labels, with %g leaves", r, leaves)
	}
	again := newFleet(t, stage)
	if got := again.complete("train", 3).StateHash; got != want {
		t.Error("three ranks end with other weights")
	}
}
