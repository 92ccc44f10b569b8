package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type glu struct {
	gate, up, y autograd.Value
	act         kernels.Activation
}

// SwiGLU computes silu(gate) * up elementwise.
func SwiGLU(t *autograd.Tape, gate, up autograd.Value) autograd.Value {
	return GLU(t, gate, up, kernels.SiLU)
}

// GLU computes act(gate) * up elementwise (https://arxiv.org/abs/2002.05202). An absent up means that each row of gate [n, 2d] holds the
// gate and then the up part, as a fused projection writes them.
func GLU(t *autograd.Tape, gate, up autograd.Value, act kernels.Activation) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &glu{gate: gate, up: up, act: act}
	gd, ud := op.halves(t.Data(gate), autograd.Tensor{})
	if up.Valid() {
		ud = t.Data(up)
	}
	yd, h := t.OutLike(gd, gd.Dim[0], gd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().GLUFwd(kernels.GLUFwd{Gate: gd, Up: ud, Y: yd, Act: act})
	t.Check("gated unit", gd, ud)
	op.y = t.Record(op, yd, h, t.Needs(gate, up), gate, up)
	return op.y
}

// halves are the gate and up parts of the operands, or of their gradients.
func (op *glu) halves(gate, up autograd.Tensor) (autograd.Tensor, autograd.Tensor) {
	if op.up.Valid() {
		return gate, up
	}
	d := gate.Dim[1] / 2
	return gate.Slice(1, 0, d), gate.Slice(1, d, 2*d)
}

// Name implements autograd.Op.
func (op *glu) Name() string { return "gated unit" }

// Rematerialize implements autograd.Rematerializer.
func (op *glu) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	gate, up := op.operands(t)
	t.Queue().GLUFwd(kernels.GLUFwd{Gate: gate, Up: up, Y: out, Act: op.act})
}

func (op *glu) operands(t *autograd.Tape) (gate, up autograd.Tensor) {
	if op.up.Valid() {
		return t.Data(op.gate), t.Data(op.up)
	}
	return op.halves(t.Data(op.gate), autograd.Tensor{})
}

// Backward implements autograd.Op. Where nothing else reads gate and up, their gradients take their memory.
func (op *glu) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	p := kernels.GLUBwd{DY: dy, Act: op.act}
	p.Gate, p.Up = op.operands(t)
	var grads [2]autograd.Tensor
	for i, v := range []autograd.Value{op.gate, op.up} {
		if !v.Valid() {
			continue
		}
		g, acc, ok := t.GradInPlace(v)
		if !ok {
			// The kernel writes both; one that is not wanted overwrites the input itself, which nothing reads after this.
			g = t.Data(v)
		}
		grads[i] = g
		if i == 0 {
			p.DGateAccumulate = kernels.Flag(acc)
		}
		if i == 1 || !op.up.Valid() {
			p.DUpAccumulate = kernels.Flag(acc)
		}
	}
	p.DGate, p.DUp = op.halves(grads[0], grads[1])
	t.Queue().GLUBwd(p)
	return t.Queue().Err()
}

type activation struct {
	x, y autograd.Value
	act  kernels.Activation
}

// Act computes act(x) elementwise.
func Act(t *autograd.Tape, x autograd.Value, act kernels.Activation) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &activation{x: x, act: act}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	op.Rematerialize(t, yd)
	t.Check("activation", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x)
	return op.y
}

// Name implements autograd.Op.
func (op *activation) Name() string { return "activation" }

// Rematerialize implements autograd.Rematerializer.
func (op *activation) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().ActFwd(kernels.ActFwd{X: t.Data(op.x), Y: out, Act: op.act})
}

// Backward implements autograd.Op.
func (op *activation) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().ActBwd(kernels.ActBwd{X: t.Data(op.x), DY: dy, DX: g, Act: op.act, Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
