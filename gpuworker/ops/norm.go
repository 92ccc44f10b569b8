package ops

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// NormConfig describes a normalization.
type NormConfig struct {
	// Layer subtracts the mean (https://arxiv.org/abs/1607.06450); otherwise the norm is by root mean square (https://arxiv.org/abs/1910.07467).
	Layer bool
	// Eps is added to the variance; Offset to the weight (Gemma's 1+w).
	Eps, Offset float32
	// Dim is the length of what is normalized: 0 a whole row, else each row of x holds several of it (one a head).
	Dim int
}

// norm is y = (x - mean) * rstd * (w + offset) + b over each row, or each head of each row.
type norm struct {
	x, b, y, mean, rstd autograd.Value
	// ws is empty, one weight for all heads ([dim], or [heads, dim] with one row a head), or one weight [dim] a head.
	ws []autograd.Value
	c  NormConfig
}

// RMSNorm computes y = x / sqrt(mean(x^2) + eps) * w over the rows of x [n, d], w [d].
func RMSNorm(t *autograd.Tape, x, w autograd.Value, eps float32) autograd.Value {
	return Norm(t, x, []autograd.Value{w}, autograd.Value{}, NormConfig{Eps: eps})
}

// Norm normalizes the rows of x [n, d]. ws holds no weight, one for all ([dim], or [heads, dim]: one row a head), or one [dim] a head;
// the bias b [dim] is for layer norms and may be absent.
func Norm(t *autograd.Tape, x autograd.Value, ws []autograd.Value, b autograd.Value, c NormConfig) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	if len(ws) == 1 && !ws[0].Valid() {
		ws = nil
	}
	op := &norm{x: x, b: b, ws: ws, c: c}
	xd := t.Data(x)
	if c.Dim == 0 {
		op.c.Dim = int(xd.Dim[1])
	}
	heads := xd.Dim[1] / int64(op.c.Dim)
	if heads*int64(op.c.Dim) != xd.Dim[1] || len(ws) > 1 && int64(len(ws)) != heads {
		t.Fail("norm", fmt.Errorf("rows do not divide into %d heads of %d elements", len(ws), op.c.Dim), xd)
		return autograd.Value{}
	}
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	rd, rh := t.Out(xd.Dim[0] * heads)
	var mh autograd.Handle
	var md autograd.Tensor
	if c.Layer {
		md, mh = t.Out(xd.Dim[0] * heads)
	}
	if !t.OK() {
		return autograd.Value{}
	}
	op.rstd = t.Hold(rd, rh)
	if c.Layer {
		op.mean = t.Hold(md, mh)
	}
	op.forward(t, yd)
	t.Check("norm", xd)
	needs := t.Needs(x, b) || t.Needs(ws...)
	op.y = t.Record(op, yd, h, needs, x, op.rstd, op.mean)
	t.Release(op.rstd, op.mean)
	return op.y
}

// part is the piece of the operands that one kernel call works on: everything, or one head with a weight of its own.
type part struct {
	weight int   // index into ws, -1 none
	row    int64 // row of a weight [heads, dim], -1: the whole weight
	head   int64 // -1: all
}

func (op *norm) parts(t *autograd.Tape) []part {
	if len(op.ws) == 0 {
		return []part{{-1, -1, -1}}
	}
	perHead := len(op.ws) > 1
	w := t.Data(op.ws[0])
	if !perHead && w.Rank < 2 {
		return []part{{0, -1, -1}}
	}
	heads := t.Data(op.x).Dim[1] / int64(op.c.Dim)
	out := make([]part, heads)
	for h := range heads {
		out[h] = part{0, h, h}
		if perHead {
			out[h] = part{int(h), -1, h}
		}
	}
	return out
}

// rows views [n, heads*dim] as the rows of a part.
func (op *norm) rows(x autograd.Tensor, p part) autograd.Tensor {
	if !x.Present() {
		return x
	}
	if p.head < 0 {
		return x.Reshape(-1, int64(op.c.Dim))
	}
	d := int64(op.c.Dim)
	return x.Slice(1, p.head*d, (p.head+1)*d)
}

// stat views the statistics [rows] of a part.
func (op *norm) stat(t *autograd.Tape, v autograd.Value, p part) autograd.Tensor {
	if !v.Valid() {
		return autograd.Tensor{}
	}
	s := t.Data(v)
	if p.head < 0 {
		return s
	}
	n := t.Data(op.x).Dim[0]
	return s.Slice(0, p.head*n, (p.head+1)*n)
}

func (p part) of(w autograd.Tensor) autograd.Tensor {
	if p.row >= 0 && w.Present() {
		return w.Select(0, p.row)
	}
	return w
}

func (op *norm) weight(t *autograd.Tape, p part) autograd.Tensor {
	if p.weight < 0 {
		return autograd.Tensor{}
	}
	return p.of(t.Data(op.ws[p.weight]))
}

func (op *norm) bias(t *autograd.Tape) autograd.Tensor {
	if !op.b.Valid() {
		return autograd.Tensor{}
	}
	return t.Data(op.b)
}

func (op *norm) forward(t *autograd.Tape, out autograd.Tensor) {
	x := t.Data(op.x)
	for _, p := range op.parts(t) {
		xp, w, y, r := op.rows(x, p), op.weight(t, p), op.rows(out, p), op.stat(t, op.rstd, p)
		if op.c.Layer {
			t.Queue().LayerNormFwd(kernels.LayerNormFwd{X: xp, W: w, B: op.bias(t), Y: y, Mean: op.stat(t, op.mean, p), RStd: r, Eps: op.c.Eps, WOffset: op.c.Offset})
		} else {
			t.Queue().RMSNormFwd(kernels.RMSNormFwd{X: xp, W: w, Y: y, RStd: r, Eps: op.c.Eps, WOffset: op.c.Offset})
		}
	}
}

// Name implements autograd.Op.
func (op *norm) Name() string { return "norm" }

// Rematerialize implements autograd.Rematerializer. The statistics come out as they were.
func (op *norm) Rematerialize(t *autograd.Tape, out autograd.Tensor) { op.forward(t, out) }

// Backward implements autograd.Op.
func (op *norm) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	dx, dxAcc, ok := t.GradFor(op.x)
	if !ok {
		// The kernel always writes dx; dy is not read again.
		dx, dxAcc = dy, false
	}
	db, dbAcc, _ := t.GradFor(op.b)
	dws, accs := make([]autograd.Tensor, len(op.ws)), make([]bool, len(op.ws))
	for i, w := range op.ws {
		dws[i], accs[i], _ = t.GradFor(w)
	}
	if !t.OK() {
		return t.Err()
	}
	x := t.Data(op.x)
	for i, p := range op.parts(t) {
		var dw autograd.Tensor
		var acc bool
		if p.weight >= 0 {
			dw, acc = p.of(dws[p.weight]), accs[p.weight]
		}
		xp, w, r, g, d := op.rows(x, p), op.weight(t, p), op.stat(t, op.rstd, p), op.rows(dy, p), op.rows(dx, p)
		if op.c.Layer {
			t.Queue().LayerNormBwd(kernels.LayerNormBwd{X: xp, W: w, Mean: op.stat(t, op.mean, p), RStd: r, DY: g, DX: d, DW: dw, DB: db, WOffset: op.c.Offset,
				DXAccumulate: kernels.Flag(dxAcc), DWAccumulate: kernels.Flag(acc), DBAccumulate: kernels.Flag(dbAcc || i > 0)})
			continue
		}
		t.Queue().RMSNormBwd(kernels.RMSNormBwd{X: xp, W: w, RStd: r, DY: g, DX: d, DW: dw, WOffset: op.c.Offset,
			DXAccumulate: kernels.Flag(dxAcc), DWAccumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
