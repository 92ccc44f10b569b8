package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// doraRows is y = (m / n) * [W, B] by rows.
type doraRows struct {
	doraLinear
	dense autograd.Value
}

// DoRARows computes [out, in + r], the rows of [W, B] times m / n with n the norms of the rows of W + scale * B A, which count as constants: the
// weight that a fused loss multiplies with [x, scale * x A^T] for an output head that DoRA adapts (see DoRALinear). w is frozen.
func DoRARows(t *autograd.Tape, w autograd.Value, lora LoRA, m autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &doraRows{dense: w, doraLinear: doraLinear{linear: linear{w: Dense(w)}, lora: update{LoRA: lora}, m: m}}
	op.norms(t)
	cat, ch := op.concat(t)
	g, gh := op.factors(t)
	if !t.OK() {
		return autograd.Value{}
	}
	yd, h := t.OutLike(cat, cat.Dim[0], cat.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().MoECombineFwd(kernels.MoECombineFwd{X: cat, Weights: g, Y: yd, K: 1})
	t.Check("dora rows", cat, g)
	t.Free(&ch)
	t.Free(&gh)
	op.y = t.Record(op, yd, h, t.Needs(lora.B, m), op.rnorm)
	t.Release(op.rnorm)
	return op.y
}

// concat lays W and B side by side.
func (op *doraRows) concat(t *autograd.Tape) (autograd.Tensor, autograd.Handle) {
	wd, bd := t.Data(op.dense), t.Data(op.lora.B)
	cat, h := t.OutLike(wd, wd.Dim[0], wd.Dim[1]+bd.Dim[1])
	if t.OK() {
		t.Queue().Copy(kernels.Copy{X: wd, Y: cat.Slice(1, 0, wd.Dim[1])})
		t.Queue().Copy(kernels.Copy{X: bd, Y: cat.Slice(1, wd.Dim[1], cat.Dim[1])})
	}
	return cat, h
}

// factors are m / n, [out, 1].
func (op *doraRows) factors(t *autograd.Tape) (autograd.Tensor, autograd.Handle) {
	n := op.w.shape(t).Dim[0]
	g, h := t.Out(n)
	if !t.OK() {
		return g, h
	}
	t.Queue().Mul(kernels.Mul{A: t.Data(op.m), B: t.Data(op.rnorm), Y: g})
	t.Queue().Add(kernels.Add{A: g, Y: g, Alpha: op.inv})
	return g.Reshape(n, 1), h
}

// Name implements autograd.Op.
func (op *doraRows) Name() string { return "dora rows" }

// Backward implements autograd.Op.
func (op *doraRows) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	cat, ch := op.concat(t)
	g, gh := op.factors(t)
	dg, dh := t.Out(cat.Dim[0], 1)
	dx, xh := t.OutLike(dy, dy.Dim[0], dy.Dim[1])
	if !t.OK() {
		return t.Err()
	}
	q.MoECombineBwd(kernels.MoECombineBwd{X: cat, Weights: g, DY: dy, DX: dx, DWeights: dg, K: 1})
	if y, acc, ok := t.GradFor(op.m); ok {
		flat := dg.Reshape(dg.Dim[0])
		q.Mul(kernels.Mul{A: flat, B: t.Data(op.rnorm), Y: flat})
		q.Add(kernels.Add{A: flat, Y: y, Alpha: op.inv, Accumulate: kernels.Flag(acc)})
	}
	if y, acc, ok := t.GradFor(op.lora.B); ok {
		part := dx.Slice(1, t.Data(op.dense).Dim[1], dx.Dim[1])
		if part.DType != y.DType {
			x, h := t.OutAs(y.DType, part.Shape()...)
			if !t.OK() {
				return t.Err()
			}
			q.Copy(kernels.Copy{X: part, Y: x})
			q.Add(kernels.Add{A: x, Y: y, Alpha: 1, Accumulate: kernels.Flag(acc)})
			t.Free(&h)
		} else {
			q.Add(kernels.Add{A: part, Y: y, Alpha: 1, Accumulate: kernels.Flag(acc)})
		}
	}
	t.Free(&ch)
	t.Free(&gh)
	t.Free(&dh)
	t.Free(&xh)
	return q.Err()
}
