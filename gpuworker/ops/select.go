package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type selectRows struct {
	x, y autograd.Value
	ids  autograd.Tensor
}

// SelectRows gathers rows of x [n, d] by distinct indices (i32 [m]) to [m, d]: the last position of each sequence for a value head.
func SelectRows(t *autograd.Tape, x autograd.Value, rows []int32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &selectRows{x: x, ids: t.Ints(rows, int64(len(rows)))}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, int64(len(rows)), xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().GatherRows(kernels.GatherRows{X: xd, IDs: op.ids, Y: yd, Scale: 1})
	t.Check("select rows", xd, op.ids)
	op.y = t.Record(op, yd, h, t.Needs(x))
	return op.y
}

// Name implements autograd.Op.
func (op *selectRows) Name() string { return "select rows" }

// Backward implements autograd.Op.
func (op *selectRows) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().ScatterAddRows(kernels.ScatterAddRows{X: dy, IDs: op.ids, Y: g, Scale: 1, Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
