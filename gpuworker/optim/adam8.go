package optim

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adam8Least is the smallest parameter whose state is quantized (bitsandbytes).
const adam8Least = 4096

// adam8 is AdamW with moments in 8 bits (https://arxiv.org/abs/2110.02861, as bitsandbytes computes it): blocks of 256 elements are scaled
// by their largest magnitude and coded by a dynamic map. Blocks begin at each parameter's start and chunks are whole blocks, so shards
// quantize as the whole does.
type adam8 struct{ adamw }

func (o *adam8) State(p *autograd.Param) []StateTensor {
	if p.Len() < adam8Least {
		return moments()
	}
	return []StateTensor{
		{Name: "adam8_m", DType: kernels.U8, Block: 1}, {Name: "adam8_v", DType: kernels.U8, Block: 1},
		{Name: "adam8_m_absmax", DType: kernels.F32, Block: kernels.Adam8Block}, {Name: "adam8_v_absmax", DType: kernels.F32, Block: kernels.Adam8Block},
	}
}

func (o *adam8) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		if len(t.State) == 2 {
			o.one(q, s, t)
			continue
		}
		clip := unclipped(q, &s, t)
		q.AdamW8(kernels.AdamW8{P: t.P, G: t.G, MCodes: t.State[0], VCodes: t.State[1], MScales: t.State[2], VScales: t.State[3], LR: s.LR * t.LRScale,
			Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: t.Decay, Step: s.N, GradScale: clip})
	}
	return done(q)
}
