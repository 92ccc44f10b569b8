package optim

import (
	"errors"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/kernels"
)

// subspace finds the right singular vectors of the greatest singular values of a matrix on the device. It is subspace iteration with
// polynomials of Chebyshev (Rutishauser 1970; Zhou, Saad, Tiago and Chelikowsky 2006): a block of more vectors than are wanted is multiplied by
// the matrix and its transpose, in such a polynomial that what belongs to lesser singular values dies out, until the wanted vectors'
// residuals, as far as they lie outside the block, are those of rounding.
//
// All that grows with the matrix is products on the device in float32. The block's inner products are float64 (kernels.Gram), of which the host
// makes the transformations of the block: Cholesky factors between products, and eigenvectors of what the matrix is on the block (Rayleigh and
// Ritz) before residuals are looked at. The matrix is never squared in float32, which would lose all singular values under 1/3,000 of
// the greatest. Vectors that belong to what lies within the block have the accuracy of a full decomposition in float32, others a better one.
//
// It is a function of the matrix alone: the block begins with the same random numbers every time, so ranks and resumed runs find the same bits.
type subspace struct {
	q *kernels.Queue
	a kernels.Tensor // [m, n], perhaps transposed
	// scale makes the matrix' norm 1.
	scale      float32
	m, n, b, r int64
	// v, y and z are [b, n], of vectors as rows, w and u [b, m], small [b, b].
	v, y, z, w, u, small kernels.Tensor
	gram, sums           kernels.Tensor
	host                 []float64 // a copy of gram
	rows                 []float32 // of small
	drawn                uint64
	products             int
}

const (
	// unit is the roundoff of float32, in which residuals are measured, relative to the greatest singular value.
	unit = 0x1p-24
	// mostProducts with the matrix and its transpose, after which it is decomposed.
	mostProducts = 600
	// dependent is the square of what is left of a vector of length 1 next to those before it, below which it is drawn anew: float32 has rounded
	// the vector.
	dependent = 1e-12
)

// goal is the residual that rounding leaves, as a full decomposition in float32 does: it grows with the root of the sums' length (measured on
// noise: 10, 24 and 50 units at 400, 1,024 and 4,096). Eight times as much is accepted where more products do not help.
func (s *subspace) goal() float64 { return 24 * unit * math.Sqrt(max(1, float64(max(s.m, s.n))/400)) }

// errSlow says that residuals do not become small.
var errSlow = errors.New("singular values too close for iteration")

// blockOf is the number of vectors that are iterated for rank of them, and 0 where a full decomposition is better.
func blockOf(rows, cols, rank int64) int64 {
	const least = 256 // of a side: below, the host is as fast
	b := (rank + min(max(rank/2, 16), 256) + 15) / 16 * 16
	if min(rows, cols) < least || 4*b > 3*min(rows, cols) {
		return 0
	}
	return b
}

// subspaceBytes is the scratch memory for a matrix [m, n] whose rows are projected.
func subspaceBytes(m, n, b int64) int64 {
	if b == 0 {
		return 0
	}
	return 4*b*(3*n+2*m) + 12*b*b + 8*b + 9*256
}

// newSubspace takes its memory from arena.
func newSubspace(q *kernels.Queue, arena *kernels.Arena, a kernels.Tensor, norm float64, b, r int64) *subspace {
	s := &subspace{q: q, a: a, scale: 1, m: a.Dim[0], n: a.Dim[1], b: b, r: r}
	if norm > 0 {
		s.scale = float32(1 / norm)
	}
	take := func(dt kernels.DType, dims ...int64) kernels.Tensor {
		x, err := arena.New(dt, dims...)
		if err != nil {
			q.Fail(err)
		}
		return x
	}
	s.v, s.y, s.z = take(kernels.F32, b, s.n), take(kernels.F32, b, s.n), take(kernels.F32, b, s.n)
	s.w, s.u = take(kernels.F32, b, s.m), take(kernels.F32, b, s.m)
	s.small, s.gram, s.sums = take(kernels.F32, b, b), take(kernels.F64, b, b), take(kernels.F64, b)
	s.host, s.rows = make([]float64, b*b), make([]float32, b*b)
	return s
}

// find leaves the wanted vectors in the first r rows of v.
func (s *subspace) find() error {
	s.draw(s.v)
	for range 2 {
		s.pass()
	}
	goal, last, idle := s.goal(), math.Inf(1), 0
	for {
		values, residuals := s.ritz()
		if err := s.q.Err(); err != nil {
			return err
		}
		worst, first := 0.0, -1
		for k, x := range residuals {
			if !(x <= goal) && first < 0 {
				first = k
			}
			worst = max(worst, x) // NaN stays
		}
		if idle++; worst < last/4 {
			idle = 0
		}
		last = min(last, worst)
		switch {
		case first < 0, worst <= 8*goal && idle > 0:
			return nil
		case math.IsNaN(worst), idle > 3, s.products > mostProducts:
			return errSlow
		}
		s.filter(values, int64(first), worst)
	}
}

// forward is x [., n] times the transposed matrix into y [., m], back the other way round.
func (s *subspace) forward(x, y kernels.Tensor) {
	s.q.Gemm(kernels.Gemm{A: x, B: s.a.T(), C: y, Alpha: s.scale})
}

func (s *subspace) back(x, y kernels.Tensor, alpha float64, add bool) {
	s.products++
	s.q.Gemm(kernels.Gemm{A: x, B: s.a, C: y, Alpha: float32(alpha * float64(s.scale)), Accumulate: kernels.Flag(add)})
}

// pass multiplies the block by the matrix and its transpose once.
func (s *subspace) pass() {
	s.forward(s.v, s.w)
	s.w, s.u = s.orthonormal(s.w, s.u)
	s.back(s.w, s.v, 1, false)
	s.v, s.z = s.orthonormal(s.v, s.z)
}

// filter multiplies the block's rows from first on by a polynomial that is at most 1 for squares of singular values up to the block's least, and
// grows as fast as any beyond (Chebyshev's, by their recurrence). The rows before have converged and are kept out of the others.
func (s *subspace) filter(values []float64, first int64, worst float64) {
	square := func(k int64) float64 { return max(values[k]*values[k], 1e-12*values[0]*values[0]) }
	edge := square(s.b - 1)
	growth := func(k int64) float64 { return math.Acosh(max(2*square(k)/edge-1, 1.0001)) } // of the logarithm, a degree
	const most, contrast = 60, 9                                                           // contrast: the logarithm of what float32 holds beside each other
	slow, fast := growth(s.r-1), growth(first)
	todo := min(int(math.Ceil(math.Log(8*worst/s.goal())/slow)), most)
	for todo > 0 {
		d := todo
		if fast > slow {
			d = min(d, max(1, int(contrast/(fast-slow))))
		}
		d = min(d, 20)
		todo -= d
		s.chebyshev(first, d, edge)
		s.v, s.z = s.orthonormal(s.v, s.z)
	}
}

// chebyshev applies the polynomial of degree d to the rows of v from first on: x1 = p x0, and x2 = 2 p x1 - x0 onwards, with p = 2/edge A^T A - 1.
func (s *subspace) chebyshev(first int64, d int, edge float64) {
	locked := s.v.Slice(0, 0, first)
	x, y, w := s.v.Slice(0, first, s.b), s.y.Slice(0, first, s.b), s.w.Slice(0, first, s.b)
	for i := range d {
		s.forward(x, w)
		if i == 0 {
			s.q.Add(kernels.Add{A: x, Y: y, Alpha: -1})
			s.back(w, y, 2/edge, true)
		} else {
			s.q.Add(kernels.Add{A: y, B: x, Y: y, Alpha: -1, Beta: -2})
			s.back(w, y, 4/edge, true)
		}
		s.without(y, locked)
		x, y = y, x
	}
	if d%2 == 1 { // what is wanted lies in y's memory
		if first > 0 {
			s.q.Copy(kernels.Copy{X: locked, Y: s.y.Slice(0, 0, first)})
		}
		s.v, s.y = s.y, s.v
	}
}

// without takes the components along orthonormal rows out of x.
func (s *subspace) without(x, rows kernels.Tensor) {
	n, k := x.Dim[0], rows.Dim[0]
	if k == 0 {
		return
	}
	part := s.small.Reshape(s.b*s.b).Slice(0, 0, n*k).Reshape(n, k)
	s.q.Gemm(kernels.Gemm{A: x, B: rows.T(), C: part, Alpha: 1})
	s.q.Gemm(kernels.Gemm{A: part, B: rows, C: x, Alpha: -1, Accumulate: 1})
}

// inner downloads the inner products of rows.
func (s *subspace) inner(x kernels.Tensor) []float64 {
	s.q.Gram(kernels.Gram{X: x, Y: s.gram})
	if err := kernels.Download(s.q, s.host, s.gram); err != nil {
		s.q.Fail(err)
	}
	return s.host
}

// transform is y = t x.
func (s *subspace) transform(t []float64, x, y kernels.Tensor) {
	for i, v := range t {
		s.rows[i] = float32(v)
	}
	if err := kernels.Upload(s.q, s.small, s.rows); err != nil {
		s.q.Fail(err)
	}
	s.q.Gemm(kernels.Gemm{A: s.small, B: x, C: y, Alpha: 1})
}

// orthonormal makes the rows of x orthonormal but for what float32 rounds off when they were close to each other, which the next call takes away.
// Rows that depend on those before them become random ones. What it returns is x and other, or the two exchanged.
func (s *subspace) orthonormal(x, other kernels.Tensor) (done, free kernels.Tensor) {
	const tries = 3
	for range tries {
		t, lost := cholesky(s.inner(x), int(s.b))
		s.transform(t, x, other)
		x, other = other, x
		if len(lost) == 0 || s.q.Err() != nil {
			break
		}
		for _, k := range lost {
			s.draw(x.Slice(0, int64(k), int64(k)+1))
		}
	}
	return x, other
}

// draw fills rows with random numbers.
func (s *subspace) draw(x kernels.Tensor) {
	n := x.Numel()
	s.q.Random(kernels.Random{Y: x.Reshape(n), Stream: nn.Stream("galore/subspace"), Offset: s.drawn, Kind: kernels.Normal, B: float32(1 / math.Sqrt(float64(x.Dim[1])))})
	s.drawn += uint64((n + 3) / 4 * 4)
}

// ritz turns the block's vectors to those by which the matrix stretches it most, in that order. It gives by how much, and the residuals of the
// wanted ones outside the block: the length of A^T A v over both singular values, its own and the greatest.
func (s *subspace) ritz() (values, residuals []float64) {
	s.v, s.z = s.orthonormal(s.v, s.z)
	s.forward(s.v, s.w)
	squares, vectors := eigen(s.inner(s.w), int(s.b))
	s.transform(vectors, s.v, s.z)
	s.v, s.z = s.z, s.v
	s.q.Gemm(kernels.Gemm{A: s.small, B: s.w, C: s.u, Alpha: 1})
	wanted := s.z.Slice(0, 0, s.r)
	s.back(s.u.Slice(0, 0, s.r), wanted, 1, false)
	s.without(wanted, s.v)
	sums := s.sums.Slice(0, 0, s.r)
	s.q.SqSums(kernels.SqSums{X: wanted.Unsqueeze(0), Rows: sums, Scale: 1 << 20})
	residuals = make([]float64, s.r)
	if err := kernels.Download(s.q, residuals, sums); err != nil {
		s.q.Fail(err)
	}
	values = squares
	for k, x := range values {
		values[k] = math.Sqrt(max(x, 0))
	}
	for k, x := range residuals {
		residuals[k] = math.Sqrt(x) / (1 << 20) / (values[0] * max(values[k], 1e-6*values[0]))
	}
	return values, residuals
}

// cholesky gives the lower triangular t for which t g t^T is the identity, where g are inner products of n rows; rows of t are 0 for those that
// depend on others before them, which are listed. Lengths of rows do not matter. g is overwritten.
func cholesky(g []float64, n int) (t []float64, lost []int) {
	size := make([]float64, n)
	for i := range size {
		if x := g[i*n+i]; x > 0 {
			size[i] = 1 / math.Sqrt(x)
		}
	}
	l := g
	for j := range n {
		row := l[j*n : j*n+n]
		// The diagonal holds inverses; 0 takes a lost row out of the sums of those that follow.
		rest := 1 - inner(row[:j], row[:j])
		row[j] = 1 / math.Sqrt(rest)
		if size[j] == 0 || !(rest > dependent) {
			row[j] = 0
			lost = append(lost, j)
		}
		split(n-j-1, 2*j, func(lo, hi int) {
			for i := lo + j + 1; i < hi+j+1; i++ {
				l[i*n+j] = (float64(l[i*n+j]*float64(size[i]*size[j])) - inner(l[i*n:i*n+j], row[:j])) * row[j]
			}
		})
	}
	t = make([]float64, n*n)
	split(n, n*n/3, func(lo, hi int) { // columns lo to hi of the inverse
		for i := lo; i < n; i++ {
			row, end := t[i*n:i*n+n], min(hi, i+1)
			for j := lo; j < i; j++ {
				axpy(row[lo:min(hi, j+1)], t[j*n+lo:j*n+min(hi, j+1)], -l[i*n+j])
			}
			if i < hi {
				row[i] = 1
			}
			for j := lo; j < end; j++ {
				row[j] *= l[i*n+i]
			}
		}
	})
	for i := range n {
		for j := range i + 1 {
			t[i*n+j] *= size[j]
		}
	}
	return t, lost
}

// count queues each operation once, so that a queue that only counts has seen them.
func (s *subspace) count() {
	s.forward(s.v, s.w)
	s.back(s.w, s.v, 1, false)
	s.q.Gram(kernels.Gram{X: s.w, Y: s.gram})
	s.q.Gemm(kernels.Gemm{A: s.small, B: s.w, C: s.u, Alpha: 1})
	s.q.Gemm(kernels.Gemm{A: s.small, B: s.v, C: s.z, Alpha: 1})
	s.chebyshev(1, 2, 1)
	s.without(s.z.Slice(0, 0, s.r), s.v)
	s.q.SqSums(kernels.SqSums{X: s.z.Unsqueeze(0), Rows: s.sums})
}
