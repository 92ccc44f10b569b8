package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type add struct {
	residual, x, y autograd.Value
	scale          float32
}

// Add computes residual + scale * x elementwise, both [n, d]; an absent residual counts as zero.
func Add(t *autograd.Tape, residual, x autograd.Value, scale float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &add{residual: residual, x: x, scale: scale}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	if residual.Valid() {
		t.Queue().Add(kernels.Add{A: t.Data(residual), B: xd, Y: yd, Alpha: 1, Beta: scale})
	} else {
		t.Queue().Add(kernels.Add{A: xd, Y: yd, Alpha: scale})
	}
	t.Check("add", xd)
	op.y = t.Record(op, yd, h, t.Needs(residual, x))
	return op.y
}

// Name implements autograd.Op.
func (op *add) Name() string { return "add" }

// Backward implements autograd.Op.
func (op *add) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().Add(kernels.Add{A: dy, Y: g, Alpha: op.scale, Accumulate: kernels.Flag(acc)})
	}
	passResidual(t, op.y, op.residual)
	return t.Queue().Err()
}

// LogitsOf turns the head's products [n, vocab] into logits: times scale, then softcap*tanh(./softcap) where softcap is positive. It
// releases z, is for generation, and has no backward.
func LogitsOf(t *autograd.Tape, z autograd.Value, scale, softcap float32) autograd.Value {
	if !t.OK() || scale == 1 && softcap == 0 {
		return z
	}
	x := t.Data(z)
	if softcap > 0 {
		scale /= softcap
	}
	t.Queue().Add(kernels.Add{A: x, Y: x, Alpha: scale})
	if softcap > 0 {
		y, h := t.OutLike(x, x.Dim[0], x.Dim[1])
		if !t.OK() {
			return autograd.Value{}
		}
		t.Queue().ActFwd(kernels.ActFwd{X: x, Y: y, Act: kernels.Tanh})
		t.Queue().Add(kernels.Add{A: y, Y: y, Alpha: softcap})
		t.Release(z)
		z = t.Hold(y, h)
	}
	t.Check("logits", x)
	return z
}
