package ops

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// HeadPart is a stretch of each head of X [n, Heads*w]: the elements From to To of a head's w. With Shared, X is one head for all.
type HeadPart struct {
	X        autograd.Value
	From, To int
	Shared   bool
}

type joinHeads struct {
	heads int64
	parts []HeadPart
	y     autograd.Value
}

// JoinHeads makes heads of parts laid one after another: [n, heads * sum of the parts' lengths].
func JoinHeads(t *autograd.Tape, heads int, parts ...HeadPart) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &joinHeads{heads: int64(heads), parts: parts}
	var width int64
	var values []autograd.Value
	for _, p := range parts {
		width += int64(p.To - p.From)
		values = append(values, p.X)
	}
	first := t.Data(parts[0].X)
	yd, h := t.OutLike(first, first.Dim[0], op.heads*width)
	if !t.OK() {
		return autograd.Value{}
	}
	op.each(yd, func(i int, y autograd.Tensor) {
		x := op.view(t.Data(parts[i].X), i)
		if parts[i].Shared {
			x.Dim[1], x.Stride[1] = op.heads, 0
		}
		t.Queue().Copy(kernels.Copy{X: x, Y: y})
	})
	t.Check("joining of heads", yd)
	op.y = t.Record(op, yd, h, t.Needs(values...))
	return op.y
}

// view is part i of an operand, or of its gradient: [n, heads, length].
func (op *joinHeads) view(x autograd.Tensor, i int) autograd.Tensor {
	p, heads := op.parts[i], op.heads
	if p.Shared {
		heads = 1
	}
	return x.Reshape(x.Dim[0], heads, -1).Slice(2, int64(p.From), int64(p.To))
}

// each calls f with part i of y as [n, heads, length].
func (op *joinHeads) each(y autograd.Tensor, f func(i int, y autograd.Tensor)) {
	y = y.Reshape(y.Dim[0], op.heads, -1)
	at := int64(0)
	for i, p := range op.parts {
		n := int64(p.To - p.From)
		f(i, y.Slice(2, at, at+n))
		at += n
	}
}

// Name implements autograd.Op.
func (op *joinHeads) Name() string { return "joining of heads" }

// Backward implements autograd.Op. What the heads share gets the sum over heads in their order.
func (op *joinHeads) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	op.each(dy, func(i int, y autograd.Tensor) {
		g, acc, ok := t.GradFor(op.parts[i].X)
		if !ok {
			return
		}
		if !acc {
			q.Fill(kernels.Fill{Y: g})
		}
		x := op.view(g, i)
		if !op.parts[i].Shared {
			q.Add(kernels.Add{A: y, Y: x, Alpha: 1, Accumulate: 1})
			return
		}
		for h := range op.heads {
			q.Add(kernels.Add{A: y.Slice(1, h, h+1), Y: x, Alpha: 1, Accumulate: 1})
		}
	})
	return q.Err()
}

type columns struct {
	x, y   autograd.Value
	lo, hi int64
}

// Columns copies columns lo to hi of x [n, d].
func Columns(t *autograd.Tape, x autograd.Value, lo, hi int) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &columns{x: x, lo: int64(lo), hi: int64(hi)}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], op.hi-op.lo)
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().Copy(kernels.Copy{X: xd.Slice(1, op.lo, op.hi), Y: yd})
	t.Check("columns", xd)
	op.y = t.Record(op, yd, h, t.Needs(x))
	return op.y
}

// Name implements autograd.Op.
func (op *columns) Name() string { return "columns" }

// Backward implements autograd.Op.
func (op *columns) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		if !acc {
			t.Queue().Fill(kernels.Fill{Y: g})
		}
		t.Queue().Add(kernels.Add{A: dy, Y: g.Slice(1, op.lo, op.hi), Alpha: 1, Accumulate: 1})
	}
	return t.Queue().Err()
}

type rowRange struct {
	x, y   autograd.Value
	lo, hi int64
}

// RowRange copies rows lo to hi of x [n, d].
func RowRange(t *autograd.Tape, x autograd.Value, lo, hi int) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &rowRange{x: x, lo: int64(lo), hi: int64(hi)}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, op.hi-op.lo, xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	op.Rematerialize(t, yd)
	t.Check("rows", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x)
	return op.y
}

// Name implements autograd.Op.
func (op *rowRange) Name() string { return "rows" }

// Rematerialize implements autograd.Rematerializer.
func (op *rowRange) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().Copy(kernels.Copy{X: t.Data(op.x).Slice(0, op.lo, op.hi), Y: out})
}

// Backward implements autograd.Op.
func (op *rowRange) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		if !acc {
			t.Queue().Fill(kernels.Fill{Y: g})
		}
		t.Queue().Add(kernels.Add{A: dy, Y: g.Slice(0, op.lo, op.hi), Alpha: 1, Accumulate: 1})
	}
	return t.Queue().Err()
}

type stackRows struct {
	parts []autograd.Value
	y     autograd.Value
}

// StackRows copies matrices of n rows together and one after another; d is their width. Absent ones have no rows.
func StackRows(t *autograd.Tape, n, d int64, parts ...autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &stackRows{parts: parts}
	yd, h := t.OutAs(t.Compute(), n, d)
	if !t.OK() {
		return autograd.Value{}
	}
	at := int64(0)
	for _, p := range parts {
		if p.Valid() {
			x := t.Data(p)
			t.Queue().Copy(kernels.Copy{X: x, Y: yd.Slice(0, at, at+x.Dim[0])})
			at += x.Dim[0]
		}
	}
	if at != n {
		t.Fail("stacking of rows", fmt.Errorf("%d rows, %d are needed", at, n))
	}
	t.Check("stacking of rows", yd)
	op.y = t.Record(op, yd, h, t.Needs(parts...), autograd.Value{})
	return op.y
}

// Name implements autograd.Op.
func (op *stackRows) Name() string { return "stacking of rows" }

// Backward implements autograd.Op.
func (op *stackRows) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	at := int64(0)
	for _, p := range op.parts {
		if !p.Valid() {
			continue
		}
		rows := t.Shape(p).Dim[0]
		if g, acc, ok := t.GradFor(p); ok {
			t.Queue().Add(kernels.Add{A: dy.Slice(0, at, at+rows), Y: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
		}
		at += rows
	}
	return t.Queue().Err()
}
