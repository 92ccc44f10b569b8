package objective

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// KTO is https://arxiv.org/abs/2402.01306 over single rows that are marked desirable or not.
type KTO struct {
	// Beta is the temperature; Desirable and Undesirable weight the two kinds of rows.
	Beta, Desirable, Undesirable float64
	// FTX adds that much of the mean token loss of desirable rows.
	FTX float64
}

// KTOResult is what a leaf gave.
type KTOResult struct {
	// Sum of the weighted losses of all rows.
	Sum float64
	// Policy is the rows' log-probabilities, Rewards beta times the policy's minus the reference's.
	Policy  []LogProb
	Rewards []float64
}

// Divergence is how much likelier mismatched responses are under the policy than under the reference, on average over rows in their
// order; KTO compares with it where it is positive.
func Divergence(policy, ref []LogProb) float64 {
	var s float64
	for i := range policy {
		s += policy[i].Sum - ref[i].Sum
	}
	return s / float64(max(1, len(policy)))
}

// Backward runs forward and backward of a leaf of rows. kl is the divergence (a constant), ref the reference's log-probabilities,
// desirable marks rows. Gradients are those of weight times the sum over rows.
func (k KTO) Backward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb, desirable []bool, kl, weight float64) (KTOResult, error) {
	return k.run(ctx, t, m, b, ref, desirable, kl, weight, true)
}

// Loss is Backward without gradients.
func (k KTO) Loss(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb, desirable []bool, kl float64) (KTOResult, error) {
	return k.run(ctx, t, m, b, ref, desirable, kl, 1, false)
}

func (k KTO) run(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb, desirable []bool, kl, weight float64, train bool) (KTOResult, error) {
	spans, targets := Spans(b), b.Targets()
	if len(ref) != len(spans) || len(desirable) != len(spans) {
		return KTOResult{}, fmt.Errorf("cannot compute KTO's loss: %d rows have %d reference values and %d marks", len(spans), len(ref), len(desirable))
	}
	t.Reset(ctx, train)
	logp := m.TokenLogProbs(t, b)
	lp, err := t.Read(logp)
	if err != nil {
		return KTOResult{}, fmt.Errorf("cannot compute KTO's loss: %w", err)
	}
	res := KTOResult{Policy: sums(lp, targets, spans), Rewards: make([]float64, len(spans))}
	dlogp := make([]float32, len(lp))
	good := 0
	for _, d := range desirable {
		if d {
			good++
		}
	}
	for i, s := range spans {
		x := res.Policy[i].Sum - ref[i].Sum
		res.Rewards[i] = k.Beta * x
		w, sign := k.Undesirable, -1.0
		if desirable[i] {
			w, sign = k.Desirable, 1
		}
		p := sigmoid(sign * k.Beta * (x - kl))
		res.Sum += w * (1 - p)
		d := -weight * w * sign * k.Beta * p * (1 - p)
		spread(dlogp, targets, s, func(int) float64 { return d })
		if k.FTX > 0 && desirable[i] {
			// As LLaMA-Factory: the mean over desirable rows, divided by their number and multiplied by that of all rows of the batch;
			// the sum over rows is later divided by the rows.
			n := float64(len(spans)) * float64(len(spans)) / float64(good) / float64(good)
			res.Sum -= k.FTX * n * res.Policy[i].Mean()
			per := -weight * k.FTX * n / float64(max(1, res.Policy[i].Len))
			spread(dlogp, targets, s, func(int) float64 { return per })
		}
	}
	if err := finite(res.Sum); err != nil || !train {
		return res, err
	}
	t.Seed(logp, t.Floats(dlogp, int64(len(dlogp))))
	return res, t.Backward()
}
