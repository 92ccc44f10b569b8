package oracle

import "math"

// RMSNorm computes y = x / sqrt(mean(x^2) + eps) * (offset + w) for each of rows rows of n (Zhang and Sennrich 2019; offset is 1 for Gemma).
func RMSNorm(x, w []float64, rows, n int, eps, offset float64) []float64 {
	y := make([]float64, rows*n)
	for r := range rows {
		s := rstd(x[r*n:(r+1)*n], eps)
		for j := range n {
			y[r*n+j] = x[r*n+j] * s * (offset + w[j])
		}
	}
	return y
}

// RMSNormBackward returns dx and dw for RMSNorm.
func RMSNormBackward(x, w, dy []float64, rows, n int, eps, offset float64) (dx, dw []float64) {
	dx, dw = make([]float64, rows*n), make([]float64, n)
	for r := range rows {
		xr, gr := x[r*n:(r+1)*n], dy[r*n:(r+1)*n]
		s := rstd(xr, eps)
		dot := 0.0
		for j := range n {
			dw[j] += gr[j] * xr[j] * s
			dot += gr[j] * (offset + w[j]) * xr[j]
		}
		for j := range n {
			dx[r*n+j] = s*gr[j]*(offset+w[j]) - xr[j]*s*s*s*dot/float64(n)
		}
	}
	return dx, dw
}

func rstd(x []float64, eps float64) float64 {
	s := 0.0
	for _, v := range x {
		s += v * v
	}
	return 1 / math.Sqrt(s/float64(len(x))+eps)
}

// SwiGLU computes silu(g) * u elementwise.
func SwiGLU(g, u []float64) []float64 {
	y := make([]float64, len(g))
	for i := range g {
		y[i] = g[i] * sigmoid(g[i]) * u[i]
	}
	return y
}

// SwiGLUBackward returns dg and du.
func SwiGLUBackward(g, u, dy []float64) (dg, du []float64) {
	dg, du = make([]float64, len(g)), make([]float64, len(g))
	for i := range g {
		s := sigmoid(g[i])
		dg[i] = dy[i] * u[i] * s * (1 + g[i]*(1-s))
		du[i] = dy[i] * g[i] * s
	}
	return dg, du
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
