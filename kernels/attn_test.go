package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// attnCase is one way to call attention.
type attnCase struct {
	name                      string
	b, tq, tk, hq, hk, dk, dv int
	scale, softcap            float64
	causal                    bool
	left, right               int
	start                     []int32
	first, last, cu           []int32
	mask                      []uint8
	bias, sinks               []float32
	drop                      float32
	fused                     bool // q, k, v are views of one tensor
}

func (c attnCase) sees(b, i, j int) bool {
	p := i
	if c.start != nil {
		p += int(c.start[b])
	}
	if c.causal && j > p || c.left >= 0 && j < p-c.left || c.right >= 0 && j > p+c.right {
		return false
	}
	if c.first != nil && j < int(c.first[b]) || c.last != nil && j >= int(c.last[b]) || c.mask != nil && c.mask[b*c.tk+j] == 0 {
		return false
	}
	if c.cu != nil {
		doc := func(x int) int {
			d := 0
			for int(c.cu[d+1]) <= x {
				d++
			}
			return d
		}
		return doc(i) == doc(j)
	}
	return true
}

// forward is attention in float64: output and logarithm of the sum.
func (c attnCase) forward(q, k, v, sinks []float64) (o, lse []float64) {
	o, lse = make([]float64, c.b*c.tq*c.hq*c.dv), make([]float64, c.b*c.hq*c.tq)
	s := make([]float64, c.tk)
	for b := range c.b {
		for h := range c.hq {
			kv := h / (c.hq / c.hk)
			for i := range c.tq {
				m, pos := math.Inf(-1), i
				if c.start != nil {
					pos += int(c.start[b])
				}
				if sinks != nil {
					m = sinks[h]
				}
				for j := range c.tk {
					s[j] = math.Inf(-1)
					if !c.sees(b, i, j) {
						continue
					}
					x := 0.0
					for d := range c.dk {
						x += q[((b*c.tq+i)*c.hq+h)*c.dk+d] * k[((b*c.tk+j)*c.hk+kv)*c.dk+d]
					}
					x *= c.scale
					if c.softcap > 0 {
						x = c.softcap * math.Tanh(x/c.softcap)
					}
					if c.bias != nil {
						keys := c.bias[(b*c.hq+h)*c.tk:][:c.tk]
						x += float64(keys[j]) - float64(keys[min(pos, c.tk-1)])
					}
					s[j] = x
					m = max(m, x)
				}
				l := 0.0
				if sinks != nil {
					l = math.Exp(sinks[h] - m)
				}
				out := o[((b*c.tq+i)*c.hq+h)*c.dv:][:c.dv]
				for j := range c.tk {
					if math.IsInf(s[j], -1) {
						continue
					}
					p := math.Exp(s[j] - m)
					l += p
					for d := range out {
						out[d] += p * v[((b*c.tk+j)*c.hk+kv)*c.dv+d]
					}
				}
				lse[(b*c.hq+h)*c.tq+i] = m + math.Log(l)
				if l == 0 {
					lse[(b*c.hq+h)*c.tq+i] = math.Inf(-1)
					continue
				}
				for d := range out {
					out[d] /= l
				}
			}
		}
	}
	return o, lse
}

// numGrad is the gradient of f at x by central differences.
func numGrad(x []float64, f func() float64) []float64 {
	g := make([]float64, len(x))
	const h = 1e-5
	for i, old := range x {
		x[i] = old + h
		up := f()
		x[i] = old - h
		g[i] = (up - f()) / (2 * h)
		x[i] = old
	}
	return g
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

func TestAttention(t *testing.T) {
	cases := []attnCase{
		{name: "causal", b: 2, tq: 9, tk: 9, hq: 2, hk: 2, dk: 5, dv: 5, scale: 0.4, causal: true, left: -1, right: -1},
		{name: "gqa odd", b: 1, tq: 21, tk: 21, hq: 6, hk: 2, dk: 7, dv: 3, scale: 0.3, causal: true, left: -1, right: -1},
		{name: "bidirectional fused", b: 2, tq: 6, tk: 6, hq: 2, hk: 2, dk: 4, dv: 4, scale: 0.5, left: -1, right: -1, fused: true},
		{name: "window", b: 1, tq: 19, tk: 19, hq: 2, hk: 1, dk: 4, dv: 4, scale: 0.5, causal: true, left: 3, right: -1},
		{name: "both windows", b: 1, tq: 12, tk: 12, hq: 1, hk: 1, dk: 4, dv: 4, scale: 0.5, left: 2, right: 4},
		{name: "padding", b: 2, tq: 8, tk: 8, hq: 2, hk: 1, dk: 4, dv: 6, scale: 0.5, causal: true, left: -1, right: -1, first: []int32{3, 0}, last: []int32{8, 5}},
		{name: "mask", b: 1, tq: 5, tk: 5, hq: 1, hk: 1, dk: 3, dv: 2, scale: 0.5, causal: true, left: -1, right: -1, mask: []uint8{0, 1, 0, 1, 1}},
		{name: "documents", b: 1, tq: 14, tk: 14, hq: 2, hk: 2, dk: 4, dv: 4, scale: 0.5, causal: true, left: -1, right: -1, cu: []int32{0, 5, 5, 6, 14}},
		{name: "decode", b: 2, tq: 1, tk: 11, hq: 4, hk: 2, dk: 4, dv: 4, scale: 0.5, causal: true, left: -1, right: -1, start: []int32{10, 4}},
		{name: "bias softcap sinks", b: 1, tq: 7, tk: 7, hq: 2, hk: 1, dk: 4, dv: 4, scale: 0.9, softcap: 2, causal: true, left: -1, right: -1,
			bias: noise(6, 14), sinks: []float32{0.3, -1}},
		{name: "bias of a batch, decode", b: 2, tq: 3, tk: 11, hq: 4, hk: 2, dk: 4, dv: 4, scale: 0.5, causal: true, left: -1, right: -1, start: []int32{8, 4},
			bias: noise(7, 88), mask: []uint8{1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q, k, v := noise(1, int64(c.b*c.tq*c.hq*c.dk)), noise(2, int64(c.b*c.tk*c.hk*c.dk)), noise(3, int64(c.b*c.tk*c.hk*c.dv))
			do, base := noise(4, int64(c.b*c.tq*c.hq*c.dv)), noise(5, int64(len(q)))
			Q, K, V, S, DO := f64(q), f64(k), f64(v), f64(c.sinks), f64(do)
			if c.sinks == nil {
				S = nil
			}
			o, lse := c.forward(Q, K, V, S)
			loss := func() float64 {
				o, _ := c.forward(Q, K, V, S)
				return dot(o, DO)
			}
			want := map[string][]float64{"o": o, "lse": lse, "dq": sum(numGrad(Q, loss), f64(base)), "dk": numGrad(K, loss), "dv": numGrad(V, loss)}
			if S != nil {
				want["dsinks"] = numGrad(S, loss)
			}
			compare(t, 2e-5, func(e *env) outputs { return runAttention(e, c, q, k, v, do, base) }, want)
		})
	}
}

func runAttention(e *env, c attnCase, q, k, v, do, base []float32) outputs {
	dim := func(n, h, d int) []int64 { return []int64{int64(c.b), int64(n), int64(h), int64(d)} }
	f := AttnFwd{Q: e.f32(q, dim(c.tq, c.hq, c.dk)...), K: e.f32(k, dim(c.tk, c.hk, c.dk)...), V: e.f32(v, dim(c.tk, c.hk, c.dv)...),
		O: e.empty(dim(c.tq, c.hq, c.dv)...), LSE: e.empty(int64(c.b), int64(c.hq), int64(c.tq)), Scale: float32(c.scale), Softcap: float32(c.softcap),
		Causal: Flag(c.causal), WindowLeft: int32(c.left), WindowRight: int32(c.right), Dropout: c.drop, Seed: 3, Stream: 9}
	if c.fused {
		all := e.empty(int64(c.b), int64(c.tq), int64(3*c.hq), int64(c.dk))
		for i, x := range []*Tensor{&f.Q, &f.K, &f.V} {
			part := all.Slice(2, int64(i*c.hq), int64((i+1)*c.hq))
			e.q.Copy(Copy{X: *x, Y: part})
			*x = part
		}
	}
	ints := func(v []int32) Tensor {
		if v == nil {
			return Tensor{}
		}
		return put(e, I32, v, int64(len(v)))
	}
	f.QStart, f.KVFirst, f.KVLast, f.CuSeqlens = ints(c.start), ints(c.first), ints(c.last), ints(c.cu)
	if c.mask != nil {
		f.KeyMask = put(e, U8, c.mask, int64(len(c.mask)))
	}
	if c.bias != nil {
		f.Bias = e.f32(c.bias, int64(c.b), int64(c.hq), int64(c.tk))
	}
	if c.sinks != nil {
		f.Sinks = e.f32(c.sinks, int64(len(c.sinks)))
	}
	e.q.AttnFwd(f)
	g := AttnBwd{AttnFwd: f, DO: e.f32(do, dim(c.tq, c.hq, c.dv)...), DQ: e.f32(base, dim(c.tq, c.hq, c.dk)...), DQAccumulate: 1,
		DK: e.empty(dim(c.tk, c.hk, c.dk)...), DV: e.empty(dim(c.tk, c.hk, c.dv)...)}
	if c.sinks != nil {
		g.DSinks = e.empty(int64(c.hq))
	}
	e.q.AttnBwd(g)
	out := outputs{"o": get[float32](e, f.O), "lse": get[float32](e, f.LSE), "dq": get[float32](e, g.DQ), "dk": get[float32](e, g.DK), "dv": get[float32](e, g.DV)}
	if c.sinks != nil {
		out["dsinks"] = get[float32](e, g.DSinks)
	}
	return out
}

// Longer than a block of keys and than a task of queries: forward against float64, all bits equal over setups, with dropout too.
func TestAttentionLong(t *testing.T) {
	for _, n := range []int{100, 181} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := attnCase{b: 1, tq: n, tk: n, hq: 2, hk: 1, dk: 16, dv: 16, scale: 0.25, causal: true, left: -1, right: -1}
			q, k, v := noise(1, int64(c.tq*c.hq*c.dk)), noise(2, int64(c.tk*c.hk*c.dk)), noise(3, int64(c.tk*c.hk*c.dv))
			do := noise(4, int64(c.tq*c.hq*c.dv))
			o, lse := c.forward(f64(q), f64(k), f64(v), nil)
			var plain []float32
			compare(t, 1e-5, func(e *env) outputs {
				out := runAttention(e, c, q, k, v, do, make([]float32, len(q)))
				plain = out["o"]
				return out
			}, map[string][]float64{"o": o, "lse": lse})
			// What is dropped is checked by package kerneltest; here, that it has the same bits everywhere and leaves lse alone.
			c.drop = 0.2
			compare(t, 1e-5, func(e *env) outputs {
				out := runAttention(e, c, q, k, v, do, make([]float32, len(q)))
				if slices.Equal(out["o"], plain) {
					t.Error("nothing is dropped")
				}
				return out
			}, map[string][]float64{"lse": lse})
		})
	}
}
