package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type clamp struct {
	x, y   autograd.Value
	lo, hi float32
}

// Clamp computes min(max(x, lo), hi) elementwise; the gradient passes where x lies within.
func Clamp(t *autograd.Tape, x autograd.Value, lo, hi float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &clamp{x: x, lo: lo, hi: hi}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	op.Rematerialize(t, yd)
	t.Check("clamp", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x)
	return op.y
}

// Name implements autograd.Op.
func (op *clamp) Name() string { return "clamp" }

// Rematerialize implements autograd.Rematerializer.
func (op *clamp) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().ClampFwd(kernels.ClampFwd{X: t.Data(op.x), Y: out, Lo: op.lo, Hi: op.hi})
}

// Backward implements autograd.Op.
func (op *clamp) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().ClampBwd(kernels.ClampBwd{X: t.Data(op.x), DY: dy, DX: g, Lo: op.lo, Hi: op.hi, Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
