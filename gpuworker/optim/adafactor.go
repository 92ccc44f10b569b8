package optim

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adafactor is https://arxiv.org/abs/1804.04235 as transformers.optimization.Adafactor computes it: the second moment of a matrix is kept
// as its row and column means. Means and norms are added in float64.
type adafactor struct{ Config }

func (o *adafactor) Whole(*autograd.Param) bool { return true }
func (o *adafactor) Close()                     {}

func (o *adafactor) State(p *autograd.Param) []StateTensor {
	var out []StateTensor
	if r := len(p.Shape); r >= 2 {
		rows, cols := p.Len()/p.Shape[r-1], p.Len()/p.Shape[r-2]
		out = append(out, StateTensor{Name: "adafactor_row", DType: kernels.F32, Shape: []int64{rows}},
			StateTensor{Name: "adafactor_col", DType: kernels.F32, Shape: []int64{cols}})
	} else {
		out = append(out, StateTensor{Name: "adafactor_v", DType: kernels.F32, Block: 1})
	}
	if o.Adafactor.FirstMoment {
		out = append(out, StateTensor{Name: "adafactor_m", DType: kernels.F32, Block: 1})
	}
	return out
}

func (o *adafactor) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	c := o.Adafactor
	for _, t := range stretches {
		clip := unclipped(q, &s, t)
		a := kernels.Adafactor{P: t.P, G: t.G, LR: o.rate(s, t), Beta1: o.Beta1, Beta2: 1 - math.Pow(float64(s.N), c.DecayRate), Eps1: c.Eps1, Eps2: c.Eps2,
			ClipThreshold: c.ClipThreshold, WeightDecay: t.Decay, GradScale: clip, ScaleParameter: kernels.Flag(c.ScaleParameter)}
		state := t.State
		if shape := t.Param.Shape; len(shape) >= 2 {
			a.P = t.P.Reshape(-1, shape[len(shape)-2], shape[len(shape)-1])
			a.Row, a.Col, state = state[0], state[1], state[2:]
		} else {
			a.V, state = state[0], state[1:]
		}
		if c.FirstMoment {
			a.M = state[0]
		}
		q.Adafactor(a)
	}
	return done(q)
}

// rate is the learning rate of a parameter, which is relative to the step where configured.
func (o *adafactor) rate(s Step, t Stretch) float64 {
	a, lr := o.Adafactor, s.LR*t.LRScale
	if a.RelativeStep {
		least := 1e-2
		if a.WarmupInit {
			least = 1e-6 * float64(s.N)
		}
		lr = min(least, 1/math.Sqrt(float64(s.N)))
	}
	return lr
}
