package oracle

import "math"

// SquareSums returns the sums over the rows and columns of b matrices [n,m] of (x*scale)^2 + eps.
func SquareSums(x []float64, b, n, m int, scale, eps float64) (rows, cols []float64) {
	rows, cols = make([]float64, b*n), make([]float64, b*m)
	for i, v := range x {
		s := v*scale*v*scale + eps
		rows[i/m] += s
		cols[i/(n*m)*m+i%m] += s
	}
	return rows, cols
}

// SquareSumsInOrder is SquareSums without scale and eps in the order that sums have on every device: a row by chunks of 4,096 elements in 16 lanes,
// a column by parts of its rows, at most 128 of at least 32.
func SquareSumsInOrder(x []float64, b, n, m int) (rows, cols []float64) {
	const chunk, lanes = 4096, 16
	rows, cols = make([]float64, b*n), make([]float64, b*m)
	for r := range rows {
		for lo := 0; lo < m; lo += chunk {
			var lane [lanes]float64
			for i, v := range x[r*m+lo : r*m+min(lo+chunk, m)] {
				lane[i%lanes] += v * v
			}
			sum := 0.0
			for _, v := range lane {
				sum += v
			}
			rows[r] += sum
		}
	}
	part := max(32, (n+127)/128)
	for c := range cols {
		for first := 0; first < n; first += part {
			sum := 0.0
			for i := first; i < min(first+part, n); i++ {
				v := x[(c/m*n+i)*m+c%m]
				sum += v * v
			}
			cols[c] += sum
		}
	}
	return rows, cols
}

// AdamMini is one step of https://arxiv.org/abs/2406.16793 as adam-mini computes it: Adam with one second moment for each of len(v) blocks of
// consecutive elements, of the block's mean of squares. p, m and v are changed in place.
func AdamMini(p, g, m, v []float64, lr, beta1, beta2, eps, decay, clip float64, step int) {
	b1, b2, size := 1-math.Pow(beta1, float64(step)), 1-math.Pow(beta2, float64(step)), len(p)/len(v)
	for i := range v {
		mean := 0.0
		for _, x := range g[i*size : (i+1)*size] {
			mean += x * clip * x * clip / float64(size)
		}
		v[i] = beta2*v[i] + (1-beta2)*mean
	}
	for i := range p {
		m[i] += (1 - beta1) * (g[i]*clip - m[i])
		p[i] = p[i]*(1-lr*decay) - m[i]/b1/(math.Sqrt(v[i/size])/math.Sqrt(b2)+eps)*lr
	}
}

// AdafactorStep is what a step of Adafactor is given. Matrices, B of Rows x Cols, have Row and Col, others V; M is optional.
type AdafactorStep struct {
	P, G, Row, Col, V, M                                           []float64
	B, Rows, Cols                                                  int
	LR, Beta1, Beta2, Eps1, Eps2, ClipThreshold, WeightDecay, Clip float64
	ScaleParameter                                                 bool
}

// Adafactor is one step of https://arxiv.org/abs/1804.04235 as transformers computes it. P, the moments and M are changed in place.
func Adafactor(a AdafactorStep) {
	rms := func(x []float64) float64 {
		s := 0.0
		for _, v := range x {
			s += v * v
		}
		return math.Sqrt(s / float64(len(x)))
	}
	lr := a.LR
	if a.ScaleParameter {
		lr *= math.Max(a.Eps2, rms(a.P))
	}
	u := make([]float64, len(a.P))
	if a.Row != nil {
		rows, cols := SquareSums(a.G, a.B, a.Rows, a.Cols, a.Clip, a.Eps1)
		for i := range rows {
			a.Row[i] = a.Beta2*a.Row[i] + (1-a.Beta2)*rows[i]/float64(a.Cols)
		}
		for i := range cols {
			a.Col[i] = a.Beta2*a.Col[i] + (1-a.Beta2)*cols[i]/float64(a.Rows)
		}
		for i := range u {
			k := i / (a.Rows * a.Cols)
			mean := 0.0
			for _, r := range a.Row[k*a.Rows : (k+1)*a.Rows] {
				mean += r / float64(a.Rows)
			}
			u[i] = a.G[i] * a.Clip / math.Sqrt(a.Row[i/a.Cols]/mean) / math.Sqrt(a.Col[k*a.Cols+i%a.Cols])
		}
	} else {
		for i, g := range a.G {
			a.V[i] = a.Beta2*a.V[i] + (1-a.Beta2)*(g*a.Clip*g*a.Clip+a.Eps1)
			u[i] = g * a.Clip / math.Sqrt(a.V[i])
		}
	}
	shrink := math.Max(1, rms(u)/a.ClipThreshold)
	for i := range u {
		d := u[i] / shrink * lr
		if a.M != nil {
			a.M[i] = a.Beta1*a.M[i] + (1-a.Beta1)*d
			d = a.M[i]
		}
		a.P[i] -= a.P[i]*lr*a.WeightDecay + d
	}
}

// AdamDirection updates the moments m and v by x*scale and returns m/(sqrt(v)+eps).
func AdamDirection(x, m, v []float64, beta1, beta2, eps, scale float64) []float64 {
	y := make([]float64, len(x))
	for i := range x {
		g := x[i] * scale
		m[i] = beta1*m[i] + (1-beta1)*g
		v[i] = beta2*v[i] + (1-beta2)*g*g
		y[i] = m[i] / (math.Sqrt(v[i]) + eps)
	}
	return y
}

// Gram is x x^T of the n rows of m float32 values, bit for bit: exact products, added in 8 lanes by k modulo 8, and the lanes in order.
func Gram(x []float64, n, m int) []float64 {
	y := make([]float64, n*n)
	for i := range n {
		for j := range n {
			var lane [8]float64
			for k := range m {
				lane[k%8] += float64(x[i*m+k] * x[j*m+k])
			}
			for _, s := range lane {
				y[i*n+j] += s
			}
		}
	}
	return y
}
