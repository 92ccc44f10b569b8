package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type linearXent struct {
	x     autograd.Value
	dx    autograd.Tensor
	dxMem autograd.Handle
	y     autograd.Value
}

// LinearXent computes the log-probability of each target (i32 [n], negative: ignored, 0) under softmax(x W^T) without keeping logits:
// x [n, d], W [vocab, d], result f32 [n]. When recorded it also computes, in the same pass, the gradients of the loss
// scale * sum(-logp) with respect to x and W, so Backward can start from it. unit is the unit that W belongs to.
func LinearXent(t *autograd.Tape, unit *autograd.Unit, x, w autograd.Value, targets autograd.Tensor, scale float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &linearXent{x: x}
	xd := t.Data(x)
	lp, h := t.Out(xd.Dim[0])
	needs := t.Needs(x, w)
	p := kernels.LinearXent{X: xd, Targets: targets, LogP: lp, LossScale: scale}
	if needs {
		t.BeginGrads(unit)
		if t.Needs(x) {
			op.dx, op.dxMem = t.Out(xd.Dim[0], xd.Dim[1])
			p.DX = op.dx
		}
		if g, acc, ok := t.GradFor(w); ok {
			p.DW, p.DWAccumulate = g, kernels.Flag(acc)
		}
	}
	if !t.OK() {
		return autograd.Value{}
	}
	p.W = t.Data(w)
	t.Queue().LinearXent(p)
	t.Check("linear cross-entropy", xd, p.W, targets)
	op.y = t.Record(op, lp, h, needs)
	return op.y
}

// Name implements autograd.Op.
func (op *linearXent) Name() string { return "linear cross-entropy" }

// StartsGradients says that Backward needs no gradient of the output.
func (op *linearXent) StartsGradients() {}

// Backward implements autograd.Op.
func (op *linearXent) Backward(t *autograd.Tape) error {
	if t.Needs(op.x) {
		t.GiveGrad(op.x, op.dx, &op.dxMem)
	}
	return nil
}
