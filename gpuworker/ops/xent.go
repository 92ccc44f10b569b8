package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Head is the output projection onto the vocabulary: logits are softcap(scale * (x W^T + b)).
type Head struct {
	// W [vocab, d]; the bias B [vocab] may be absent.
	W, B autograd.Value
	// Scale multiplies logits, 0 means 1. Softcap, when positive, bounds them: softcap*tanh(z/softcap).
	Scale, Softcap float32
	// Unit is the unit that W belongs to.
	Unit *autograd.Unit
	// Extra, when not nil, changes what LinearXent differentiates.
	Extra *XentExtra
}

// XentExtra adds terms to the loss of LinearXent: of each token it becomes (1-Smoothing)*-logp + Smoothing*mean_v(-log p_v) + ZLoss*lse^2.
// The pass leaves what they are computed from in it.
type XentExtra struct {
	Smoothing, ZLoss float32

	lse, zsum autograd.Value
	vocab     int64
}

// Loss is the loss of one pass, added over the tokens whose target is not negative, with log-probabilities lp as the pass gave them.
func (e *XentExtra) Loss(t *autograd.Tape, lp []float32, targets []int32) (float64, error) {
	lse, err := t.Read(e.lse)
	if err != nil {
		return 0, err
	}
	zsum, err := t.Read(e.zsum)
	if err != nil {
		return 0, err
	}
	var sum float64
	s, z := float64(e.Smoothing), float64(e.ZLoss)
	for i, target := range targets {
		if target >= 0 {
			l := float64(lse[i])
			sum += (1-s)*-float64(lp[i]) + s*(l-float64(zsum[i])/float64(e.vocab)) + z*l*l
		}
	}
	return sum, nil
}

func (h Head) bias(t *autograd.Tape) autograd.Tensor {
	if !h.B.Valid() {
		return autograd.Tensor{}
	}
	return t.Data(h.B)
}

type linearXent struct {
	x     autograd.Value
	dx    autograd.Tensor
	dxMem autograd.Handle
	y     autograd.Value
}

// LinearXent computes the log-probability of each target (i32 [n], negative: ignored, 0) under the softmax of the head's logits without
// keeping them: x [n, d], result f32 [n]. When recorded it also computes, in the same pass, the gradients of the loss scale * sum(-logp)
// with respect to x and the head, so Backward can start from it.
func LinearXent(t *autograd.Tape, x autograd.Value, head Head, targets autograd.Tensor, scale float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &linearXent{x: x}
	xd := t.Data(x)
	lp, h := t.Out(xd.Dim[0])
	needs := t.Needs(x, head.W, head.B)
	p := kernels.LinearXent{X: xd, Targets: targets, LogP: lp, LossScale: scale * t.LossScale(), LogitScale: head.Scale, Softcap: head.Softcap}
	if e := head.Extra; e != nil {
		var lh, zh autograd.Handle
		p.LSE, lh = t.Out(xd.Dim[0])
		p.ZSum, zh = t.Out(xd.Dim[0])
		if !t.OK() {
			return autograd.Value{}
		}
		p.LabelSmoothing, p.ZLoss = e.Smoothing, e.ZLoss
		e.lse, e.zsum, e.vocab = t.Hold(p.LSE, lh), t.Hold(p.ZSum, zh), t.Data(head.W).Dim[0]
	}
	settle := func() {}
	if needs {
		t.BeginGrads(head.Unit)
		if t.Needs(x) {
			op.dx, op.dxMem = t.OutLike(xd, xd.Dim[0], xd.Dim[1])
			p.DX = op.dx
		}
		g, acc, ok, after := gradF32(t, head.W)
		if ok {
			p.DW, p.DWAccumulate, settle = g, kernels.Flag(acc), after
		}
		if g, acc, ok := t.GradFor(head.B); ok {
			p.DBias, p.DBiasAccumulate = g, kernels.Flag(acc)
		}
	}
	if !t.OK() {
		return autograd.Value{}
	}
	p.W, p.Bias = t.Data(head.W), head.bias(t)
	t.Queue().LinearXent(p)
	settle()
	t.Check("linear cross-entropy", xd, p.W, targets)
	op.y = t.Record(op, lp, h, needs)
	return op.y
}

// Name implements autograd.Op.
func (op *linearXent) Name() string { return "linear cross-entropy" }

// StartsGradients says that Backward needs no gradient of the output.
func (op *linearXent) StartsGradients() {}

// Backward implements autograd.Op.
func (op *linearXent) Backward(t *autograd.Tape) error {
	if t.Needs(op.x) {
		t.GiveGrad(op.x, op.dx, &op.dxMem)
	}
	return nil
}

type linearLogProb struct {
	x, y, lse autograd.Value
	head      Head
	targets   autograd.Tensor
}

// LinearLogProb computes what LinearXent does, for losses whose gradient with respect to each log-probability is known only after the
// forward pass (preferences): Backward takes it from Tape.Seed or from what follows, and makes the logits once more by chunks.
func LinearLogProb(t *autograd.Tape, x autograd.Value, head Head, targets autograd.Tensor) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &linearLogProb{x: x, head: head, targets: targets}
	xd, wd := t.Data(x), t.Data(head.W)
	lp, h := t.Out(xd.Dim[0])
	lse, lh := t.Out(xd.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().LinearLogprobFwd(kernels.LinearLogprobFwd{X: xd, W: wd, Bias: head.bias(t), Targets: targets, LogP: lp, LSE: lse,
		LogitScale: head.Scale, Softcap: head.Softcap})
	t.Check("linear log-probability", xd, wd, targets)
	op.lse = t.Hold(lse, lh)
	op.y = t.Record(op, lp, h, t.Needs(x, head.W, head.B), x, op.lse)
	t.Release(op.lse)
	return op.y
}

// Name implements autograd.Op.
func (op *linearLogProb) Name() string { return "linear log-probability" }

// Backward implements autograd.Op.
func (op *linearLogProb) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	p := kernels.LinearLogprobBwd{X: t.Data(op.x), W: t.Data(op.head.W), Bias: op.head.bias(t), Targets: op.targets, LSE: t.Data(op.lse), DLogP: dy,
		LogitScale: op.head.Scale, Softcap: op.head.Softcap}
	if g, acc, ok := t.GradFor(op.x); ok {
		p.DX, p.DXAccumulate = g, kernels.Flag(acc)
	}
	g, acc, ok, settle := gradF32(t, op.head.W)
	if ok {
		p.DW, p.DWAccumulate = g, kernels.Flag(acc)
	}
	if g, acc, ok := t.GradFor(op.head.B); ok {
		p.DBias, p.DBiasAccumulate = g, kernels.Flag(acc)
	}
	t.Queue().LinearLogprobBwd(p)
	settle()
	return t.Queue().Err()
}
