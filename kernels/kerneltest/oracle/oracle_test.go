package oracle

import (
	"math/rand/v2"
	"testing"
)

func random(r *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64()
	}
	return x
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

// check compares an analytic gradient with central differences of f.
func check(t *testing.T, name string, got []float64, f func([]float64) float64, x []float64) {
	t.Helper()
	if e := RelativeL2(got, CentralDifference(f, x, 1e-5)); e > 1e-8 {
		t.Errorf("%s: gradient differs from central differences by %g (relative L2)", name, e)
	}
}

func TestGradients(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	const m, n, k = 3, 5, 4
	x, w, b, dy := random(r, m*k), random(r, n*k), random(r, n), random(r, m*n)
	dx, dw, db := LinearBackward(x, w, dy, m, n, k)
	check(t, "linear dx", dx, func(v []float64) float64 { return dot(Linear(v, w, b, m, n, k), dy) }, x)
	check(t, "linear dw", dw, func(v []float64) float64 { return dot(Linear(x, v, b, m, n, k), dy) }, w)
	check(t, "linear db", db, func(v []float64) float64 { return dot(Linear(x, w, v, m, n, k), dy) }, b)

	g, u := random(r, 7), random(r, 7)
	dz := random(r, 7)
	dg, du := SwiGLUBackward(g, u, dz)
	check(t, "swiglu dg", dg, func(v []float64) float64 { return dot(SwiGLU(v, u), dz) }, g)
	check(t, "swiglu du", du, func(v []float64) float64 { return dot(SwiGLU(g, v), dz) }, u)

	for _, offset := range []float64{0, 1} {
		nx, nw, nd := random(r, 3*6), random(r, 6), random(r, 3*6)
		ndx, ndw := RMSNormBackward(nx, nw, nd, 3, 6, 1e-3, offset)
		check(t, "rmsnorm dx", ndx, func(v []float64) float64 { return dot(RMSNorm(v, nw, 3, 6, 1e-3, offset), nd) }, nx)
		check(t, "rmsnorm dw", ndw, func(v []float64) float64 { return dot(RMSNorm(nx, v, 3, 6, 1e-3, offset), nd) }, nw)
	}

	for _, act := range []string{SiLU, GELUTanh, GELUErf, ReLU, ReLU2, Tanh} {
		dg, du := GLUBackward(act, g, u, dz)
		check(t, act+" dgate", dg, func(v []float64) float64 { return dot(GLU(act, v, u), dz) }, g)
		check(t, act+" dup", du, func(v []float64) float64 { return dot(GLU(act, g, v), dz) }, u)
	}
	lx, lw, lb, ld := random(r, 3*6), random(r, 6), random(r, 6), random(r, 3*6)
	forward := func(x, w, b []float64) float64 { y, _, _ := LayerNorm(x, w, b, 3, 6, 1e-3, 1); return dot(y, ld) }
	ldx, ldw, ldb := LayerNormBackward(lx, lw, ld, 3, 6, 1e-3, 1)
	check(t, "layernorm dx", ldx, func(v []float64) float64 { return forward(v, lw, lb) }, lx)
	check(t, "layernorm dw", ldw, func(v []float64) float64 { return forward(lx, v, lb) }, lw)
	check(t, "layernorm db", ldb, func(v []float64) float64 { return forward(lx, lw, v) }, lb)

	ids := []int32{2, 0, 2}
	table, ed := random(r, 4*3), random(r, 3*3)
	check(t, "embedding", EmbeddingBackward(ed, ids, 4, 3), func(v []float64) float64 { return dot(Embedding(v, ids, 3), ed) }, table)

	pos := []int32{1, 0, 2}
	cos, sin := random(r, 3*2), random(r, 3*2)
	for _, inter := range []bool{false, true} {
		rx, rd := random(r, 3*2*6), random(r, 3*2*6)
		check(t, "rope", RopeBackward(rd, cos, sin, pos, 2, 6, 4, inter),
			func(v []float64) float64 { return dot(Rope(v, cos, sin, pos, 2, 6, 4, inter), rd) }, rx)
	}

	targets, weight := []int32{1, IgnoreIndex, 4}, []float64{0.5, 9, 2}
	_, xx, xw, xb := LinearXent(x, w, b, targets, weight, m, n, k)
	loss := func(x, w, b []float64) float64 {
		l, _, _, _ := LinearXent(x, w, b, targets, weight, m, n, k)
		return dot(l, weight)
	}
	check(t, "xent dx", xx, func(v []float64) float64 { return loss(v, w, b) }, x)
	check(t, "xent dw", xw, func(v []float64) float64 { return loss(x, v, b) }, w)
	check(t, "xent db", xb, func(v []float64) float64 { return loss(x, w, v) }, b)
}

func TestAttentionGradients(t *testing.T) {
	t.Parallel()
	base := Attn{Batch: 2, TQ: 5, TK: 5, Heads: 4, KVHeads: 2, DQK: 3, DV: 2, Scale: 0.6}
	with := func(f func(*Attn)) Attn { a := base; f(&a); return a }
	for name, a := range map[string]Attn{
		"bidirectional": base,
		"causal":        with(func(a *Attn) { a.Causal = true }),
		"window":        with(func(a *Attn) { a.Causal, a.Window = true, 2 }),
		"lengths":       with(func(a *Attn) { a.KVLen = []int32{5, 3} }),
		"documents":     with(func(a *Attn) { a.Causal, a.Docs = true, []int32{0, 0, 1, 1, 1, 0, 1, 1, 2, 2} }),
		"band":          with(func(a *Attn) { a.Band, a.Mask = &[2]int{2, 1}, []uint8{1, 1, 0, 1, 1, 0, 1, 1, 1, 1} }),
		"softcap":       with(func(a *Attn) { a.Softcap, a.Bias = 1.5, random(rand.New(rand.NewPCG(5, 6)), a.Batch*a.Heads*a.TK) }),
		"sinks":         with(func(a *Attn) { a.Causal, a.Sinks, a.KVFirst = true, []float64{0.5, -1, 2, 0}, []int32{0, 1} }),
		"dropout":       with(func(a *Attn) { a.Causal, a.Drop = true, &Drop{P: 0.3, Seed: 1, Stream: 2} }),
		"decode":        with(func(a *Attn) { a.Causal, a.TQ, a.QOffset = true, 2, 3 }),
	} {
		r := rand.New(rand.NewPCG(3, 4))
		q, k, v := random(r, a.Batch*a.TQ*a.Heads*a.DQK), random(r, a.Batch*a.TK*a.KVHeads*a.DQK), random(r, a.Batch*a.TK*a.KVHeads*a.DV)
		do := random(r, a.Batch*a.TQ*a.Heads*a.DV)
		dq, dk, dv := AttentionBackward(a, q, k, v, do)
		out := func(q, k, v []float64) float64 { o, _ := Attention(a, q, k, v); return dot(o, do) }
		check(t, name+" dq", dq, func(x []float64) float64 { return out(x, k, v) }, q)
		check(t, name+" dk", dk, func(x []float64) float64 { return out(q, x, v) }, k)
		check(t, name+" dv", dv, func(x []float64) float64 { return out(q, k, x) }, v)
	}
}

func TestRelativeL2(t *testing.T) {
	t.Parallel()
	if e := RelativeL2([]float64{3, 4.5}, []float64{3, 4}); e != 0.1 {
		t.Errorf("got %g, want 0.1", e)
	}
	if e := RelativeL2([]float64{1}, []float64{1, 2}); e < 1e300 {
		t.Errorf("different lengths give %g, want +Inf", e)
	}
}

// The known answers are those of the authors' Random123 (kat_vectors).
func TestPhilox(t *testing.T) {
	t.Parallel()
	all := ^uint32(0)
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{all, all, all, all}, [2]uint32{all, all}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Philox(c.counter, c.key); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}
