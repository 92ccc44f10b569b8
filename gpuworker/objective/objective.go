// Package objective computes training losses of a leaf and their gradients. Pretraining (pt) and supervised fine-tuning (sft) are the
// same sum of cross-entropies over the labels that are not ignored; they differ in the labels that data preparation wrote.
package objective

import (
	"context"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
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
func Names() []string { return []string{"pt", "sft"} }

// Backward runs forward and backward of one leaf. tokens is the number of label tokens of the whole step (labels != -100, position 0
// included, over all leaves and ranks): gradients are those of sum(-logp)/tokens. A loss that is not finite is an error with the code
// numeric.
func Backward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, tokens int64) (Result, error) {
	if tokens < 1 {
		return Result{}, schemas.Errorf(schemas.CodeData, "labels", "the step has no label tokens")
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
	if err := router.add(t, &r, tokens); err != nil {
		return r, err
	}
	if math.IsNaN(r.Sum) || math.IsInf(r.Sum, 0) {
		return r, schemas.Errorf(schemas.CodeNumeric, "loss", "the loss is not finite (%v)", r.Sum)
	}
	return r, nil
}
