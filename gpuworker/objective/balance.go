package objective

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// balance is the part of the routers' load-balancing loss that a leaf contributes to the step: coef times the mean of the leaves' losses,
// weighted by their label tokens, so that it depends neither on how leaves are dealt over ranks nor on their number where they are equal.
// With one leaf it is what transformers adds to the loss; transformers' Trainer, when it accumulates, adds the losses of micro-batches
// up instead of averaging them.
type balance struct {
	loss  *ops.RouterLoss
	share float64
}

// begin asks the model for the loss of b where the configuration wants it (output_router_logits with router_aux_loss_coef). The returned
// batch is b, or a copy that carries the request.
func begin(m zoo.Model, b *nn.Batch, tokens int64) (*nn.Batch, balance) {
	info := m.Info()
	if !info.RouterAux || info.RouterAuxCoef == 0 || info.Experts == 0 || b.Balance != nil || len(b.Labels) == 0 {
		return b, balance{}
	}
	share := info.RouterAuxCoef * float64(b.LabelTokens()) / float64(tokens)
	if share == 0 {
		return b, balance{}
	}
	c := *b
	c.Balance = &ops.RouterLoss{Scale: share}
	return &c, balance{loss: c.Balance, share: share}
}

// add puts the leaf's part into the result: Sum is divided by tokens later.
func (a balance) add(t *autograd.Tape, r *Result, tokens int64) error {
	if a.loss == nil {
		return nil
	}
	v, err := a.loss.Value(t)
	if err != nil {
		return fmt.Errorf("cannot compute the load-balancing loss: %w", err)
	}
	r.Balance = v
	r.Sum += a.share * v * float64(tokens)
	return nil
}
