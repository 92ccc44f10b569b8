package optim

import (
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adamMini is https://arxiv.org/abs/2406.16793 as adam-mini computes it: one second moment a block, where a block is an attention head of
// a query or key matrix, a row of any other matrix, and a whole norm. Biases have Adam's moments.
type adamMini struct{ Config }

func (o *adamMini) Whole(*autograd.Param) bool { return true }
func (o *adamMini) Close()                     {}

// blocks is the number of blocks of a parameter; 0: every element is one.
func (o *adamMini) blocks(p *autograd.Param) int64 {
	if p.Role == autograd.RoleBias {
		return 0
	}
	if len(p.Shape) < 2 {
		return 1
	}
	rows := p.Shape[0]
	if h := o.HeadDim; h > 0 && rows%h == 0 {
		for _, n := range []string{"q_proj", "k_proj", ".wq.", ".wk.", "query.", "key."} {
			if strings.Contains(p.Name, n) {
				return rows / h
			}
		}
	}
	return rows
}

func (o *adamMini) State(p *autograd.Param) []StateTensor {
	n := o.blocks(p)
	if n == 0 {
		return moments()
	}
	return []StateTensor{{Name: "mini_m", DType: kernels.F32, Block: 1}, {Name: "mini_v", DType: kernels.F32, Shape: []int64{n}}}
}

func (o *adamMini) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		clip := unclipped(q, &s, t)
		q.AdamMini(kernels.AdamMini{P: t.P, M: t.State[0], G: t.G, V: t.State[1], LR: s.LR * t.LRScale, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps,
			WeightDecay: t.Decay, Step: s.N, GradScale: clip})
	}
	return done(q)
}
