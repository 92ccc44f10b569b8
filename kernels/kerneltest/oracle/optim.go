package oracle

import "math"

// AdamW applies one step in torch's order: decay first, then moments, then the bias-corrected update with eps added after the square root
// of v/bias2 (Loshchilov and Hutter 2019; torch.optim.AdamW). g is multiplied by clip first. p, m and v are changed in place.
func AdamW(p, g, m, v []float64, lr, beta1, beta2, eps, decay, clip float64, step int) {
	b1, b2 := 1-math.Pow(beta1, float64(step)), 1-math.Pow(beta2, float64(step))
	for i := range p {
		gi := g[i] * clip
		p[i] *= 1 - lr*decay
		m[i] += (1 - beta1) * (gi - m[i])
		v[i] = beta2*v[i] + (1-beta2)*gi*gi
		p[i] -= lr / b1 * m[i] / (math.Sqrt(v[i])/math.Sqrt(b2) + eps)
	}
}

// SquareNorms returns the sum of squares of each chunk of n elements counted from the start.
func SquareNorms(x []float64, n int) []float64 {
	var out []float64
	for from := 0; from < len(x); from += n {
		s := 0.0
		for _, v := range x[from:min(from+n, len(x))] {
			s += v * v
		}
		out = append(out, s)
	}
	return out
}
