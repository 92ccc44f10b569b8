package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// GLUClampedConfig holds the constants of gpt-oss's gated unit; see tf_glu_clamped_fwd of tunefleet.h.
type GLUClampedConfig struct {
	Alpha, Limit float32
	Interleaved  bool
}

type gluClamped struct {
	x, y autograd.Value
	cfg  GLUClampedConfig
}

// GLUClamped computes (clamp(up)+1) * g * sigmoid(alpha*g), g = min(gate, limit), from x [n, 2d] as [n, d].
func GLUClamped(t *autograd.Tape, x autograd.Value, c GLUClampedConfig) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &gluClamped{x: x, cfg: c}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1]/2)
	if !t.OK() {
		return autograd.Value{}
	}
	op.Rematerialize(t, yd)
	t.Check("clamped gated unit", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x)
	return op.y
}

// Name implements autograd.Op.
func (op *gluClamped) Name() string { return "clamped gated unit" }

// Rematerialize implements autograd.Rematerializer.
func (op *gluClamped) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().GLUClampedFwd(kernels.GLUClampedFwd{X: t.Data(op.x), Y: out, Alpha: op.cfg.Alpha, Limit: op.cfg.Limit, Interleaved: kernels.Flag(op.cfg.Interleaved)})
}

// Backward implements autograd.Op. Where nothing else reads x, the gradient takes its memory.
func (op *gluClamped) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	x := t.Data(op.x)
	if g, acc, ok := t.GradInPlace(op.x); ok {
		t.Queue().GLUClampedBwd(kernels.GLUClampedBwd{X: x, DY: dy, DX: g, Alpha: op.cfg.Alpha, Limit: op.cfg.Limit, Interleaved: kernels.Flag(op.cfg.Interleaved),
			Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
