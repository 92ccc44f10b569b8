package optim

import (
	"errors"
	"math"

	"github.com/tunefleet/tunefleet/kernels"
)

// vectors makes GaLore's projection of a gradient: the singular vectors of its greatest singular values. Those of large matrices are
// found on the device (subspace), others, and those that iteration does not separate, on the host (singular).
func (o *lowRank) vectors(q *kernels.Queue, t Stretch, right bool) {
	rows, cols, rank, _ := o.shape(t.Param)
	b := blockOf(rows, cols, rank)
	a := t.G.Reshape(rows, cols)
	if !right {
		a = a.T()
	}
	if idle(q) {
		if b > 0 {
			newSubspace(q, o.arena, a, 0, b, rank).count()
			o.arena.Reset()
		}
		return
	}
	flat := t.State[2].Reshape(t.State[2].Numel())
	norm := o.norm(q, t.G)
	switch {
	case norm == 0:
		o.store(q, flat, unitVectors(a.Dim[1], rank, right))
	case math.IsNaN(norm):
		// As all of AdamW's values become where anomalies are kept; torch's decomposition fails.
		q.Fill(kernels.Fill{Y: flat, Value: math.NaN()})
	default:
		if b > 0 && !math.IsInf(norm, 0) {
			v, err := o.onDevice(q, a, norm, b, rank)
			if err == nil {
				o.store(q, flat, laid(v, int(rank), right))
				return
			}
			if !errors.Is(err, errSlow) {
				return // it sticks to the queue
			}
		}
		o.store(q, flat, singular(o.load(q, t.G.Reshape(t.Len)), int(rows), int(cols), int(rank), right))
	}
}

// onDevice gives the rank right singular vectors as rows.
func (o *lowRank) onDevice(q *kernels.Queue, a kernels.Tensor, norm float64, b, rank int64) ([]float32, error) {
	s := newSubspace(q, o.arena, a, norm, b, rank)
	defer o.arena.Reset()
	if err := s.find(); err != nil {
		return nil, err
	}
	v := o.load(q, s.v.Slice(0, 0, rank))
	return v, q.Err()
}

// norm is the root of the sum of all squares: NaN where an element is not finite, infinite where only squares are not.
func (o *lowRank) norm(q *kernels.Queue, g kernels.Tensor) float64 {
	sum := o.take(q, kernels.F64, 1)
	defer o.arena.Reset()
	q.SqSums(kernels.SqSums{X: g.Reshape(1, 1, -1), Rows: sum})
	var total [1]float64
	if err := kernels.Download(q, total[:], sum); err != nil {
		q.Fail(err)
	}
	if !math.IsNaN(total[0]) && !math.IsInf(total[0], 0) {
		return math.Sqrt(total[0])
	}
	o.arena.Reset()
	flag := o.take(q, kernels.I32, 1)
	q.NonFinite(kernels.NonFinite{X: g.Reshape(-1), Flag: flag})
	var bad [1]int32
	if err := kernels.Download(q, bad[:], flag); err != nil {
		q.Fail(err)
	}
	if bad[0] != 0 {
		return math.NaN()
	}
	return math.Inf(1)
}

// unitVectors are the singular vectors that torch gives for zeros.
func unitVectors(n, rank int64, right bool) []float32 {
	v := make([]float32, rank*n)
	for k := range rank {
		v[k*n+k] = 1
	}
	return laid(v, int(rank), right)
}

// laid orients rows and puts them where a projection has them: right as they are, left as columns.
//
// Between two projections a vector's sign does not matter: it changes that of the projected gradient and of its first moment, Adam's direction
// with it, and projecting back takes it away. But the moments go on over the next projection, for which signs have to mean the same.
func laid(v []float32, rank int, right bool) []float32 {
	n := len(v) / rank
	for k := range rank {
		orient(v[k*n : k*n+n])
	}
	if right {
		return v
	}
	out := make([]float32, len(v))
	for k := range rank {
		for i := range n {
			out[i*rank+k] = v[k*n+i]
		}
	}
	return out
}
