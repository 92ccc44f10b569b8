package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// DropoutConfig is what an element's fate is drawn from, beside its column: Philox with a key from (Seed, Stream) and the row's id.
type DropoutConfig struct {
	P            float32
	Seed, Stream uint64
	// Rows are the ids of the rows, i64 [n].
	Rows autograd.Tensor
}

type dropout struct {
	residual, x, y autograd.Value
	c              DropoutConfig
}

// Dropout zeroes elements of x [n, d] with probability P and scales the others by 1/(1-P).
func Dropout(t *autograd.Tape, x autograd.Value, c DropoutConfig) autograd.Value {
	return AddDropout(t, autograd.Value{}, x, c)
}

// AddDropout computes residual + Dropout(x), both [n, d]; an absent residual counts as zero.
func AddDropout(t *autograd.Tape, residual, x autograd.Value, c DropoutConfig) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &dropout{residual: residual, x: x, c: c}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	if residual.Valid() {
		t.Queue().Copy(kernels.Copy{X: t.Data(residual), Y: yd})
	}
	op.run(t, xd, yd, residual.Valid())
	t.Check("dropout", xd, c.Rows)
	op.y = t.Record(op, yd, h, t.Needs(residual, x))
	return op.y
}

func (op *dropout) run(t *autograd.Tape, x, y kernels.Tensor, acc bool) {
	t.Queue().Dropout(kernels.Dropout{X: x, RowIDs: op.c.Rows, Y: y, Seed: op.c.Seed, Stream: op.c.Stream, P: op.c.P, Accumulate: kernels.Flag(acc)})
}

// Name implements autograd.Op.
func (op *dropout) Name() string { return "dropout" }

// Backward implements autograd.Op.
func (op *dropout) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		op.run(t, dy, g, acc)
	}
	passResidual(t, op.y, op.residual)
	return t.Queue().Err()
}

type concat struct {
	a, b, y     autograd.Value
	alpha, beta float32
	split       int64
}

// Concat computes [alpha * a, beta * b] for a [n, p] and b [n, q].
func Concat(t *autograd.Tape, a, b autograd.Value, alpha, beta float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &concat{a: a, b: b, alpha: alpha, beta: beta}
	ad, bd := t.Data(a), t.Data(b)
	op.split = ad.Dim[1]
	yd, h := t.OutLike(ad, ad.Dim[0], ad.Dim[1]+bd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	q := t.Queue()
	q.Add(kernels.Add{A: ad, Y: yd.Slice(1, 0, op.split), Alpha: alpha})
	q.Add(kernels.Add{A: bd, Y: yd.Slice(1, op.split, yd.Dim[1]), Alpha: beta})
	t.Check("concat", ad, bd)
	op.y = t.Record(op, yd, h, t.Needs(a, b))
	return op.y
}

// Name implements autograd.Op.
func (op *concat) Name() string { return "concat" }

// Backward implements autograd.Op.
func (op *concat) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	for _, in := range []struct {
		v      autograd.Value
		f      float32
		lo, hi int64
	}{{op.a, op.alpha, 0, op.split}, {op.b, op.beta, op.split, dy.Dim[1]}} {
		if g, acc, ok := t.GradFor(in.v); ok {
			part := dy.Slice(1, in.lo, in.hi)
			if g.DType == part.DType {
				t.Queue().Add(kernels.Add{A: part, Y: g, Alpha: in.f, Accumulate: kernels.Flag(acc)})
				continue
			}
			x, h := t.OutAs(g.DType, part.Shape()...)
			if !t.OK() {
				return t.Err()
			}
			t.Queue().Copy(kernels.Copy{X: part, Y: x})
			t.Queue().Add(kernels.Add{A: x, Y: g, Alpha: in.f, Accumulate: kernels.Flag(acc)})
			t.Free(&h)
		}
	}
	return t.Queue().Err()
}
