package oracle

import "math"

// LayerNorm computes y = (x - mean) / sqrt(var + eps) * (offset + w) + b for each of rows rows of n (Ba et al. 2016); w and b may be nil
// (1 and 0). It also returns mean and reciprocal deviation of each row.
func LayerNorm(x, w, b []float64, rows, n int, eps, offset float64) (y, mean, rstd []float64) {
	y, mean, rstd = make([]float64, rows*n), make([]float64, rows), make([]float64, rows)
	for r := range rows {
		xr := x[r*n : (r+1)*n]
		for _, v := range xr {
			mean[r] += v / float64(n)
		}
		va := 0.0
		for _, v := range xr {
			va += (v - mean[r]) * (v - mean[r]) / float64(n)
		}
		rstd[r] = 1 / math.Sqrt(va+eps)
		for j, v := range xr {
			y[r*n+j] = (v - mean[r]) * rstd[r] * scaleOf(w, offset, j)
			if b != nil {
				y[r*n+j] += b[j]
			}
		}
	}
	return y, mean, rstd
}

func scaleOf(w []float64, offset float64, j int) float64 {
	if w == nil {
		return 1
	}
	return offset + w[j]
}

// LayerNormBackward returns dx, dw and db.
func LayerNormBackward(x, w, dy []float64, rows, n int, eps, offset float64) (dx, dw, db []float64) {
	dx, dw, db = make([]float64, rows*n), make([]float64, n), make([]float64, n)
	_, mean, rstd := LayerNorm(x, w, nil, rows, n, eps, offset)
	for r := range rows {
		g, gx := 0.0, 0.0
		for j := range n {
			h := (x[r*n+j] - mean[r]) * rstd[r]
			d := dy[r*n+j] * scaleOf(w, offset, j)
			g += d / float64(n)
			gx += d * h / float64(n)
			dw[j] += dy[r*n+j] * h
			db[j] += dy[r*n+j]
		}
		for j := range n {
			h := (x[r*n+j] - mean[r]) * rstd[r]
			dx[r*n+j] = rstd[r] * (dy[r*n+j]*scaleOf(w, offset, j) - g - h*gx)
		}
	}
	return dx, dw, db
}

// RStd is the reciprocal root mean square of each row, as RMSNorm uses it.
func RStd(x []float64, rows, n int, eps float64) []float64 {
	out := make([]float64, rows)
	for r := range out {
		out[r] = rstd(x[r*n:(r+1)*n], eps)
	}
	return out
}
