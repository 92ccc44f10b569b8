package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// singleLinear is y = x W^T + b in f32.
type singleLinear struct {
	x, w, b, y autograd.Value
}

// SingleLinear is Linear whose weight and output are f32 whatever the type of x: a router's logits, where a rounded difference sends a
// token to other experts.
func SingleLinear(t *autograd.Tape, x, w, b autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &singleLinear{x: x, w: w, b: b}
	xd, wd := t.Data(x), t.Master(w)
	yd, h := t.Out(xd.Dim[0], wd.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	p := kernels.Gemm{A: xd, B: wd.T(), C: yd, Alpha: 1}
	if b.Valid() {
		p.Bias = t.Data(b)
	}
	t.Queue().Gemm(p)
	t.Check("linear in f32", xd, wd)
	var saved autograd.Value
	if t.Needs(w) {
		saved = x
	}
	op.y = t.Record(op, yd, h, t.Needs(x, w, b), saved)
	return op.y
}

// Name implements autograd.Op.
func (op *singleLinear) Name() string { return "linear in f32" }

// Backward implements autograd.Op.
func (op *singleLinear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, acc, ok := t.GradFor(op.w); ok {
		q.Gemm(kernels.Gemm{A: dy.T(), B: t.Data(op.x), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	if g, acc, ok := t.GradFor(op.b); ok {
		q.ColSum(kernels.ColSum{X: dy, Y: g, Accumulate: kernels.Flag(acc)})
	}
	if g, acc, ok := t.GradFor(op.x); ok {
		q.Gemm(kernels.Gemm{A: dy, B: t.Master(op.w), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	return q.Err()
}
