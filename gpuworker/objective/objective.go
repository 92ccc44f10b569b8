// Package objective computes training losses of a leaf and their gradients. Pretraining (pt) and supervised fine-tuning (sft) are the
// same sum of cross-entropies over the labels that are not ignored; they differ in the labels that data preparation wrote. Preference
// losses (PairLoss, KTO), reward models (ValueHead) and reinforcement learning (PPO, GRPO) work on the log-probabilities of tokens, which
// the model gives without ever holding its logits: the loss is computed on the host, and its gradient by each token seeds the backward
// pass.
package objective

import (
	"context"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Result of one leaf.
type Result struct {
	// Sum of -logp over the leaf's targets. Divided by the step's token count and added in leaf order it is the logged loss.
	Sum float64
	// Targets that took part.
	Targets int
	// Balance is the routers' load-balancing loss of the leaf, where the configuration of a model with experts asks for it; its weighted
	// share is part of Sum.
	Balance float64
}

// Names lists the objectives.
func Names() []string { return schemas.Objectives() }

// SFT is the loss of pretraining and supervised fine-tuning. The zero value is the plain cross-entropy.
type SFT struct {
	// Smoothing is label smoothing over the vocabulary, ZLoss the weight of the squared logarithm of the softmax's denominator.
	Smoothing, ZLoss float64
	// DFT weights every token's loss with its probability, without gradient through it (https://arxiv.org/abs/2508.05629). It excludes the
	// other two.
	DFT bool
}

// Validate reports what does not go together.
func (s SFT) Validate() error {
	if s.DFT && (s.Smoothing > 0 || s.ZLoss > 0) {
		return schemas.Errorf(schemas.CodeInvalid, "features.dft", "does not go with label smoothing or z-loss")
	}
	return nil
}

// request puts the extra terms on a copy of a batch.
func (s SFT) request(b *nn.Batch) *nn.Batch {
	if s.Smoothing == 0 && s.ZLoss == 0 {
		return b
	}
	c := *b
	c.Extra = &ops.XentExtra{Smoothing: float32(s.Smoothing), ZLoss: float32(s.ZLoss)}
	return &c
}

// Backward runs one leaf as the function Backward does.
func (s SFT) Backward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, tokens int64) (Result, error) {
	if !s.DFT {
		return Backward(ctx, t, m, s.request(b), tokens)
	}
	if tokens < 1 {
		return Result{}, errTokens()
	}
	t.Reset(ctx, true)
	b, router := begin(m, b, tokens)
	logp := m.TokenLogProbs(t, b)
	lp, err := t.Read(logp)
	if err != nil {
		return Result{}, fmt.Errorf("cannot compute loss: %w", err)
	}
	r, grad := Result{}, make([]float32, len(lp))
	for i, target := range b.Targets() {
		if target >= 0 {
			p := math.Exp(float64(lp[i]))
			r.Sum -= p * float64(lp[i])
			grad[i] = float32(-p / float64(tokens))
			r.Targets++
		}
	}
	t.Seed(logp, t.Floats(grad, int64(len(grad))))
	if err := t.Backward(); err != nil {
		return r, err
	}
	if err := router.add(t, &r, tokens); err != nil {
		return r, err
	}
	return r, finite(r.Sum)
}

// Loss runs the forward pass of one leaf only.
func (s SFT) Loss(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch) (Result, error) {
	if !s.DFT {
		return Loss(ctx, t, m, s.request(b))
	}
	t.Reset(ctx, false)
	lp, err := t.Read(m.TokenLogProbs(t, b))
	if err != nil {
		return Result{}, fmt.Errorf("cannot compute loss: %w", err)
	}
	r := Result{}
	for i, target := range b.Targets() {
		if target >= 0 {
			r.Sum -= math.Exp(float64(lp[i])) * float64(lp[i])
			r.Targets++
		}
	}
	return r, finite(r.Sum)
}

func errTokens() error {
	return schemas.Errorf(schemas.CodeData, "labels", "the step has no label tokens")
}

// Backward runs forward and backward of one leaf. tokens is the number of label tokens of the whole step (labels != -100, position 0
// included, over all leaves and ranks): gradients are those of sum(-logp)/tokens. A loss that is not finite is an error with the code
// numeric.
func Backward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, tokens int64) (Result, error) {
	if tokens < 1 {
		return Result{}, errTokens()
	}
	t.Reset(ctx, true)
	b, router := begin(m, b, tokens)
	logp := m.LogProbs(t, b, float32(1/float64(tokens)))
	if err := t.Backward(); err != nil {
		return Result{}, err
	}
	return read(t, logp, b, router, tokens)
}

// Loss runs the forward pass of one leaf only.
func Loss(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch) (Result, error) {
	t.Reset(ctx, false)
	tokens := max(1, b.LabelTokens())
	b, router := begin(m, b, tokens)
	return read(t, m.LogProbs(t, b, 1), b, router, tokens)
}

func read(t *autograd.Tape, logp autograd.Value, b *nn.Batch, router balance, tokens int64) (Result, error) {
	lp, err := t.Read(logp)
	if err != nil {
		return Result{}, fmt.Errorf("cannot compute loss: %w", err)
	}
	var r Result
	for i, target := range b.Targets() {
		if target >= 0 {
			r.Sum -= float64(lp[i])
			r.Targets++
		}
	}
	if b.Extra != nil {
		if r.Sum, err = b.Extra.Loss(t, lp, b.Targets()); err != nil {
			return r, fmt.Errorf("cannot compute loss: %w", err)
		}
	}
	if err := router.add(t, &r, tokens); err != nil {
		return r, err
	}
	return r, finite(r.Sum)
}
