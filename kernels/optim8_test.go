package kernels

import "testing"

// TestRoundedOptimizers: 8-bit AdamW and Lion, over every instruction set and number of threads, have the same bits after several steps.
// That they are right is kerneltest's.
func TestRoundedOptimizers(t *testing.T) {
	const n, steps = 100*Adam8Block + 77, 3
	const blocks = (n + Adam8Block - 1) / Adam8Block
	p, g := noise(1, n), noise(2, n)
	compare(t, 0, func(e *env) outputs {
		zero := func(dt DType, n int64) Tensor {
			x, err := e.a.New(dt, n)
			if err != nil {
				t.Fatal(err)
			}
			e.q.Fill(Fill{Y: x})
			return x
		}
		a := AdamW8{P: e.f32(p, n), G: e.f32(g, n), MCodes: zero(U8, n), VCodes: zero(U8, n), MScales: zero(F32, blocks), VScales: zero(F32, blocks),
			LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}
		l := Lion{P: e.f32(p, n), G: a.G, M: zero(F32, n), LR: 1e-3, Beta1: 0.9, Beta2: 0.95, WeightDecay: 0.1, GradScale: 0.5}
		for s := int64(1); s <= steps; s++ {
			a.Step = s
			e.q.AdamW8(a)
			e.q.Lion(l)
		}
		codes := func(x Tensor) []float32 {
			out := make([]float32, n)
			for i, c := range get[uint8](e, x) {
				out[i] = float32(c)
			}
			return out
		}
		return outputs{"p": get[float32](e, a.P), "m": codes(a.MCodes), "v": codes(a.VCodes), "m's scales": get[float32](e, a.MScales),
			"v's scales": get[float32](e, a.VScales), "lion's p": get[float32](e, l.P), "lion's m": get[float32](e, l.M)}
	}, nil)
}
