package oracle

import (
	"math"
	"slices"
)

// Adam8Block is the number of elements that share a scale.
const Adam8Block = 256

// AdamW8 is one step of AdamW with moments in 8 bits (https://arxiv.org/abs/2110.02861, as bitsandbytes computes it), in f32 where the
// operation is in f32, so that its codes can be held against these one by one. p, codes and scales are changed in place.
func AdamW8(p, g []float32, mc, vc []uint8, ms, vs []float32, lr, beta1, beta2, eps, decay float64, clip float32, step int) {
	signed, unsigned := DynamicMap(true), DynamicMap(false)
	b1, c1, b2, c2, e := float32(beta1), float32(1-beta1), float32(beta2), float32(1-beta2), float32(eps)
	keep := float32(1 - float64(lr*decay))
	size := float32(-lr / (1 - power(beta1, step)))
	bias2 := float32(math.Sqrt(1 - power(beta2, step)))
	var m, v [Adam8Block]float32
	for b := range ms {
		lo := b * Adam8Block
		hi := min(lo+Adam8Block, len(p))
		for i := lo; i < hi; i++ {
			gi := float32(g[i] * clip)
			mi := float32(float32(signed[mc[i]]*ms[b])*b1) + float32(gi*c1)
			vi := float32(float32(unsigned[vc[i]]*vs[b])*b2) + float32(float32(gi*gi)*c2)
			m[i-lo], v[i-lo] = mi, vi
			d := float32(float32(math.Sqrt(float64(vi)))/bias2) + e
			p[i] = float32(p[i]*keep) + float32(size*float32(mi/d))
		}
		ms[b] = quantize(signed[:], m[:hi-lo], mc[lo:hi])
		vs[b] = quantize(unsigned[:], v[:hi-lo], vc[lo:hi])
	}
}

// power is b to the n by squaring.
func power(b float64, n int) float64 {
	r := 1.0
	for ; n > 0; n /= 2 {
		if n&1 == 1 {
			r *= b
		}
		b *= b
	}
	return r
}

// quantize codes a block by the nearest entry of an ascending table, the lower of equals, and returns its scale, the largest magnitude.
func quantize(table, x []float32, codes []uint8) float32 {
	var most float32
	for _, v := range x {
		most = max(most, float32(math.Abs(float64(v))))
	}
	scale := float32(0)
	if most != 0 {
		scale = 1 / most
	}
	for i, v := range x {
		codes[i] = nearestCode(table, float32(v*scale))
	}
	return most
}

func nearestCode(table []float32, x float32) uint8 {
	best := 0
	for i, t := range table {
		if d := math.Abs(float64(t) - float64(x)); d < math.Abs(float64(table[best])-float64(x)) {
			best = i
		}
	}
	return uint8(best)
}

// DynamicMap is bitsandbytes' create_dynamic_map with 8 bits: a sign (when signed), a unary exponent of base 10, and the rest a linear
// fraction in [0.1, 1], of which the means of neighbours are taken. Arithmetic is float32 where torch's is.
func DynamicMap(signed bool) [256]float32 {
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

// Lion is one step of https://arxiv.org/abs/2302.06675 as lion-pytorch computes it, in f32. p and m are changed in place.
func Lion(p, g, m []float32, lr, beta1, beta2, decay float64, clip float32) {
	b1, c1, b2, c2 := float32(beta1), float32(1-beta1), float32(beta2), float32(1-beta2)
	keep, step := float32(1-float64(lr*decay)), float32(lr)
	for i := range p {
		gi := float32(g[i] * clip)
		u := float32(m[i]*b1) + float32(gi*c1)
		v := float32(p[i] * keep)
		switch {
		case u > 0:
			v -= step
		case u < 0:
			v += step
		}
		p[i] = v
		m[i] = float32(m[i]*b2) + float32(gi*c2)
	}
}
