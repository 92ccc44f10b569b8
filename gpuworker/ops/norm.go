package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type rmsNorm struct {
	x, w, y, rstd autograd.Value
	eps           float32
}

// RMSNorm computes y = x / sqrt(mean(x^2) + eps) * w over the rows of x [n, d], w [d].
func RMSNorm(t *autograd.Tape, x, w autograd.Value, eps float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &rmsNorm{x: x, w: w, eps: eps}
	xd, wd := t.Data(x), t.Data(w)
	yd, h := t.Out(xd.Dim[0], xd.Dim[1])
	rd, rh := t.Out(xd.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().RMSNormFwd(kernels.RMSNormFwd{X: xd, W: wd, Y: yd, RStd: rd, Eps: eps})
	t.Check("rms norm", xd, wd)
	op.rstd = t.Hold(rd, rh)
	op.y = t.Record(op, yd, h, t.Needs(x, w), x, op.rstd)
	t.Release(op.rstd)
	return op.y
}

// Name implements autograd.Op.
func (op *rmsNorm) Name() string { return "rms norm" }

// Rematerialize implements autograd.Rematerializer. The reciprocal deviations come out as they were.
func (op *rmsNorm) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().RMSNormFwd(kernels.RMSNormFwd{X: t.Data(op.x), W: t.Data(op.w), Y: out, RStd: t.Data(op.rstd), Eps: op.eps})
}

// Backward implements autograd.Op.
func (op *rmsNorm) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	p := kernels.RMSNormBwd{X: t.Data(op.x), W: t.Data(op.w), RStd: t.Data(op.rstd), DY: dy}
	if g, acc, ok := t.GradFor(op.x); ok {
		p.DX, p.DXAccumulate = g, kernels.Flag(acc)
	} else {
		// The kernel always writes dx; dy is not read again.
		p.DX = dy
	}
	if g, acc, ok := t.GradFor(op.w); ok {
		p.DW, p.DWAccumulate = g, kernels.Flag(acc)
	}
	t.Queue().RMSNormBwd(p)
	return t.Queue().Err()
}
