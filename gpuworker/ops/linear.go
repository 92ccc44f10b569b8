package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// linear is y = residual + x W^T + b.
type linear struct {
	x, b, residual, y autograd.Value
	w                 Matrix
}

// Linear computes y = residual + x W^T + b with x [n, in], W [out, in]; b [out] and residual [n, out] may be absent.
func Linear(t *autograd.Tape, x, w, b, residual autograd.Value) autograd.Value {
	return MatrixLinear(t, x, Dense(w), b, residual)
}

// MatrixLinear is Linear for a weight that may be packed.
func MatrixLinear(t *autograd.Tape, x autograd.Value, w Matrix, b, residual autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &linear{x: x, w: w, b: b, residual: residual}
	yd, h := op.forward(t)
	if !t.OK() {
		return autograd.Value{}
	}
	t.Check("linear", t.Data(x), w.shape(t))
	var saved autograd.Value
	if t.Needs(w.dense) {
		saved = x
	}
	op.y = t.Record(op, yd, h, t.Needs(x, w.dense, b, residual), saved)
	return op.y
}

// forward computes the output into fresh memory.
func (op *linear) forward(t *autograd.Tape) (kernels.Tensor, autograd.Handle) {
	xd := t.Data(op.x)
	yd, h := t.OutLike(xd, xd.Dim[0], op.w.shape(t).Dim[0])
	if !t.OK() {
		return yd, h
	}
	acc := op.residual.Valid()
	if acc {
		t.Queue().Copy(kernels.Copy{X: t.Data(op.residual), Y: yd})
	}
	var bias kernels.Tensor
	if op.b.Valid() {
		bias = t.Data(op.b)
	}
	op.w.forward(t, xd, yd, bias, acc)
	return yd, h
}

// Name implements autograd.Op.
func (op *linear) Name() string { return "linear" }

// Backward implements autograd.Op: dx = dy W, dW = dy^T x, db = column sums, and dy goes on to the residual.
func (op *linear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, acc, ok := t.GradFor(op.w.dense); ok {
		q.Gemm(kernels.Gemm{A: dy.T(), B: t.Data(op.x), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	if g, acc, ok := t.GradFor(op.b); ok {
		q.ColSum(kernels.ColSum{X: dy, Y: g, Accumulate: kernels.Flag(acc)})
	}
	gradX := t.GradFor
	if t.Needs(op.w.dense) {
		gradX = t.GradInPlace // x has been read, and was kept for this only
	}
	if g, acc, ok := gradX(op.x); ok {
		op.w.backward(t, dy, g, acc)
	}
	passResidual(t, op.y, op.residual)
	return q.Err()
}

// passResidual sends the gradient of y on to the residual that was added to it, without a copy where the residual has none yet.
func passResidual(t *autograd.Tape, y, residual autograd.Value) {
	if !t.Needs(residual) {
		return
	}
	dy, _ := t.Grad(y)
	if t.PassGrad(y, residual) {
		return
	}
	if g, _, ok := t.GradFor(residual); ok {
		t.Queue().Add(kernels.Add{A: dy, Y: g, Alpha: 1, Accumulate: 1})
	}
}
