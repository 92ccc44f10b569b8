package oracle

// Linear computes y[m,n] = x[m,k] w[n,k]^T + bias[n] (bias may be nil).
func Linear(x, w, bias []float64, m, n, k int) []float64 {
	y := make([]float64, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for p := range k {
				s += x[i*k+p] * w[j*k+p]
			}
			if bias != nil {
				s += bias[j]
			}
			y[i*n+j] = s
		}
	}
	return y
}

// LinearBackward returns dx[m,k] = dy w, dw[n,k] = dy^T x and db[n] = column sums of dy[m,n].
func LinearBackward(x, w, dy []float64, m, n, k int) (dx, dw, db []float64) {
	dx, dw, db = make([]float64, m*k), make([]float64, n*k), make([]float64, n)
	for i := range m {
		for j := range n {
			g := dy[i*n+j]
			db[j] += g
			for p := range k {
				dx[i*k+p] += g * w[j*k+p]
				dw[j*k+p] += g * x[i*k+p]
			}
		}
	}
	return dx, dw, db
}

// Gemm computes c[m,n] = a[m,k] b[k,n] + beta c0[m,n] (c0 may be nil).
func Gemm(a, b, c0 []float64, beta float64, m, n, k int) []float64 {
	c := make([]float64, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for p := range k {
				s += a[i*k+p] * b[p*n+j]
			}
			if c0 != nil {
				s += beta * c0[i*n+j]
			}
			c[i*n+j] = s
		}
	}
	return c
}

// Embedding gathers rows of table[v,h].
func Embedding(table []float64, ids []int32, h int) []float64 {
	y := make([]float64, len(ids)*h)
	for i, id := range ids {
		copy(y[i*h:(i+1)*h], table[int(id)*h:])
	}
	return y
}

// EmbeddingBackward adds the rows of dy into a zero dtable[v,h].
func EmbeddingBackward(dy []float64, ids []int32, v, h int) []float64 {
	d := make([]float64, v*h)
	for i, id := range ids {
		for j := range h {
			d[int(id)*h+j] += dy[i*h+j]
		}
	}
	return d
}
