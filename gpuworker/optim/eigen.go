package optim

import (
	"cmp"
	"math"
	"runtime"
	"slices"
	"sync"
)

// Products are converted (float64(a*b)) so that no compiler makes them part of an fma: every processor gives the same bits. Goroutines share
// out rows, each of which has one writer: their number does not matter either.

// eigen gives the eigenvalues of a symmetric n x n matrix, greatest first, and the orthonormal eigenvectors as rows. The matrix is
// overwritten. What is not finite has NaN. It is Householder's reduction to a tridiagonal matrix and the QL method with implicit shifts (Martin, Reinsch and
// Wilkinson, 1968; EISPACK's tred2 and imtql2), whose rotations are collected and applied row by row.
func eigen(a []float64, n int) (values, vectors []float64) {
	var most float64
	for _, x := range a[:n*n] {
		most = max(most, math.Abs(x)) // NaN stays
	}
	if most == 0 {
		most = 1
	}
	if math.IsNaN(most) || math.IsInf(most, 0) {
		return slices.Repeat([]float64{math.NaN()}, n), slices.Repeat([]float64{math.NaN()}, n*n)
	}
	for i := range a[:n*n] {
		a[i] /= most
	}
	d, e, q := tridiagonal(a, n)
	implicitQL(d, e, q, n)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(d[y], d[x]) })
	values, vectors = make([]float64, n), make([]float64, n*n)
	for k, j := range order {
		values[k] = d[j] * most
		for i := range n {
			vectors[k*n+i] = q[i*n+j]
		}
	}
	return values, vectors
}

// tridiagonal gives the diagonal d and the subdiagonal e (in e[0:n-1]) of q^T a q. Of each step's passes over the matrix only one is made:
// rows are updated and multiplied by the next step's vector at once.
func tridiagonal(a []float64, n int) (d, e, q []float64) {
	d, e = make([]float64, n), make([]float64, n)
	reflectors, betas := make([]float64, n*n), make([]float64, n)
	v, w, p := make([]float64, n), make([]float64, n), make([]float64, n)
	for k := 0; k+2 < n; k++ {
		// Row k, which is column k, as the steps before left it.
		next := reflectors[k*n : k*n+n]
		row := a[k*n : k*n+n]
		for j := k; j < n; j++ {
			next[j] = row[j] - float64(v[k]*w[j]) - float64(w[k]*v[j])
		}
		d[k] = next[k]
		next[k] = 0
		betas[k], e[k] = reflect(next[k+1:])
		split(n-k-1, 6*(n-k-1), func(lo, hi int) {
			for i := lo + k + 1; i < hi+k+1; i++ {
				p[i] = betas[k] * updateDot(a[i*n+k+1:i*n+n], v[k+1:], w[k+1:], next[k+1:], v[i], w[i])
			}
		})
		half := betas[k] / 2 * inner(p[k+1:], next[k+1:])
		copy(v, next)
		for i := k + 1; i < n; i++ {
			w[i] = p[i] - float64(half*v[i])
		}
	}
	for i := max(0, n-2); i < n; i++ {
		d[i] = a[i*n+i] - 2*float64(v[i]*w[i])
		if i+1 < n {
			e[i] = a[i*n+i+1] - float64(v[i]*w[i+1]) - float64(w[i]*v[i+1])
		}
	}
	return d, e, product(reflectors, betas, n)
}

// updateDot subtracts vi w + wi v from row, and gives its inner product with x.
func updateDot(row, v, w, x []float64, vi, wi float64) float64 {
	var s [4]float64
	v, w, x = v[:len(row)], w[:len(row)], x[:len(row)]
	j := 0
	for ; j+4 <= len(row); j += 4 {
		for l := range 4 {
			t := row[j+l] - float64(vi*w[j+l]) - float64(wi*v[j+l])
			row[j+l] = t
			s[l] += float64(t * x[j+l])
		}
	}
	for ; j < len(row); j++ {
		t := row[j] - float64(vi*w[j]) - float64(wi*v[j])
		row[j] = t
		s[0] += float64(t * x[j])
	}
	return s[0] + s[1] + s[2] + s[3]
}

// reflect makes of x the vector v for which I - beta v v^T takes x to (alpha, 0, ...).
func reflect(x []float64) (beta, alpha float64) {
	rest := inner(x[1:], x[1:])
	if rest == 0 {
		alpha, x[0] = x[0], 0
		return 0, alpha
	}
	alpha = -math.Copysign(math.Sqrt(float64(x[0]*x[0])+rest), x[0])
	x[0] -= alpha
	return 2 / (float64(x[0]*x[0]) + rest), alpha
}

// product is H0 H1 ... of the reflections.
func product(reflectors, betas []float64, n int) []float64 {
	q, t := make([]float64, n*n), make([]float64, n)
	for i := range n {
		q[i*n+i] = 1
	}
	// Row k+1 and those below are touched only from reflection k on, so that it suffices to go from the last to the first.
	for k := n - 3; k >= 0; k-- {
		v := reflectors[k*n : k*n+n]
		clear(t)
		for i := k + 1; i < n; i++ {
			axpy(t[k+1:], q[i*n+k+1:i*n+n], v[i])
		}
		split(n-k-1, 2*(n-k-1), func(lo, hi int) {
			for i := lo + k + 1; i < hi+k+1; i++ {
				axpy(q[i*n+k+1:i*n+n], t[k+1:], -float64(betas[k]*v[i]))
			}
		})
	}
	return q
}

// rotation is of columns i and i+1.
type rotation struct {
	i    int
	c, s float64
}

// implicitQL makes d the eigenvalues of the tridiagonal matrix of d and e, and multiplies q by its eigenvectors.
func implicitQL(d, e, q []float64, n int) {
	const sweeps, batch, eps = 80, 1 << 15, 0x1p-52
	var size float64
	for i := range n {
		size = max(size, math.Abs(d[i])+math.Abs(e[i]))
	}
	pending := make([]rotation, 0, batch+n)
	apply := func() {
		split(n, 6*len(pending), func(lo, hi int) { rotateRows(q, n, lo, hi, pending) })
		pending = pending[:0]
	}
	for l := range n {
		for range sweeps {
			m := l
			for ; m+1 < n; m++ {
				if math.Abs(e[m]) <= float64(eps*(math.Abs(d[m])+math.Abs(d[m+1])))+float64(eps*eps*size) {
					break
				}
			}
			if m == l {
				break
			}
			if pending = sweep(d, e, l, m, pending); len(pending) >= batch {
				apply()
			}
		}
	}
	apply()
}

// sweep is one implicit QL step on the rows l to m, whose rotations are appended.
func sweep(d, e []float64, l, m int, pending []rotation) []rotation {
	root := func(x, y float64) float64 { return math.Sqrt(float64(x*x) + float64(y*y)) }
	g := (d[l+1] - d[l]) / (2 * e[l])
	g = d[m] - d[l] + e[l]/(g+math.Copysign(root(g, 1), g))
	s, c, p := 1.0, 1.0, 0.0
	for i := m - 1; i >= l; i-- {
		f, b := float64(s*e[i]), float64(c*e[i])
		r := root(f, g)
		e[i+1] = r
		if r == 0 { // underflow: the matrix falls into two
			d[i+1] -= p
			e[m] = 0
			return pending
		}
		s, c = f/r, g/r
		g = d[i+1] - p
		r = float64((d[i]-g)*s) + float64(2*float64(c*b))
		p = float64(s * r)
		d[i+1] = g + p
		g = float64(c*r) - b
		pending = append(pending, rotation{i, c, s})
	}
	d[l] -= p
	e[l], e[m] = g, 0
	return pending
}

// rotateRows applies rotations to rows lo to hi of q, four at a time: those of one row wait for each other.
func rotateRows(q []float64, n, lo, hi int, rs []rotation) {
	r := lo
	for ; r+4 <= hi; r += 4 {
		w, x, y, z := q[r*n:r*n+n], q[(r+1)*n:(r+1)*n+n], q[(r+2)*n:(r+2)*n+n], q[(r+3)*n:(r+3)*n+n]
		for _, t := range rs {
			turn(w, t)
			turn(x, t)
			turn(y, t)
			turn(z, t)
		}
	}
	for ; r < hi; r++ {
		for _, t := range rs {
			turn(q[r*n:r*n+n], t)
		}
	}
}

func turn(row []float64, t rotation) {
	at := row[t.i : t.i+2 : t.i+2]
	a, b := at[0], at[1]
	at[0], at[1] = float64(t.c*a)-float64(t.s*b), float64(t.s*a)+float64(t.c*b)
}

// inner is an inner product in four sums.
func inner(a, b []float64) float64 {
	var s0, s1, s2, s3 float64
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += float64(a[i] * b[i])
		s1 += float64(a[i+1] * b[i+1])
		s2 += float64(a[i+2] * b[i+2])
		s3 += float64(a[i+3] * b[i+3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
	}
	return s0 + s1 + s2 + s3
}

// axpy adds f x to y.
func axpy(y, x []float64, f float64) {
	x = x[:len(y)]
	for i := range y {
		y[i] += float64(f * x[i])
	}
}

// split calls f for parts of n rows at the same time, where each row costs enough operations to pay for it.
func split(n, cost int, f func(lo, hi int)) {
	const least = 1 << 17 // operations of a goroutine
	parts := min(runtime.GOMAXPROCS(0), n, n*cost/least)
	if parts <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for k := range parts {
		wg.Go(func() { f(n*k/parts, n*(k+1)/parts) })
	}
	wg.Wait()
}
