package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// linear is y = residual + x W^T + b.
type linear struct {
	x, w, b, residual, y autograd.Value
}

// Linear computes y = residual + x W^T + b with x [n, in], W [out, in]; b [out] and residual [n, out] may be absent.
func Linear(t *autograd.Tape, x, w, b, residual autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &linear{x: x, w: w, b: b, residual: residual}
	xd, wd := t.Data(x), t.Data(w)
	yd, h := t.Out(xd.Dim[0], wd.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	q := t.Queue()
	acc := residual.Valid()
	if acc {
		q.Copy(kernels.Copy{X: t.Data(residual), Y: yd})
	}
	g := kernels.Gemm{A: xd, B: wd.T(), C: yd, Alpha: 1, Accumulate: kernels.Flag(acc)}
	if b.Valid() {
		g.Bias = t.Data(b)
	}
	q.Gemm(g)
	t.Check("linear", xd, wd)
	var saved autograd.Value
	if t.Needs(w) {
		saved = x
	}
	op.y = t.Record(op, yd, h, t.Needs(x, w, b, residual), saved)
	return op.y
}

// Name implements autograd.Op.
func (op *linear) Name() string { return "linear" }

// Backward implements autograd.Op: dx = dy W, dW = dy^T x, db = column sums, and dy goes on to the residual.
func (op *linear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, acc, ok := t.GradFor(op.w); ok {
		q.Gemm(kernels.Gemm{A: dy.T(), B: t.Data(op.x), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	if g, acc, ok := t.GradFor(op.b); ok {
		q.ColSum(kernels.ColSum{X: dy, Y: g, Accumulate: kernels.Flag(acc)})
	}
	gradX := t.GradFor
	if t.Needs(op.w) {
		gradX = t.GradInPlace // x has been read, and was kept for this only
	}
	if g, acc, ok := gradX(op.x); ok {
		q.Gemm(kernels.Gemm{A: dy, B: t.Data(op.w), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
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

// LoRA holds the low-rank operands of LoRALinear: A [r, in], B [out, r], and the factor on the update.
type LoRA struct {
	A, B  autograd.Value
	Scale float32
}

// loraLinear is y = residual + x W^T + b + scale * (x A^T) B^T.
type loraLinear struct {
	linear
	lora LoRA
	hid  autograd.Value
}

// LoRALinear computes a linear layer with a low-rank update (https://arxiv.org/abs/2106.09685). The base weight may be frozen: then x is
// kept for the gradient of A only.
func LoRALinear(t *autograd.Tape, x, w, b, residual autograd.Value, lora LoRA) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &loraLinear{linear: linear{x: x, w: w, b: b, residual: residual}, lora: lora}
	xd, wd, ad, bd := t.Data(x), t.Data(w), t.Data(lora.A), t.Data(lora.B)
	yd, h := t.Out(xd.Dim[0], wd.Dim[0])
	hd, hh := t.Out(xd.Dim[0], ad.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	q := t.Queue()
	acc := residual.Valid()
	if acc {
		q.Copy(kernels.Copy{X: t.Data(residual), Y: yd})
	}
	g := kernels.Gemm{A: xd, B: wd.T(), C: yd, Alpha: 1, Accumulate: kernels.Flag(acc)}
	if b.Valid() {
		g.Bias = t.Data(b)
	}
	q.Gemm(g)
	q.Gemm(kernels.Gemm{A: xd, B: ad.T(), C: hd, Alpha: 1})
	q.Gemm(kernels.Gemm{A: hd, B: bd.T(), C: yd, Alpha: lora.Scale, Accumulate: 1})
	t.Check("lora linear", xd, wd, ad, bd)
	op.hid = t.Hold(hd, hh)
	var saved [2]autograd.Value
	if t.Needs(w, lora.A) {
		saved[0] = x
	}
	if t.Needs(lora.B) {
		saved[1] = op.hid
	}
	op.y = t.Record(op, yd, h, t.Needs(x, w, b, residual, lora.A, lora.B), saved[:]...)
	t.Release(op.hid)
	return op.y
}

// Name implements autograd.Op.
func (op *loraLinear) Name() string { return "lora linear" }

// Backward implements autograd.Op.
func (op *loraLinear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, acc, ok := t.GradFor(op.lora.B); ok {
		q.Gemm(kernels.Gemm{A: dy.T(), B: t.Data(op.hid), C: g, Alpha: op.lora.Scale, Accumulate: kernels.Flag(acc)})
	}
	if t.Needs(op.lora.A, op.x) {
		bd := t.Data(op.lora.B)
		dh, h := t.Out(dy.Dim[0], bd.Dim[1])
		if !t.OK() {
			return t.Err()
		}
		q.Gemm(kernels.Gemm{A: dy, B: bd, C: dh, Alpha: op.lora.Scale})
		if g, acc, ok := t.GradFor(op.lora.A); ok {
			q.Gemm(kernels.Gemm{A: dh.T(), B: t.Data(op.x), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
		}
		if g, acc, ok := t.GradFor(op.x); ok {
			q.Gemm(kernels.Gemm{A: dh, B: t.Data(op.lora.A), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
		}
		t.Free(&h)
	}
	return op.linear.Backward(t)
}
