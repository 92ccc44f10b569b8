package train

import (
	"errors"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
)

// matrixStages are one stage of each method and one of each objective, by name, and the rows that they train on.
func matrixStages() (stages map[string]schemas.Stage, rows map[string]func(*fleet)) {
	all, pairs := methodStages(), prefCases()
	stages, rows = map[string]schemas.Stage{"full": toyStage("train", "full"), "lora": toyStage("train", "lora")}, map[string]func(*fleet){}
	for _, name := range []string{"rslora", "dora with dropout", "lora+", "pissa", "oft", "houlsby", "pfeiffer", "freeze last", "freeze first, one module", "llama pro",
		"modules to save, tied", "qlora nf4", "qlora int8, dora", "full, pure"} {
		stages[name] = all[name]
	}
	pt := toyStage("train", "full")
	pt.Train.Objective = "pt"
	stages["pt"] = pt
	for _, name := range []string{"rm full", "kto full", "dpo full", "dpo lora sigmoid", "dpo lora orpo"} {
		stages[name], rows[name] = pairs[name], func(f *fleet) { f.rows = newGroupedData(13, 5) }
	}
	for _, objective := range []string{"ppo", "grpo"} {
		stages[objective] = rlStage(objective, func(t *schemas.TrainStage) { t.RL.MaxNewTokens, t.RL.Group = 2, 2; t.Sharding = "zero3" })
		rows[objective] = func(f *fleet) { f.rows = prompts(11) }
	}
	return stages, rows
}

// Every method and objective with every optimizer: a gang that loses a rank after each step in turn, and goes on each time with another
// number of ranks, ends with the bits of one that was left alone.
func TestEveryMethodWithEveryOptimizerResumes(t *testing.T) {
	const steps = 4
	stages, rows := matrixStages()
	for name, base := range stages {
		for _, optimizer := range schemas.Optimizers() {
			t.Run(name+"/"+optimizer, func(t *testing.T) {
				t.Parallel()
				stage, train := base, *base.Train
				train.Epochs, train.Steps, train.CommitEvery = 0, steps, 1
				train.Optim.Name, train.Optim.Options = optimizer, &schemas.OptimOptions{Rank: 2, Interval: 2}
				stage.Train = &train
				start := func() *fleet {
					f := newFleet(t, stage)
					if set := rows[name]; set != nil {
						set(f)
					}
					return f
				}
				whole := start()
				want, losses := whole.complete("train", 1).StateHash, whole.losses()
				f := start()
				for kill := int64(1); kill < steps; kill++ {
					for r, err := range f.generation("train", plan{world: 2 + int(kill)%2, killAt: kill, kill: 1}) {
						if !errors.Is(err, collective.ErrPeerLost) {
							t.Fatalf("killed after step %d: rank %d: %v, want a lost peer", kill, r, err)
						}
					}
				}
				if got := f.complete("train", 1).StateHash; got != want || want == "" {
					t.Errorf("weights have hash %q, those of the undisturbed run %q", got, want)
				}
				f.sameCurve(losses)
			})
		}
	}
}
