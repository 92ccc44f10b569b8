package kernels

import "testing"

func TestClamp(t *testing.T) {
	const rows, d = 9, 37
	x, dy := noise(1, rows*d), noise(2, rows*d)
	want, grad := make([]float64, len(x)), make([]float64, len(x))
	for i, v := range x {
		want[i] = min(max(float64(v), -0.5), 0.25)
		if v >= -0.5 && v <= 0.25 {
			grad[i] = float64(dy[i])
		}
	}
	compare(t, 0, func(e *env) outputs {
		X, Y, DX := e.f32(x, rows, d), e.empty(rows, d), e.empty(rows, d)
		e.q.ClampFwd(ClampFwd{X: X, Y: Y, Lo: -0.5, Hi: 0.25})
		e.q.ClampBwd(ClampBwd{X: X, DY: e.f32(dy, rows, d), DX: DX, Lo: -0.5, Hi: 0.25})
		return outputs{"y": get[float32](e, Y), "dx": get[float32](e, DX)}
	}, map[string][]float64{"y": want, "dx": grad})
}

// TestMoE runs a layer of experts forward and backward; compare wants equal bits from every instruction set and thread count. The
// numbers themselves are checked in kerneltest.
func TestMoE(t *testing.T) {
	const n, e, k, d, f = 150, 7, 3, 37, 21
	logits, x, w, dy := noise(1, n*e), noise(2, n*d), noise(3, e*2*f*d), noise(4, n*f)
	ints := func(v *env, dims ...int64) Tensor {
		i, err := v.a.New(I32, dims...)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	compare(t, 0, func(v *env) outputs {
		q := v.q
		L, X, W := v.f32(logits, n, e), v.f32(x, n, d), v.f32(w, e, 2*f, d)
		scores, weights, ids := v.empty(n, e), v.empty(n, k), ints(v, n, k)
		q.MoERouteFwd(MoERouteFwd{Logits: L, Bias: L.Select(0, 0), Scores: scores, IDs: ids, Weights: weights, K: k, Score: RouteSigmoid, Normalize: 1, Scale: 1.5})
		off, order, place, tokens := ints(v, e+1), ints(v, n*k), ints(v, n*k), ints(v, n*k)
		q.MoESort(MoESort{IDs: ids, Offsets: off, Order: order, Place: place, Tokens: tokens, Experts: e})
		xp, h, g, y := v.empty(n*k, d), v.empty(n*k, 2*f), v.empty(n*k, f), v.empty(n, f)
		q.GatherRows(GatherRows{X: X, IDs: tokens, Y: xp, Scale: 1})
		q.GroupedGemm(GroupedGemm{A: xp, B: W.Transpose(1, 2), C: h, Offsets: off, Alpha: 1})
		q.GLUClampedFwd(GLUClampedFwd{X: h, Y: g, Alpha: 1.702, Limit: 3, Interleaved: 1})
		q.MoECombineFwd(MoECombineFwd{X: g, Place: place, Weights: weights, Y: y, K: k})
		DY, dg, dh, dw, dxp := v.f32(dy, n, f), v.empty(n*k, f), v.empty(n*k, 2*f), v.empty(n, k), v.empty(n*k, d)
		dW, dl, db := v.empty(e, 2*f, d), v.empty(n, e), v.empty(e, 2*f)
		q.MoECombineBwd(MoECombineBwd{X: g, Place: place, Weights: weights, DY: DY, DX: dg, DWeights: dw, K: k})
		q.GLUClampedBwd(GLUClampedBwd{X: h, DY: dg, DX: dh, Alpha: 1.702, Limit: 3, Interleaved: 1})
		q.GroupedGemm(GroupedGemm{A: dh, B: W, C: dxp, Offsets: off, Alpha: 1})
		q.GroupedGemmDW(GroupedGemmDW{A: dh, B: xp, C: dW, Offsets: off, Alpha: 1})
		q.GroupedColSum(GroupedColSum{X: dh, Y: db, Offsets: off})
		q.MoERouteBwd(MoERouteBwd{Scores: scores, IDs: ids, DWeights: dw, DLogits: dl, K: k, Score: RouteSigmoid, Normalize: 1, Scale: 1.5})
		counts, err := v.a.New(F64, 2, e)
		if err != nil {
			t.Fatal(err)
		}
		q.MoEAuxFwd(MoEAuxFwd{X: L, Counts: counts.Select(0, 0), Probs: counts.Select(0, 1), K: k})
		q.MoEAuxBwd(MoEAuxBwd{X: L, Counts: counts.Select(0, 0), DX: dl, Scale: 0.1, Accumulate: 1})
		probs := v.empty(e)
		q.Copy(Copy{X: counts.Select(0, 1), Y: probs})
		return outputs{"y": get[float32](v, y), "dx": get[float32](v, dxp), "dw": get[float32](v, dW), "db": get[float32](v, db), "dlogits": get[float32](v, dl),
			"probs": get[float32](v, probs)}
	}, nil)
}
