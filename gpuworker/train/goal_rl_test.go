package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
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

// sharded is a copy of a stage whose ranks share the parameters, and gather them for generation in that way; "" leaves them whole.
func sharded(s schemas.Stage, gather string) schemas.Stage {
	train, rl := *s.Train, *s.Train.RL
	if gather != "" {
		train.Sharding, rl.Gather = "zero3", gather
	}
	train.RL = &rl
	s.Train = &train
	return s
}

// A bandit: one token of 97 is rewarded, so the best policy always says it. Both methods find it, from chance, by their own samples; two ranks
// that share the parameters do the same, bit for bit.
func TestReinforcementSolvesABandit(t *testing.T) {
	beta := 0.0
	for name, stage := range map[string]schemas.Stage{
		"grpo": rlStage("grpo", func(t *schemas.TrainStage) { t.Steps, t.RL.Group = 40, 32 }),
		"ppo":  rlStage("ppo", func(t *schemas.TrainStage) { t.Steps, t.MicroBatch, t.RL.Beta, t.RL.Epochs = 40, 16, &beta, 4 }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hashes := map[string]bool{}
			for _, how := range []struct {
				gather string
				world  int
			}{{"", 1}, {gatherBlock, 2}, {gatherModel, 2}} {
				f := newFleet(t, sharded(stage, how.gather))
				f.rows = prompts(96)
				hashes[f.complete("train", how.world).StateHash] = true
				r := f.values("reward")
				if len(r) != 40 || r[0] > 0.2 || r[39] < 0.95 {
					t.Errorf("%d ranks, gather %q: rewards %v: from chance to nearly 1 was expected", how.world, how.gather, r)
				}
			}
			if len(hashes) != 1 {
				t.Errorf("%d different weights", len(hashes))
			}
		})
	}
}

func rlCases() map[string]schemas.Stage {
	beta := 0.1
	stops := []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29}
	return map[string]schemas.Stage{
		"grpo dapo": rlStage("grpo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Group = 4, 3 }),
		"grpo dr_grpo": rlStage("grpo", func(t *schemas.TrainStage) {
			t.RL.Group, t.RL.LossType, t.RL.ScaleRewards, t.RL.Temperature = 3, "dr_grpo", "batch", 0.7
		}),
		"grpo twice": rlStage("grpo", func(t *schemas.TrainStage) {
			t.RL.MaxNewTokens, t.RL.Group, t.RL.LossType, t.RL.Epochs, t.RL.Beta, t.RL.StopIDs = 3, 2, "grpo", 2, &beta, stops[:9]
		}),
		"grpo ends early": rlStage("grpo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Group, t.RL.StopIDs = 6, 2, stops }),
		"ppo":             rlStage("ppo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Epochs, t.RL.Whiten = 3, 2, true }),
		"ppo lora": rlStage("ppo", func(t *schemas.TrainStage) {
			t.RL.MaxNewTokens, t.Method, t.LoRA, t.RL.StopIDs = 4, "lora", &schemas.LoRA{Rank: 4, Alpha: 8}, stops[:9]
		}),
		"ppo recomputed": rlStage("ppo", func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.Recompute = 2, "on" }),
	}
}

// What is drawn and learned does not depend on the number of ranks, on whether they share the parameters and how they gather them, nor on a rank
// that was lost; adapters, several tokens, a divergence from the reference, all losses and scalings included. Of the three leaves of a step
// four ranks have one too few, two one too many.
func TestReinforcementOnAnyWorldAndResumed(t *testing.T) {
	for name, stage := range rlCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage.Train.Steps = 4
			run := func(gather string) *fleet {
				f := newFleet(t, sharded(stage, gather))
				f.rows = prompts(11)
				return f
			}
			want := run("").complete("train", 1).StateHash
			for _, gather := range []string{"", gatherAuto, gatherModel, gatherBlock} {
				for _, world := range []int{2, 3, 4} {
					if got := run(gather).complete("train", world).StateHash; got != want {
						t.Errorf("%d ranks, gather %q: weights differ", world, gather)
					}
				}
			}
			f := run("")
			if errs := f.generation("train", plan{world: 1, threads: 3}); errors.Join(errs...) != nil || f.manifest().StateHash != want {
				t.Errorf("3 threads: weights differ, %v", errs)
			}
			for i, gather := range []string{"", gatherModel, gatherBlock} {
				f = run(gather)
				for kill := int64(1); kill < 4; kill++ {
					p := plan{world: 2 + int(kill+int64(i))%3, killAt: kill, kill: 1}
					if errs := f.generation("train", p); !errors.Is(errors.Join(errs...), collective.ErrPeerLost) {
						t.Fatalf("gather %q: nothing was lost after step %d: %v", gather, kill, errs)
					}
				}
				if got := f.complete("train", 3).StateHash; got != want {
					t.Errorf("gather %q: killed after every step: weights differ", gather)
				}
			}
		})
	}
}

// A reward model trained by an rm stage of the run scores the completions; it and the frozen copy are shared by the ranks as the policy is.
func TestRewardModelScoresCompletions(t *testing.T) {
	for _, method := range []string{"lora", "full"} {
		for _, objective := range []string{"ppo", "grpo"} {
			t.Run(objective+" after rm "+method, func(t *testing.T) {
				t.Parallel()
				hashes := map[string]bool{}
				for _, how := range []struct {
					gather string
					world  int
				}{{"", 1}, {"", 2}, {gatherBlock, 2}, {gatherModel, 3}, {gatherBlock, 4}} {
					rm := prefStage("rm", method, "")
					rm.Name = "rm"
					next := rlStage(objective, func(t *schemas.TrainStage) {
						t.RL.RewardFunction, t.RL.RewardModel, t.RL.MaxNewTokens, t.Steps, t.RL.Group = "", "stage:rm", 3, 3, 2
					})
					next.Needs = []string{"rm"}
					f := newFleet(t, rm, sharded(next, how.gather))
					f.rows = newGroupedData(13, 5)
					f.complete("rm", 1)
					f.rows = prompts(12)
					hashes[f.complete("train", how.world).StateHash] = true
					if log := f.log.String(); how.gather != "" && (!strings.Contains(log, "reward model is laid out\" sharding=zero3") || strings.Contains(log, "sharding=none")) {
						t.Errorf("%d ranks, gather %q: something is whole on every rank", how.world, how.gather)
					}
					r := f.values("reward")
					if len(r) != 3 || r[0] == 0 || r[0] == r[1] {
						t.Errorf("%d ranks, gather %q: rewards %v", how.world, how.gather, r)
					}
				}
				if len(hashes) != 1 {
					t.Errorf("%d different weights", len(hashes))
				}
			})
		}
	}
}
