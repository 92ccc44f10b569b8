package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// prompts are rows without anything to train on.
func prompts(n int) *toyData {
	d := newToyData(n, 3)
	for _, r := range d.rows {
		for i := range r.Labels {
			r.Labels[i] = nn.IgnoreLabel
		}
	}
	return d
}

func rlStage(objective string, change func(t *schemas.TrainStage)) schemas.Stage {
	s := toyStage("train", "full")
	s.Train.Objective, s.Train.Sharding = objective, "auto"
	s.Train.Epochs, s.Train.Steps = 0, 12
	s.Train.MicroBatch, s.Train.Leaves, s.Train.World.Max = 2, 3, 3
	s.Train.Optim.LR, s.Train.Optim.Schedule, s.Train.Optim.WarmupSteps = 2e-2, "constant", 0
	s.Train.RL = &schemas.RL{RewardFunction: "token:5", MaxNewTokens: 1, Group: 8}
	if change != nil {
		change(s.Train)
	}
	spec := schemas.RunSpec{Stages: []schemas.Stage{s}}
	return spec.WithDefaults().Stages[0]
}

// values lists a value of every step of the newest lineage.
func (f *fleet) values(key string) []float64 {
	f.t.Helper()
	var out []float64
	for ref := f.head().Manifest; ref != nil; {
		m, err := checkpoint.ReadManifest(f.t.Context(), f.objects, *ref)
		if err != nil {
			f.t.Fatal(err)
		}
		raw, _, err := f.objects.Get(f.t.Context(), m.Log.Key, 1<<20)
		if err != nil {
			f.t.Fatal(err)
		}
		var seg []float64
		for line := range bytes.Lines(raw) {
			var e schemas.Event
			if err := json.Unmarshal(line, &e); err != nil {
				f.t.Fatal(err)
			}
			if v, ok := e.Values[key]; ok && e.Type == schemas.EventStep {
				seg = append(seg, v)
			}
		}
		out = append(seg, out...)
		ref = m.Parent
	}
	return out
}

// A bandit: one token of 97 is rewarded, so the best policy always says it. Both methods find it, from chance, by their own samples.
func TestReinforcementSolvesABandit(t *testing.T) {
	beta := 0.0
	for name, stage := range map[string]schemas.Stage{
		"grpo": rlStage("grpo", func(t *schemas.TrainStage) { t.Steps, t.RL.Group = 40, 32 }),
		"ppo":  rlStage("ppo", func(t *schemas.TrainStage) { t.Steps, t.MicroBatch, t.RL.Beta, t.RL.Epochs = 40, 16, &beta, 4 }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, stage)
			f.rows = prompts(96)
			f.complete("train", 1)
			r := f.values("reward")
			if len(r) != 40 || r[0] > 0.2 || r[39] < 0.95 {
				t.Errorf("rewards %v: from chance to nearly 1 was expected", r)
			}
		})
	}
}

// What is drawn and learned does not depend on the number of ranks, nor on a rank that was lost; adapters, several tokens, a divergence
// from the reference, all losses and scalings included.
func TestReinforcementOnAnyWorldAndResumed(t *testing.T) {
	beta := 0.1
	for name, stage := range map[string]schemas.Stage{
		"grpo dapo": rlStage("grpo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Group = 4, 3 }),
		"grpo dr_grpo": rlStage("grpo", func(t *schemas.TrainStage) {
			t.RL.Group, t.RL.LossType, t.RL.ScaleRewards, t.RL.Temperature = 3, "dr_grpo", "batch", 0.7
		}),
		"grpo twice": rlStage("grpo", func(t *schemas.TrainStage) {
			t.RL.MaxNewTokens, t.RL.Group, t.RL.LossType, t.RL.Epochs, t.RL.Beta, t.RL.StopIDs = 3, 2, "grpo", 2, &beta, []int32{1, 2, 3, 4, 5, 6, 7, 8, 9}
		}),
		"ppo": rlStage("ppo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Epochs, t.RL.Whiten = 3, 2, true }),
		"ppo lora": rlStage("ppo", func(t *schemas.TrainStage) {
			t.RL.MaxNewTokens, t.Method, t.LoRA, t.RL.StopIDs = 4, "lora", &schemas.LoRA{Rank: 4, Alpha: 8}, []int32{1, 2, 3, 4, 5, 6, 7, 8, 9}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage.Train.Steps = 4
			run := func() *fleet {
				f := newFleet(t, stage)
				f.rows = prompts(11)
				return f
			}
			want := run().complete("train", 1).StateHash
			for _, world := range []int{2, 3} {
				if got := run().complete("train", world).StateHash; got != want {
					t.Errorf("%d ranks: weights differ", world)
				}
			}
			f := run()
			if errs := f.generation("train", plan{world: 1, threads: 3}); errors.Join(errs...) != nil || f.manifest().StateHash != want {
				t.Errorf("3 threads: weights differ, %v", errs)
			}
			f = run()
			if errs := f.generation("train", plan{world: 2, killAt: 3, kill: 1}); !errors.Is(errors.Join(errs...), collective.ErrPeerLost) {
				t.Fatalf("nothing was lost: %v", errs)
			}
			if got := f.complete("train", 3).StateHash; got != want {
				t.Error("killed after step 3: weights differ")
			}
		})
	}
}

// A reward model trained by an rm stage of the run scores the completions.
func TestRewardModelScoresCompletions(t *testing.T) {
	rm := prefStage("rm", "lora", "")
	rm.Name = "rm"
	ppo := rlStage("ppo", func(t *schemas.TrainStage) {
		t.RL.RewardFunction, t.RL.RewardModel, t.RL.MaxNewTokens, t.Steps = "", "stage:rm", 3, 3
	})
	ppo.Needs = []string{"rm"}
	f := newFleet(t, rm, ppo)
	f.rows = newGroupedData(13, 5)
	f.complete("rm", 1)
	f.rows = prompts(12)
	f.complete("train", 2)
	r := f.values("reward")
	if len(r) != 3 || r[0] == 0 || r[0] == r[1] {
		t.Errorf("rewards %v", r)
	}
}

// A function of the caller's scores in place of the named one.
func TestRewardOfTheCaller(t *testing.T) {
	f := newFleet(t, rlStage("grpo", func(t *schemas.TrainStage) { t.Steps = 1 }))
	f.rows = prompts(12)
	seen := 0
	reward := func(_ context.Context, prompts, completions [][]int32) ([]float64, error) {
		seen += len(completions)
		return make([]float64, len(prompts)), nil
	}
	if errs := f.generation("train", plan{world: 1, opts: Options{Reward: reward}}); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	if seen != 6*8 {
		t.Errorf("%d completions were scored, want 48", seen)
	}
	if _, err := rewardFunction("beauty"); err == nil {
		t.Error("an unknown reward function was accepted")
	}
}
