package train

import (
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// optimizerOf is the optimizer that a stage asks for.
func optimizerOf(t *schemas.TrainStage, info zoo.Info, seed uint64) optim.Config {
	s := t.Optim
	c := optim.Config{Name: s.Name, LR: s.LR, Beta1: s.Beta1, Beta2: s.Beta2, Eps: s.Eps, WeightDecay: s.WeightDecay, SkipDecay: s.DecayNoNorms,
		OwnNorms: s.DecayOwnNorms, HeadDim: int64(info.HeadDim), Seed: seed}
	if l := t.LoRA; l != nil {
		c.LoRAPlusRatio, c.LoRAPlusEmbeddingLR = l.PlusRatio, l.PlusEmbeddingLR
	}
	if o := s.Options; o != nil {
		c.Momentum, c.Nesterov = o.Momentum, o.Nesterov
		c.LowRank = optim.LowRankConfig{Rank: o.Rank, Every: o.Interval, Scale: o.Scale, Proj: o.ProjType, ScaleType: o.ScaleType, ScaleFront: o.ScaleFront, Targets: o.Targets,
			Torch: t.Init != nil, Layerwise: s.ByBlock}
		c.Blocks = optim.BlockConfig{Every: o.Interval, Mode: o.SwitchMode, Start: o.StartBlock}
		c.Adafactor = optim.AdafactorConfig{ScaleParameter: o.ScaleParameter, RelativeStep: o.RelativeStep, WarmupInit: o.WarmupInit, FirstMoment: o.FirstMoment,
			ClipThreshold: o.ClipThreshold, DecayRate: o.DecayRate}
		c.Muon = optim.MuonConfig{Iterations: o.Iterations, AdjustLR: o.AdjustLR, Moonlight: o.Moonlight}
	}
	return c
}

// scheduleOf is the learning-rate schedule of a stage of total steps.
func scheduleOf(s schemas.OptimSpec, total int64) optim.Schedule {
	c := optim.Schedule{Name: s.Schedule, Warmup: optim.WarmupSteps(s.WarmupSteps, s.WarmupRatio, total), Total: total, LR: s.LR}
	if s.ScheduleArgs != nil {
		c.Args = *s.ScheduleArgs
	}
	return c
}
