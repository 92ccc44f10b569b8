package adapter

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// factors are the principal part of one weight: W ~ scale * B A.
type factors struct {
	a, b []float32 // [rank, in], [out, rank]
}

// pissa makes a module start from the principal part of its weight, which the base gives up: W becomes W - scale * B A
// (https://arxiv.org/abs/2404.02948).
func (a *Adapters) pissa(l *lora, rank int, scale float64) {
	w := l.layer.Weight
	var f *factors
	start := func(ctx context.Context, base Reader) (*factors, error) {
		var err error
		if f == nil {
			f, err = principal(ctx, w, rank, scale, a.Config.PiSSAIter, base)
		}
		return f, err
	}
	l.start = func() *factors { return f }
	l.a.Init, l.b.Init = autograd.Init{}, autograd.Init{}
	part := func(of func(*factors) []float32) filler {
		return func(ctx context.Context, at int64, dst []float32, base Reader) error {
			f, err := start(ctx, base)
			if err != nil {
				return err
			}
			copy(dst, of(f)[at:])
			return nil
		}
	}
	a.fill[l.a] = part(func(f *factors) []float32 { return f.a })
	a.fill[l.b] = part(func(f *factors) []float32 { return f.b })
	a.fill[w] = func(ctx context.Context, at int64, dst []float32, base Reader) error {
		f, err := start(ctx, base)
		if err != nil {
			return err
		}
		if err := base(ctx, w, at, dst); err != nil {
			return err
		}
		r := int64(rank)
		return rows(w, at, dst, func(row, col int64, p []float32) error {
			sum := make([]float64, len(p))
			addProduct(sum, f.b[row*r:(row+1)*r], f.a, w.Shape[1], col, scale)
			for j := range p {
				p[j] = float32(float64(p[j]) - sum[j])
			}
			return nil
		})
	}
}

// pissaStart gives the factors that a module started from.
func (m *Merger) pissaStart(ctx context.Context, p *nn.Param, rank int, scale float64, base Reader) (a, b []float32, err error) {
	const at, bt = "pissa A of ", "pissa B of "
	if m.cache[at+p.Name] == nil {
		f, err := principal(ctx, p, rank, scale, m.c.PiSSAIter, base)
		if err != nil {
			return nil, nil, err
		}
		m.cache[at+p.Name], m.cache[bt+p.Name] = f.a, f.b
	}
	return m.cache[at+p.Name], m.cache[bt+p.Name], nil
}

// principal computes A = sqrt(S/scale) V^T and B = U sqrt(S/scale) of the greatest singular values: exactly where iters is negative, else
// by subspace iteration from a random start (Halko, Martinsson, Tropp 2009, algorithm 5.1; torch.svd_lowrank). The start depends on the
// weight's name only and everything is float64, so every rank and every resumption computes the same.
func principal(ctx context.Context, w *nn.Param, rank int, scale float64, iters int, base Reader) (*factors, error) {
	out, in := int(w.Shape[0]), int(w.Shape[1])
	if rank > min(out, in) {
		return nil, fmt.Errorf("cannot take %d singular vectors of %s: it is %d by %d", rank, w.Name, out, in)
	}
	raw := make([]float32, w.Len())
	if err := base(ctx, w, 0, raw); err != nil {
		return nil, err
	}
	m := mat.NewDense(out, in, nil)
	for i := range out {
		for j := range in {
			m.Set(i, j, float64(raw[i*in+j]))
		}
	}
	var u, v mat.Dense
	var s []float64
	var svd mat.SVD
	if iters < 0 {
		if !svd.Factorize(m, mat.SVDThin) {
			return nil, fmt.Errorf("cannot decompose %s: no convergence", w.Name)
		}
		svd.UTo(&u)
		svd.VTo(&v)
		s = svd.Values(nil)
	} else {
		q := basis(m, rank, iters, w.Name)
		var small mat.Dense
		small.Mul(q.T(), m)
		if !svd.Factorize(&small, mat.SVDThin) {
			return nil, fmt.Errorf("cannot decompose %s: no convergence", w.Name)
		}
		var us mat.Dense
		svd.UTo(&us)
		svd.VTo(&v)
		s = svd.Values(nil)
		u.Mul(q, &us)
	}
	f := &factors{a: make([]float32, rank*in), b: make([]float32, out*rank)}
	for k := range rank {
		root := math.Sqrt(s[k] / scale)
		for j := range in {
			f.a[k*in+j] = float32(root * v.At(j, k))
		}
		for i := range out {
			f.b[i*rank+k] = float32(root * u.At(i, k))
		}
	}
	return f, ctx.Err()
}

// basis finds an orthonormal basis [out, rank] of the range of m's greatest singular vectors.
func basis(m *mat.Dense, rank, iters int, name string) *mat.Dense {
	_, in := m.Dims()
	rng := rand.New(rand.NewPCG(nn.Stream(name), 1))
	r := mat.NewDense(in, rank, nil)
	for i := range in {
		for k := range rank {
			r.Set(i, k, rng.NormFloat64())
		}
	}
	var y mat.Dense
	y.Mul(m, r)
	q := orthonormal(&y)
	for range iters {
		var z, x mat.Dense
		z.Mul(m.T(), q)
		x.Mul(m, orthonormal(&z))
		q = orthonormal(&x)
	}
	return q
}

// orthonormal is the thin Q of a QR decomposition.
func orthonormal(y *mat.Dense) *mat.Dense {
	var qr mat.QR
	qr.Factorize(y)
	var q mat.Dense
	qr.QTo(&q)
	n, k := y.Dims()
	return mat.DenseCopyOf(q.Slice(0, n, 0, k))
}
