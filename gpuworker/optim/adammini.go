package optim

import (
	"math"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adamMini is https://arxiv.org/abs/2406.16793 as adam-mini computes it: one second moment a block, where a block is an attention head of
// a query or key matrix, a row of any other matrix, and a whole norm. Biases have Adam's moments.
type adamMini struct {
	Config
	host
}

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
	if idle(q) {
		return done(q)
	}
	for _, t := range stretches {
		n := o.blocks(t.Param)
		if n == 0 {
			n = t.Len
		}
		o.one(q, s, t, int(n))
	}
	return done(q)
}

func (o *adamMini) one(q *kernels.Queue, s Step, t Stretch, blocks int) {
	p, g, m, v := o.load(q, 0, t.P), o.load(q, 1, t.G), o.load(q, 2, t.State[0]), o.load(q, 3, t.State[1])
	lr := s.LR * t.LRScale
	b1c, b2, b2c := float32(1-o.Beta1), float32(o.Beta2), float32(1-o.Beta2)
	inv1 := 1 / (1 - math.Pow(o.Beta1, float64(s.N)))
	root2 := float32(math.Sqrt(1 - math.Pow(o.Beta2, float64(s.N))))
	decay, rate := float32(1-lr*t.Decay), float32(lr)
	size := len(p) / blocks
	for b := range blocks {
		p, g, m := p[b*size:(b+1)*size], g[b*size:(b+1)*size], m[b*size:(b+1)*size]
		var sum float64
		for i := range g {
			g[i] *= s.Clip
			sum += float64(float32(g[i] * g[i]))
		}
		v[b] = float32(v[b]*b2) + float32(float32(sum/float64(size))*b2c)
		h := sqrt32(v[b])/root2 + float32(o.Eps)
		step := float32(inv1) / h
		for i, x := range g {
			m[i] += float32(b1c * (x - m[i]))
			y := p[i] * decay
			p[i] = y - float32(float32(m[i]*step)*rate)
		}
	}
	o.store(q, t.P, p)
	o.store(q, t.State[0], m)
	o.store(q, t.State[1], v)
}
