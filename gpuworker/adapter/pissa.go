package adapter

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

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

// Plain turns a finished PiSSA adapter, which belongs to the base that PiSSA changed, into a LoRA of the unchanged base with twice the
// rank: A' = [A; A0] and B' = [B, -B0] with the factors that it started from, as PEFT converts it. base reads the unchanged base, weight
// gives a module's weight. Other adapters stay as they are.
func Plain(c Config, stored Stored, base Reader, weight func(path string) *nn.Param) (Config, Stored) {
	if !c.PiSSA {
		return c, stored
	}
	p := c
	factor := 2.0
	if c.RSLoRA {
		factor = math.Sqrt2 // the scale stays alpha / sqrt(r)
	}
	p.PiSSA, p.Rank, p.Alpha = false, 2*c.Rank, factor*c.Alpha
	p.RankPattern, p.AlphaPattern = maps.Clone(c.RankPattern), maps.Clone(c.AlphaPattern)
	for k := range p.RankPattern {
		p.RankPattern[k] *= 2
	}
	for k := range p.AlphaPattern {
		p.AlphaPattern[k] *= factor
	}
	return p, &plain{Stored: stored, m: NewMerger(c, stored), base: base, weight: weight}
}

// plain serves the matrices of a converted adapter.
type plain struct {
	Stored
	m      *Merger
	base   Reader
	weight func(path string) *nn.Param
}

// Read implements Stored.
func (p *plain) Read(ctx context.Context, name string, start int64, dst []float32) error {
	path, isA := strings.CutSuffix(strings.TrimPrefix(name, Prefix), ".lora_A.weight")
	path, isB := strings.CutSuffix(path, ".lora_B.weight")
	w := p.weight(path)
	if !isA && !isB || w == nil {
		return p.Stored.Read(ctx, name, start, dst)
	}
	rank, scale := p.m.c.of(path)
	a0, b0, err := p.m.pissaStart(ctx, w, rank, scale, p.base)
	if err != nil {
		return err
	}
	r, out, in := int64(rank), w.Shape[0], w.Shape[1]
	if isA {
		a, err := p.m.whole(ctx, name, r*in)
		if err != nil {
			return err
		}
		copy(dst, slices.Concat(a, a0)[start:])
		return nil
	}
	b, err := p.m.whole(ctx, name, out*r)
	if err != nil {
		return err
	}
	both := make([]float32, 0, 2*out*r)
	for i := range out {
		both = append(both, b[i*r:(i+1)*r]...)
		for _, v := range b0[i*r : (i+1)*r] {
			both = append(both, -v)
		}
	}
	copy(dst, both[start:])
	return nil
}

// principal computes A = sqrt(S/scale) V^T and B = U sqrt(S/scale) of the greatest singular values: exactly where iters is negative, else
// by subspace iteration from a random start (Halko, Martinsson, Tropp 2009, algorithm 5.1; torch.svd_lowrank). The start depends on the
// weight's name only and everything is float64, so every rank and every resumption computes the same. A matrix of fewer singular values than
// the rank has factors of zeros for the rest, which stay zeros: PEFT leaves them away.
func principal(ctx context.Context, w *nn.Param, rank int, scale float64, iters int, base Reader) (*factors, error) {
	out, in := int(w.Shape[0]), int(w.Shape[1])
	there := min(rank, out, in)
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
		q := basis(m, there, iters, w.Name)
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
	for k := range there {
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
