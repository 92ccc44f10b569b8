package ops_test

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// bench is a device with an arena for operands and a tape.
type bench struct {
	t     *testing.T
	q     *kernels.Queue
	arena *kernels.Arena
	tape  *autograd.Tape
	rng   *rand.Rand
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	arena, err := dev.NewArena("operands", 1<<22)
	if err != nil {
		t.Fatal(err)
	}
	mem := autograd.NewMemory(dev, q, 0)
	t.Cleanup(func() {
		_ = mem.Close() // a test may have broken the queue on purpose
		arena.Close()
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t: t, q: q, arena: arena, tape: autograd.New(mem, autograd.Config{}), rng: rand.New(rand.NewPCG(1, 1))}
}

func (b *bench) tensor(dims ...int64) kernels.Tensor {
	b.t.Helper()
	x, err := b.arena.New(kernels.F32, dims...)
	if err != nil {
		b.t.Fatal(err)
	}
	v := make([]float32, x.Numel())
	for i := range v {
		v[i] = float32(b.rng.NormFloat64())
	}
	b.set(x, v)
	return x
}

func (b *bench) set(x kernels.Tensor, v []float32) {
	b.t.Helper()
	if err := kernels.Upload(b.q, x, v); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) get(x kernels.Tensor) []float32 {
	b.t.Helper()
	v := make([]float32, x.Numel())
	if err := kernels.Download(b.q, v, x); err != nil {
		b.t.Fatal(err)
	}
	return v
}

// check compares the gradients of sum(y * seed) with central differences at a few elements of every operand.
func (b *bench) check(name string, operands []kernels.Tensor, f func(t *autograd.Tape, in []autograd.Value) autograd.Value) {
	b.t.Helper()
	run := func(train bool) ([]autograd.Value, autograd.Value) {
		b.tape.Reset(context.Background(), train)
		var in []autograd.Value
		for _, x := range operands {
			in = append(in, b.tape.Leaf(x))
		}
		y := f(b.tape, in)
		if err := b.tape.Err(); err != nil {
			b.t.Fatalf("%s: %v", name, err)
		}
		return in, y
	}
	in, y := run(true)
	seed := b.tensor(b.tape.Data(y).Shape()...)
	weights := b.get(seed)
	b.tape.Seed(y, seed)
	if err := b.tape.Backward(); err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
	var grads [][]float32
	for i, v := range in {
		g, ok := b.tape.GradOf(v)
		if !ok {
			b.t.Fatalf("%s: operand %d has no gradient", name, i)
		}
		grads = append(grads, b.get(g))
	}
	b.set(seed, weights)
	value := func() float64 {
		_, y := run(false)
		var s float64
		for i, v := range b.get(b.tape.Data(y)) {
			s += float64(v) * float64(weights[i])
		}
		return s
	}
	for i, x := range operands {
		v := b.get(x)
		for range 4 {
			k := b.rng.IntN(len(v))
			const eps = 2e-2
			old := v[k]
			v[k] = old + eps
			b.set(x, v)
			up := value()
			v[k] = old - eps
			b.set(x, v)
			down := value()
			v[k] = old
			b.set(x, v)
			want, got := (up-down)/(2*eps), float64(grads[i][k])
			if math.Abs(want-got) > 5e-3*math.Max(1, math.Abs(want)) {
				b.t.Errorf("%s: operand %d element %d: gradient %g, central difference %g", name, i, k, got, want)
			}
		}
	}
}

func TestGradients(t *testing.T) {
	none := autograd.Value{}
	b := newBench(t)
	const n, in, out, r = 7, 10, 6, 3
	x, w, bias, res := b.tensor(n, in), b.tensor(out, in), b.tensor(out), b.tensor(n, out)
	b.check("linear", []kernels.Tensor{x, w, bias, res}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.Linear(t, v[0], v[1], v[2], v[3])
	})
	b.check("linear used twice", []kernels.Tensor{x, w}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.Linear(t, v[0], v[1], none, ops.Linear(t, v[0], v[1], none, none))
	})
	b.check("lora linear", []kernels.Tensor{x, w, bias, res, b.tensor(r, in), b.tensor(out, r)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.LoRALinear(t, v[0], ops.Dense(v[1]), v[2], v[3], ops.LoRA{A: v[4], B: v[5], Scale: 0.5})
	})
	b.check("lora linear, other input", []kernels.Tensor{x, b.tensor(n, in), b.tensor(r, in), b.tensor(out, r)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.LoRALinear(t, v[0], ops.Dense(t.Const(w)), none, none, ops.LoRA{A: v[2], B: v[3], Scale: 0.5, X: v[1]})
	})
	b.check("rms norm", []kernels.Tensor{x, b.tensor(in)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.RMSNorm(t, v[0], v[1], 1e-5)
	})
	b.check("swiglu", []kernels.Tensor{x, b.tensor(n, in)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		return ops.SwiGLU(t, v[0], v[1])
	})
	b.check("embedding", []kernels.Tensor{w}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		ids := t.Ints([]int32{3, 0, 3, 5, 1}, 5)
		return ops.Embedding(t, ids, ids, v[0], 1)
	})
	cos, sin := make([]float32, 4*2), make([]float32, 4*2)
	for i := range cos {
		s, c := math.Sincos(float64(i) * 0.3)
		cos[i], sin[i] = float32(c), float32(s)
	}
	b.check("attention", []kernels.Tensor{b.tensor(8, 4*4), b.tensor(8, 2*4), b.tensor(8, 2*4)}, func(t *autograd.Tape, v []autograd.Value) autograd.Value {
		// Attention rotates in place: it works on copies, so that the operands stay what they are.
		cp := func(x autograd.Value) autograd.Value {
			return ops.Linear(t, x, identity(t, t.Data(x).Dim[1]), none, none)
		}
		return ops.Attention(t, cp(v[0]), cp(v[1]), cp(v[2]), ops.AttentionConfig{Batch: 2, Seq: 4, Heads: 4, KVHeads: 2, HeadDim: 4,
			Cos: t.Floats(cos, 4, 2), Sin: t.Floats(sin, 4, 2)})
	})
}

func identity(t *autograd.Tape, n int64) autograd.Value {
	v := make([]float32, n*n)
	for i := range n {
		v[i*n+i] = 1
	}
	return t.Const(t.Floats(v, n, n))
}

func TestMisfitNamesOperationAndShapes(t *testing.T) {
	b := newBench(t)
	b.tape.Reset(context.Background(), true)
	x, w := b.tape.Leaf(b.tensor(4, 5)), b.tape.Leaf(b.tensor(3, 6))
	y := ops.Linear(b.tape, x, w, autograd.Value{}, autograd.Value{})
	ops.SwiGLU(b.tape, y, y) // does nothing: the first failure sticks
	err := b.tape.Backward()
	if err == nil || !strings.Contains(err.Error(), "linear") || !strings.Contains(err.Error(), "[4 5]") || !strings.Contains(err.Error(), "[3 6]") {
		t.Fatalf("%v", err)
	}
}

// TestFrozenOperandsArePruned: what needs no gradient is not recorded and gets none.
func TestFrozenOperandsArePruned(t *testing.T) {
	b := newBench(t)
	b.tape.Reset(context.Background(), true)
	x, w := b.tape.Const(b.tensor(4, 5)), b.tape.Const(b.tensor(5, 5))
	y := ops.Linear(b.tape, x, w, autograd.Value{}, autograd.Value{})
	if b.tape.Needs(y) {
		t.Fatal("a product of constants needs a gradient")
	}
	v := b.tape.Leaf(b.tensor(5, 5))
	z := ops.Linear(b.tape, y, v, autograd.Value{}, autograd.Value{})
	b.tape.Seed(z, b.tensor(4, 5))
	if err := b.tape.Backward(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]autograd.Value{"x": x, "w": w, "y": y} {
		if _, ok := b.tape.GradOf(c); ok {
			t.Errorf("constant %s got a gradient", name)
		}
	}
	if _, ok := b.tape.GradOf(v); !ok {
		t.Error("the leaf got none")
	}
}
