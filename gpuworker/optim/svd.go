package optim

import (
	"cmp"
	"math"
	"slices"
)

// singular gives the singular vectors of the rank greatest singular values of a [rows, cols] matrix: right vectors as [rank, cols], left
// ones as [rows, rank]. A vector's element of the greatest magnitude (the first of equals) is made positive: the sign is arbitrary, and
// GaLore's moments depend on it across projections.
//
// It is the one-sided Jacobi method (Hestenes 1958; de Rijk 1989) in float64: pairs of columns are rotated until all are orthogonal. Large
// matrices are first multiplied by the eigenvectors of their columns' inner products, which leaves little to rotate: what has become lost of
// small singular values in their squares. Without it, time would be that of ten and more rounds over all pairs.
func singular(a []float32, rows, cols, rank int, right bool) []float32 {
	// Work on the columns of the thinner orientation: c vectors of length l.
	l, c := rows, cols
	at := func(i, j int) float64 { return float64(a[i*cols+j]) } // vector j, element i
	flipped := cols > rows
	if flipped {
		l, c = cols, rows
		at = func(i, j int) float64 { return float64(a[j*cols+i]) }
	}
	w, v := make([][]float64, c), make([][]float64, c)
	for j := range w {
		w[j], v[j] = make([]float64, l), make([]float64, c)
		v[j][j] = 1
		for i := range w[j] {
			w[j][i] = at(i, j)
		}
	}
	if c > directly {
		precondition(w, v)
	}
	orthogonalize(w, v)
	order := make([]int, c)
	sigma := make([]float64, c)
	for j := range order {
		order[j] = j
		sigma[j] = math.Sqrt(inner(w[j], w[j]))
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(sigma[y], sigma[x]) })
	// Columns of w are left vectors times sigma, columns of v right vectors; flipped the other way round.
	useV := right != flipped
	out := make([]float32, max(1, rank)*l)
	n := l
	if useV {
		n = c
	}
	out = out[:0]
	vecs := make([][]float64, rank)
	for k := range vecs {
		j := order[k]
		x := slices.Clone(v[j])
		if !useV {
			x = slices.Clone(w[j])
			if sigma[j] > 0 {
				for i := range x {
					x[i] /= sigma[j]
				}
			}
		}
		orient(x)
		vecs[k] = x
	}
	if right {
		for _, x := range vecs {
			for _, e := range x {
				out = append(out, float32(e))
			}
		}
		return out
	}
	for i := range n {
		for _, x := range vecs {
			out = append(out, float32(x[i]))
		}
	}
	return out
}

// directly is the number of columns up to which they are rotated as they are.
const directly = 128

// precondition replaces the columns w, and the identity v, by combinations that are nearly orthogonal.
func precondition(w, v [][]float64) {
	c, l := len(w), len(w[0])
	g := make([]float64, c*c)
	split(c, c*l, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for j := range i + 1 {
				g[i*c+j] = inner(w[i], w[j])
			}
		}
	})
	for i := range c {
		for j := range i {
			g[j*c+i] = g[i*c+j]
		}
	}
	_, vectors := eigen(g, c)
	turned := make([][]float64, c)
	split(c, 2*c*l, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			turned[i] = make([]float64, l)
			for j := range c {
				axpy(turned[i], w[j], vectors[i*c+j])
			}
		}
	})
	copy(w, turned)
	for i := range v {
		copy(v[i], vectors[i*c:i*c+c])
	}
}

func orient[T float32 | float64](x []T) {
	best := 0
	for i := range x {
		if math.Abs(float64(x[i])) > math.Abs(float64(x[best])) {
			best = i
		}
	}
	if x[best] < 0 {
		for i := range x {
			x[i] = -x[i]
		}
	}
}

// orthogonalize rotates pairs of columns of w, and those of v alike, until they are orthogonal to working precision.
func orthogonalize(w, v [][]float64) {
	const most, tiny = 60, 1e-15
	for range most {
		rotated := false
		for p := range w {
			for q := p + 1; q < len(w); q++ {
				alpha, beta, gamma := inner(w[p], w[p]), inner(w[q], w[q]), inner(w[p], w[q])
				if math.Abs(gamma) <= tiny*math.Sqrt(float64(alpha*beta)) {
					continue
				}
				rotated = true
				zeta := (beta - alpha) / (2 * gamma)
				t := math.Copysign(1, zeta) / (math.Abs(zeta) + math.Sqrt(1+float64(zeta*zeta)))
				c := 1 / math.Sqrt(1+float64(t*t))
				rotate(w[p], w[q], c, c*t)
				rotate(v[p], v[q], c, c*t)
			}
		}
		if !rotated {
			return
		}
	}
}

func rotate(x, y []float64, c, s float64) {
	for i := range x {
		a, b := x[i], y[i]
		x[i] = float64(c*a) - float64(s*b)
		y[i] = float64(s*a) + float64(c*b)
	}
}
