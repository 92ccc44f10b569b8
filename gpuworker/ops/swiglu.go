package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type swiGLU struct {
	gate, up, y autograd.Value
}

// SwiGLU computes silu(gate) * up elementwise.
func SwiGLU(t *autograd.Tape, gate, up autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &swiGLU{gate: gate, up: up}
	gd, ud := t.Data(gate), t.Data(up)
	yd, h := t.Out(gd.Dim[0], gd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().GLUFwd(kernels.GLUFwd{Gate: gd, Up: ud, Y: yd, Act: kernels.SiLU})
	t.Check("swiglu", gd, ud)
	op.y = t.Record(op, yd, h, t.Needs(gate, up), gate, up)
	return op.y
}

// Name implements autograd.Op.
func (op *swiGLU) Name() string { return "swiglu" }

// Rematerialize implements autograd.Rematerializer.
func (op *swiGLU) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().GLUFwd(kernels.GLUFwd{Gate: t.Data(op.gate), Up: t.Data(op.up), Y: out, Act: kernels.SiLU})
}

// Backward implements autograd.Op. Where nothing else reads gate and up, their gradients take their memory.
func (op *swiGLU) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	p := kernels.GLUBwd{Gate: t.Data(op.gate), Up: t.Data(op.up), DY: dy, Act: kernels.SiLU}
	for _, in := range []struct {
		v   autograd.Value
		g   *kernels.Tensor
		acc *kernels.Bool
	}{{op.gate, &p.DGate, &p.DGateAccumulate}, {op.up, &p.DUp, &p.DUpAccumulate}} {
		g, acc, ok := t.GradInPlace(in.v)
		if !ok {
			// The kernel writes both; one that is not wanted overwrites the input itself, which nothing reads after this.
			g = t.Data(in.v)
		}
		*in.g, *in.acc = g, kernels.Flag(acc)
	}
	t.Queue().GLUBwd(p)
	return t.Queue().Err()
}
