package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type embedding struct {
	learn autograd.Tensor
	w, y  autograd.Value
	scale float32
}

// Embedding gathers scale times the rows of w [vocab, d] that ids (i32 [n]) name. learn are the rows that get the gradients: ids, or a copy
// with -1 for lookups that give none.
func Embedding(t *autograd.Tape, ids, learn autograd.Tensor, w autograd.Value, scale float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &embedding{learn: learn, w: w, scale: scale}
	wd := t.Held(w)
	yd, h := t.OutAs(t.Compute(), ids.Numel(), wd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().GatherRows(kernels.GatherRows{X: wd, IDs: ids, Y: yd, Scale: scale})
	t.Check("embedding", wd, ids)
	op.y = t.Record(op, yd, h, t.Needs(w))
	return op.y
}

// Name implements autograd.Op.
func (op *embedding) Name() string { return "embedding" }

// Backward implements autograd.Op.
func (op *embedding) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.w); ok {
		t.Queue().ScatterAddRows(kernels.ScatterAddRows{X: dy, IDs: op.learn, Y: g, Scale: op.scale, Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
