package optim

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adamw is torch.optim.AdamW.
type adamw struct{ Config }

func (o *adamw) Whole(*autograd.Param) bool          { return false }
func (o *adamw) State(*autograd.Param) []StateTensor { return moments() }
func (o *adamw) Close()                              {}

func (o *adamw) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		o.one(q, s, t)
	}
	return done(q)
}

func (o *adamw) one(q *kernels.Queue, s Step, t Stretch) {
	clip := unclipped(q, &s, t)
	q.AdamW(kernels.AdamW{P: t.P, M: t.State[0], V: t.State[1], G: t.G, LR: s.LR * t.LRScale, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
		WeightDecay: t.Decay, Step: s.N, GradScale: clip})
}

// unclipped is the factor for kernels to which a scale of 0 means 1: gradients that are to vanish are cleared first.
func unclipped(q *kernels.Queue, s *Step, t Stretch) float32 {
	if s.Clip == 0 {
		q.Fill(kernels.Fill{Y: t.G})
		return 1
	}
	return s.Clip
}

// sgd is torch.optim.SGD with momentum (without dampening) and L2 decay.
type sgd struct{ Config }

func (o *sgd) Whole(*autograd.Param) bool { return false }
func (o *sgd) Close()                     {}

func (o *sgd) State(*autograd.Param) []StateTensor {
	if o.Momentum == 0 {
		return nil
	}
	return []StateTensor{{Name: "momentum", DType: kernels.F32, Block: 1}}
}

func (o *sgd) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		// The gradient's memory is scratch from here on: it is written anew in the next step.
		g := t.G
		q.Add(kernels.Add{A: g, B: t.P, Y: g, Alpha: s.Clip, Beta: float32(t.Decay)})
		if o.Momentum != 0 {
			b := t.State[0]
			keep := float32(o.Momentum)
			if s.N == 1 {
				keep = 0
			}
			q.Add(kernels.Add{A: b, B: g, Y: b, Alpha: keep, Beta: 1})
			if o.Nesterov {
				q.Add(kernels.Add{A: g, B: b, Y: g, Alpha: 1, Beta: float32(o.Momentum)})
			} else {
				g = b
			}
		}
		q.Add(kernels.Add{A: t.P, B: g, Y: t.P, Alpha: 1, Beta: float32(-s.LR * t.LRScale)})
	}
	return done(q)
}

// lion is https://arxiv.org/abs/2302.06675 as lion-pytorch computes it.
type lion struct{ Config }

func (o *lion) Whole(*autograd.Param) bool { return false }
func (o *lion) Close()                     {}

func (o *lion) State(*autograd.Param) []StateTensor {
	return []StateTensor{{Name: "lion_m", DType: kernels.F32, Block: 1}}
}

func (o *lion) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		clip := unclipped(q, &s, t)
		q.Lion(kernels.Lion{P: t.P, M: t.State[0], G: t.G, LR: s.LR * t.LRScale, Beta1: o.Beta1, Beta2: o.Beta2, WeightDecay: t.Decay, GradScale: clip})
	}
	return done(q)
}
