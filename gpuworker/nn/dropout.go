package nn

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// DropSite is a place of a model where its own dropout acts.
type DropSite int

// The places; the first three occur once a block.
const (
	// DropProbs: attention's probabilities.
	DropProbs DropSite = iota
	// DropAttention: what attention adds to the residual.
	DropAttention
	// DropMLP: what the feed-forward layer (or, side by side, both branches together) adds.
	DropMLP
	// DropEmbedding: what the first block reads.
	DropEmbedding
)

// Dropout is one place's. It acts in training passes only (see autograd.Noise), and is nil where nothing is ever dropped. What it drops is
// a function of the run's seed, the step, the place and the token, so it is the same on any device, in any world, when a block is computed
// again, and after an interruption. torch's masks follow from one generator's state, and from the kind of device, instead.
type Dropout struct {
	p      float64
	stream uint64
}

// NewDropout is the dropout with probability p of a place in block layer (0 for the embedding's), nil with p = 0.
func NewDropout(p float64, layer int, site DropSite) *Dropout {
	if p <= 0 {
		return nil
	}
	return &Dropout{p: p, stream: Stream(fmt.Sprintf("dropout.%d.%d", layer, site))}
}

// Acts reports whether something is dropped in this pass.
func (d *Dropout) Acts(t *Tape) bool {
	if d == nil {
		return false
	}
	_, ok := t.Noise()
	return ok
}

// config is the operation's; ok is false where nothing is dropped.
func (d *Dropout) config(t *Tape) (c ops.DropoutConfig, ok bool) {
	if d == nil {
		return c, false
	}
	n, ok := t.Noise()
	if !ok {
		return c, false
	}
	return ops.DropoutConfig{P: float32(d.p), Seed: n.Seed, Stream: d.stream ^ autograd.Mix(n.Step), Rows: n.Rows}, true
}

// Add computes residual + dropout(y), for y [tokens, d], and releases y. An absent residual counts as zero.
func (d *Dropout) Add(t *Tape, y, residual Value) Value {
	c, ok := d.config(t)
	switch {
	case ok:
		z := ops.AddDropout(t, residual, y, c)
		t.Release(y)
		return z
	case !residual.Valid():
		return y
	}
	z := ops.Add(t, residual, y, 1)
	t.Release(y)
	return z
}
