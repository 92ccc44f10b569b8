package zoo

import "math"

// alibiSlopes are the slopes of https://arxiv.org/abs/2108.12409 as BLOOM orders them: powers for the greatest power of two of heads,
// then every other power of twice as many.
func alibiSlopes(heads int) []float32 {
	n := 1
	for 2*n <= heads {
		n *= 2
	}
	base := func(n int) float64 { return float64(float32(math.Exp2(-math.Exp2(-(math.Log2(float64(n)) - 3))))) }
	out := make([]float32, 0, heads)
	for i := range n {
		out = append(out, float32(math.Pow(base(n), float64(i+1))))
	}
	for i := 0; len(out) < heads; i++ {
		out = append(out, float32(math.Pow(base(2*n), float64(2*i+1))))
	}
	return out
}

// mptSlopes are MPT's: powers for the least power of two not below heads, every other one first.
func mptSlopes(heads int) []float32 {
	n := 1
	for n < heads {
		n *= 2
	}
	const most = 8
	slope := func(i int) float32 { return float32(1 / math.Exp2(float64(i+1)*most/float64(n))) }
	out := make([]float32, 0, heads)
	if n == heads {
		for i := range n {
			out = append(out, slope(i))
		}
		return out
	}
	for i := 1; i < n && len(out) < heads; i += 2 {
		out = append(out, slope(i))
	}
	for i := 0; len(out) < heads; i += 2 {
		out = append(out, slope(i))
	}
	return out
}

// roundBF16 rounds to the nearest bfloat16, ties to even.
func roundBF16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}
