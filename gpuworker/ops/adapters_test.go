package ops_test

import (
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// TestDoRAGradients: the norm is a constant in the backward pass, so the forward is compared with itself at the norm of the unmoved
// factors: the magnitudes, the input, the bias and the residual by central differences, the factors against those of a LoRA layer whose
// output gradient is scaled by magnitude over norm.
func TestDoRAGradients(t *testing.T) {
	b := newBench(t)
	const n, in, out, r = 7, 10, 6, 3
	w, lA, lB := b.tensor(out, in), b.tensor(r, in), b.tensor(out, r)
	dora := func(t *autograd.Tape, x, bias, res, la, lb, m autograd.Value) autograd.Value {
		return ops.DoRALinear(t, x, ops.Dense(t.Const(w)), bias, res, ops.LoRA{A: la, B: lb, Scale: 0.5}, m)
	}
	x, m := b.tensor(n, in), b.tensor(out)
	b.check("dora linear", []kernels.Tensor{x, b.tensor(out), b.tensor(n, out), m}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return dora(t, v[0], v[1], v[2], t.Const(lA), t.Const(lB), v[3])
	})
	// Gradients of the factors.
	seed := b.tensor(n, out)
	none := autograd.Value{}
	grads := func(f func(la, lb autograd.Value) autograd.Value, seed kernels.Tensor) [2][]float32 {
		b.tape.Reset(t.Context(), true)
		la, lb := b.tape.Leaf(lA), b.tape.Leaf(lB)
		b.tape.Seed(f(la, lb), seed)
		if err := b.tape.Backward(); err != nil {
			t.Fatal(err)
		}
		var out [2][]float32
		for i, v := range []autograd.Value{la, lb} {
			g, ok := b.tape.GradOf(v)
			if !ok {
				t.Fatal("no gradient")
			}
			out[i] = b.get(g)
		}
		return out
	}
	got := grads(func(la, lb autograd.Value) autograd.Value {
		return dora(b.tape, b.tape.Const(x), none, none, la, lb, b.tape.Const(m))
	}, seed)
	wv, av, bv, mv, sv := b.get(w), b.get(lA), b.get(lB), b.get(m), b.get(seed)
	scaled := make([]float32, len(sv))
	for o := range out {
		var sq float64
		for i := range in {
			v := float64(wv[o*in+i])
			for k := range r {
				v += 0.5 * float64(bv[o*r+k]) * float64(av[k*in+i])
			}
			sq += v * v
		}
		for row := range n {
			scaled[row*out+o] = float32(float64(sv[row*out+o]) * float64(mv[o]) / math.Sqrt(sq))
		}
	}
	ss := b.tensor(n, out)
	b.set(ss, scaled)
	want := grads(func(la, lb autograd.Value) autograd.Value {
		return ops.LoRALinear(b.tape, b.tape.Const(x), ops.Dense(b.tape.Const(w)), none, none, ops.LoRA{A: la, B: lb, Scale: 0.5})
	}, ss)
	for i := range want {
		for k := range want[i] {
			if d := math.Abs(float64(want[i][k] - got[i][k])); d > 1e-4*(1+math.Abs(float64(want[i][k]))) {
				t.Errorf("factor %d element %d: %g, want %g", i, k, got[i][k], want[i][k])
			}
		}
	}
}

func TestAdapterOperationGradients(t *testing.T) {
	b := newBench(t)
	const n, r, size = 5, 3, 4
	x := b.tensor(n, r*size)
	small := func(dims ...int64) kernels.Tensor {
		w := b.tensor(dims...)
		v := b.get(w)
		for i := range v {
			v[i] *= 0.2
		}
		b.set(w, v)
		return w
	}
	for _, coef := range [][]float32{{1}, {1, 2}, {1, 2, 2, 1}, {1, 2, 2, 2, 1}} {
		for _, blocks := range []int64{r, 1} {
			b.check("rotate", []kernels.Tensor{x, small(blocks, size*(size-1)/2)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
				return ops.RotateBlocks(t, v[0], v[1], size, coef)
			})
		}
	}
	y := b.tensor(n, 7)
	b.check("concat", []kernels.Tensor{x, y}, func(t *autograd.Tape, v []autograd.Value) autograd.Value { return ops.Concat(t, v[0], v[1], 0.5, 2) })
	b.check("activate", []kernels.Tensor{y}, func(t *autograd.Tape, v []autograd.Value) autograd.Value { return ops.Activate(t, v[0], kernels.Tanh) })
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = int64(i) << 24
	}
	b.tape.SetNoise(&autograd.Noise{Seed: 7, Step: 3, IDs: ids})
	b.check("dropout", []kernels.Tensor{y}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		rows, ok := t.Noise()
		if !ok {
			// Central differences are taken in evaluation passes: the ids come from the host then.
			raw, err := b.arena.New(kernels.I64, n)
			if err != nil {
				b.t.Fatal(err)
			}
			if err := kernels.Upload(b.q, raw, ids); err != nil {
				b.t.Fatal(err)
			}
			rows = autograd.NoiseRows{Seed: 7, Step: 3, Rows: raw}
		}
		return ops.Dropout(t, v[0], ops.DropoutConfig{P: 0.4, Seed: rows.Seed, Stream: autograd.Mix(rows.Step), Rows: rows.Rows})
	})
}
