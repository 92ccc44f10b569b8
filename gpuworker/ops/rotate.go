package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Rotary is where and how positions rotate heads.
type Rotary struct {
	// Batch and Seq are the shape of the tokens, HeadDim the length of a head, RotDim of its rotated part.
	Batch, Seq, HeadDim, RotDim int
	Interleaved                 bool
	// Cos and Sin are tables [positions, RotDim/2]; Pos (i32 [batch, seq]) the rows to use, default 0, 1, ...
	Cos, Sin, Pos autograd.Tensor
}

type rotate struct {
	x, y autograd.Value
	c    Rotary
}

// Rotate rotates the heads of x [n, heads*dim] by their positions (https://arxiv.org/abs/2104.09864), where something follows before
// attention; otherwise Attention does it itself.
func Rotate(t *autograd.Tape, x autograd.Value, c Rotary) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &rotate{x: x, c: c}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().Rope(op.params(xd, yd))
	t.Check("rotate", xd, c.Cos)
	op.y = t.Record(op, yd, h, t.Needs(x))
	return op.y
}

func (op *rotate) params(x, y autograd.Tensor) kernels.Rope {
	heads := func(t autograd.Tensor) autograd.Tensor {
		return t.Reshape(int64(op.c.Batch), int64(op.c.Seq), -1, int64(op.c.HeadDim))
	}
	return kernels.Rope{X: heads(x), Y: heads(y), Pos: op.c.Pos, Cos: op.c.Cos, Sin: op.c.Sin, RotDim: int32(op.c.RotDim),
		Interleaved: kernels.Flag(op.c.Interleaved)}
}

// Name implements autograd.Op.
func (op *rotate) Name() string { return "rotate" }

// Backward implements autograd.Op.
func (op *rotate) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		p := op.params(dy, g)
		p.Inverse, p.Accumulate = 1, kernels.Flag(acc)
		t.Queue().Rope(p)
	}
	return t.Queue().Err()
}
