package kernels

import (
	"math"
	"testing"
)

// TestHalfBits runs what a block does in 16 bits and wants equal bits: in f16 from every instruction set, in bf16 from every thread count of
// one. The numbers themselves are checked in kerneltest.
func TestHalfBits(t *testing.T) {
	for _, dt := range []DType{BF16, F16} {
		t.Run(dt.String(), func(t *testing.T) { halfBits(t, dt) })
	}
}

func halfBits(t *testing.T, dt DType) {
	const b, s, h, d, v = 2, 75, 3, 20, 301
	const n, w = b * s, h * d
	x, wq, wv, dy, lm := noise(1, n*w), noise(2, w*w), noise(3, w), noise(4, n*w), noise(5, v*w)
	comparePaths(t, dt == F16, func(e *env) outputs {
		q := e.q
		half := func(x []float32, dims ...int64) Tensor {
			y, err := e.a.New(dt, dims...)
			if err != nil {
				t.Fatal(err)
			}
			if x != nil {
				q.Copy(Copy{X: e.f32(x, dims...), Y: y})
			}
			return y
		}
		wide := func(x Tensor) []float32 {
			y := e.empty(x.Shape()...)
			q.Copy(Copy{X: x, Y: y})
			return get[float32](e, y)
		}
		X, W, DY, LM := half(x, n, w), half(wq, w, w), half(dy, n, w), half(lm, v, w)
		nx, rstd, p := half(nil, n, w), e.empty(n), half(nil, n, w)
		q.RMSNormFwd(RMSNormFwd{X: X, W: e.f32(wv, w), Y: nx, RStd: rstd, Eps: 1e-5})
		q.Gemm(Gemm{A: nx, B: W.T(), C: p, Alpha: 1})
		heads := func(x Tensor) Tensor { return x.Reshape(b, s, h, d) }
		o, lse := half(nil, n, w), e.empty(b, h, s)
		f := AttnFwd{Q: heads(p), K: heads(nx), V: heads(X), O: heads(o), LSE: lse, Scale: 0.2, Causal: 1, WindowLeft: -1, WindowRight: -1}
		q.AttnFwd(f)
		dq, dk, dv := half(nil, n, w), half(nil, n, w), half(nil, n, w)
		q.AttnBwd(AttnBwd{AttnFwd: f, DO: heads(DY), DQ: heads(dq), DK: heads(dk), DV: heads(dv)})
		dw, dx, dn, db := e.empty(w, w), half(nil, n, w), e.empty(w), e.empty(w)
		q.Gemm(Gemm{A: dq.T(), B: nx, C: dw, Alpha: 1})
		q.Gemm(Gemm{A: dq, B: W, C: dk, Alpha: 1, Accumulate: 1})
		q.ColSum(ColSum{X: dq, Y: db})
		q.RMSNormBwd(RMSNormBwd{X: X, W: e.f32(wv, w), RStd: rstd, DY: dk, DX: dx, DW: dn})
		g := half(nil, n, w)
		q.GLUFwd(GLUFwd{Gate: o, Up: X, Y: g, Act: SiLU})
		targets := make([]int32, n)
		for i := range targets {
			targets[i] = int32(i * 7 % v)
		}
		logp, dg, dlm := e.empty(n), half(nil, n, w), e.empty(v, w)
		q.LinearXent(LinearXent{X: g, W: LM, Targets: put(e, I32, targets, n), LogP: logp, DX: dg, DW: dlm, LossScale: 0.5})
		return outputs{"o": wide(o), "dx": wide(dx), "dv": wide(dv), "dw": get[float32](e, dw), "dn": get[float32](e, dn), "db": get[float32](e, db),
			"logp": get[float32](e, logp), "dg": wide(dg), "dlm": get[float32](e, dlm)}
	})
}

// comparePaths runs a case in every setup and wants equal bits from all, or from those with the same instruction set.
func comparePaths(t *testing.T, all bool, run func(e *env) outputs) {
	t.Helper()
	first := map[ISA]outputs{}
	for _, s := range setups(t) {
		e := newEnv(t, s)
		got := run(e)
		e.close()
		key := s.isa
		if all {
			key = ISAAuto
		}
		want, ok := first[key]
		if !ok {
			if first[key] = got; all {
				wantBits(t, got)
			}
			continue
		}
		for name := range want {
			for i, v := range want[name] {
				if math.Float32bits(v) != math.Float32bits(got[name][i]) {
					t.Fatalf("%v: %s[%d] = %x, another gives %x", s, name, i, got[name][i], v)
				}
			}
		}
	}
}
