package kernels

import "testing"

// TestWholeOptimizers: what optimizers of whole tensors are made of, over every instruction set and number of threads, has the same bits after
// several steps. That they are right is kerneltest's.
func TestWholeOptimizers(t *testing.T) {
	const b, n, m, steps = 2, 75, 4096 + 77, 3
	p, g := noise(1, b*n*m), noise(2, b*n*m)
	compare(t, 0, func(e *env) outputs {
		zero := func(dt DType, n int64) Tensor {
			x, err := e.a.New(dt, n)
			if err != nil {
				t.Fatal(err)
			}
			e.q.Fill(Fill{Y: x})
			return x
		}
		grad := e.f32(g, b, n, m)
		mini := AdamMini{P: e.f32(p, b*n*m), M: zero(F32, b*n*m), G: grad.Reshape(-1), V: zero(F32, b*n), LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1,
			GradScale: 0.3}
		ada := Adafactor{P: e.f32(p, b, n, m), Row: zero(F32, b*n), Col: zero(F32, b*m), M: zero(F32, b*n*m), LR: 1e-2, Beta1: 0.9, Beta2: 0.3, Eps1: 1e-30, Eps2: 1e-3,
			ClipThreshold: 0.7, WeightDecay: 0.1, GradScale: 0.3, ScaleParameter: 1}
		vec := Adafactor{P: e.f32(p[:n*m], n*m), V: zero(F32, n*m), LR: 1e-2, Beta2: 0.3, Eps1: 1e-30, ClipThreshold: 0.7}
		dir := AdamDir{X: grad.Reshape(-1), M: zero(F32, b*n*m), V: zero(F32, b*n*m), Y: e.empty(b * n * m), Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Scale: 0.3}
		for s := int64(1); s <= steps; s++ {
			mini.Step = s
			e.q.AdamMini(mini)
			ada.G, vec.G = e.f32(g, b, n, m), e.f32(g[:n*m], n*m)
			e.q.Adafactor(ada)
			e.q.Adafactor(vec)
			e.q.AdamDir(dir)
		}
		rows, cols, ratio, last, limit := zero(F64, b*n), zero(F64, b*m), e.empty(b*n), e.f32([]float32{0.5}, 1), e.empty(1)
		e.q.SqSums(SqSums{X: grad, Rows: rows, Cols: cols, Scale: 0.3, Eps: 1e-3})
		e.q.NormRatio(NormRatio{Num: rows, Den: cols.Slice(0, 0, b*n), Y: ratio, Eps: 1e-8})
		e.q.NormLimit(NormLimit{SumSq: rows.Slice(0, 0, 1), Last: last, Y: limit, Growth: 1.01, Eps: 1e-8})
		scaled := e.empty(b*n, m)
		e.q.ScaleRows(ScaleRows{X: grad.Reshape(b*n, m), R: ratio, Y: scaled})
		inner := zero(F64, 35*35)
		e.q.Gram(Gram{X: e.f32(g[:35*n*3+35], 35, n*3+1), Y: inner})
		return outputs{"inner products": get[float32](e, NewTensor(inner.Data, F32, 2*inner.Numel())), "mini's p": get[float32](e, mini.P), "mini's m": get[float32](e, mini.M), "mini's v": get[float32](e, mini.V), "adafactor's p": get[float32](e, ada.P),
			"rows": get[float32](e, ada.Row), "cols": get[float32](e, ada.Col), "adafactor's m": get[float32](e, ada.M), "vector's p": get[float32](e, vec.P),
			"vector's v": get[float32](e, vec.V), "direction": get[float32](e, dir.Y), "scaled": get[float32](e, scaled), "limit": get[float32](e, limit), "last": get[float32](e, last)}
	}, nil)
}
