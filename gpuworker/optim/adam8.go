package optim

import (
	"math"
	"slices"
	"sort"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

const (
	// adam8Block is the number of elements that share a scale, adam8Least the smallest parameter whose state is quantized (bitsandbytes).
	adam8Block = 256
	adam8Least = 4096
)

// adam8 is AdamW with moments in 8 bits (https://arxiv.org/abs/2110.02861, as bitsandbytes computes it): blocks of 256 elements are scaled
// by their largest magnitude and coded by a dynamic map. Blocks begin at each parameter's start and chunks are whole blocks, so shards
// quantize as the whole does.
type adam8 struct {
	adamw
	host
	signed, unsigned [256]float32
}

func newAdam8(c Config) *adam8 {
	return &adam8{adamw: adamw{c}, signed: dynamicMap(true), unsigned: dynamicMap(false)}
}

func (o *adam8) State(p *autograd.Param) []StateTensor {
	if p.Len() < adam8Least {
		return moments()
	}
	return []StateTensor{
		{Name: "adam8_m", DType: kernels.U8, Block: 1}, {Name: "adam8_v", DType: kernels.U8, Block: 1},
		{Name: "adam8_m_absmax", DType: kernels.F32, Block: adam8Block}, {Name: "adam8_v_absmax", DType: kernels.F32, Block: adam8Block},
	}
}

func (o *adam8) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	for _, t := range stretches {
		switch {
		case len(t.State) == 2:
			o.one(q, s, t)
		case !idle(q):
			o.quantized(q, s, t)
		}
	}
	return done(q)
}

func (o *adam8) quantized(q *kernels.Queue, s Step, t Stretch) {
	p, g := o.load(q, 0, t.P), o.load(q, 1, t.G)
	am, av := o.load(q, 2, t.State[2]), o.load(q, 3, t.State[3])
	cm, cv := o.loadCodes(q, 0, t.State[0]), o.loadCodes(q, 1, t.State[1])
	lr := s.LR * t.LRScale
	b1, c1, b2, c2, eps := float32(o.Beta1), float32(1-o.Beta1), float32(o.Beta2), float32(1-o.Beta2), float32(o.Eps)
	decay := float32(1 - lr*t.Decay)
	step := float32(-lr / (1 - math.Pow(o.Beta1, float64(s.N))))
	bias2 := float32(math.Sqrt(1 - math.Pow(o.Beta2, float64(s.N))))
	var m, v [adam8Block]float32
	for b := range am {
		lo := b * adam8Block
		hi := min(lo+adam8Block, len(p))
		for i := lo; i < hi; i++ {
			gi := g[i] * s.Clip
			// Codes are zero before the first step, and the scale too: the moment is zero whatever the code says.
			mi := float32(float32(o.signed[cm[i]]*am[b])*b1) + float32(gi*c1)
			vi := float32(float32(o.unsigned[cv[i]]*av[b])*b2) + float32(float32(gi*gi)*c2)
			m[i-lo], v[i-lo] = mi, vi
			d := sqrt32(vi)/bias2 + eps
			x := p[i] * decay
			p[i] = x + float32(step*float32(mi/d))
		}
		am[b] = quantize(o.signed[:], m[:hi-lo], cm[lo:hi])
		av[b] = quantize(o.unsigned[:], v[:hi-lo], cv[lo:hi])
	}
	o.store(q, t.P, p)
	o.store(q, t.State[2], am)
	o.store(q, t.State[3], av)
	o.storeCodes(q, t.State[0], cm)
	o.storeCodes(q, t.State[1], cv)
}

// quantize codes a block by the nearest entry of an ascending table, the lower of equals, and returns its scale.
func quantize(table, x []float32, codes []uint8) float32 {
	var most float32
	for _, v := range x {
		most = max(most, float32(math.Abs(float64(v))))
	}
	if most == 0 {
		zero := uint8(nearestCode(table, 0))
		for i := range codes {
			codes[i] = zero
		}
		return 0
	}
	scale := 1 / most
	for i, v := range x {
		codes[i] = uint8(nearestCode(table, v*scale))
	}
	return most
}

func nearestCode(table []float32, x float32) int {
	i := sort.Search(len(table), func(i int) bool { return table[i] > x }) // table[i-1] <= x < table[i]
	switch {
	case i == 0:
		return 0
	case i == len(table):
		return i - 1
	case table[i]-x < x-table[i-1]:
		return i
	}
	return i - 1
}

// dynamicMap is bitsandbytes' create_dynamic_map with 8 bits: a sign (when signed), a unary exponent of base 10, and the rest a linear
// fraction in [0.1, 1], of which the means of neighbours are taken. Arithmetic is float32 where torch's is.
func dynamicMap(signed bool) [256]float32 {
	const exponents = 7
	data := []float32{0, 1}
	for i := range exponents {
		n := 1<<i + 1
		if !signed {
			n = 1<<(i+1) + 1
		}
		power := float32(math.Pow(10, float64(i-exponents+1)))
		bounds := linspace(0.1, 1, n)
		for k := range n - 1 {
			mean := float32(float32(bounds[k]+bounds[k+1])/2) * power
			data = append(data, mean)
			if signed {
				data = append(data, -mean)
			}
		}
	}
	slices.Sort(data)
	var out [256]float32
	copy(out[:], data)
	return out
}

// linspace is torch.linspace in float32: the second half is counted from the end, products are fused.
func linspace(from, to float32, n int) []float32 {
	out := make([]float32, n)
	step := (to - from) / float32(n-1)
	for i := range out {
		if i < n/2 {
			out[i] = float32(float64(from) + float64(step)*float64(i))
		} else {
			out[i] = float32(float64(to) - float64(step)*float64(n-1-i))
		}
	}
	return out
}
