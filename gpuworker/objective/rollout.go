package objective

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// Rows is a batch of prompts with their completions: one document each, whose completion is what its labels train on.
type Rows struct {
	Batch *nn.Batch
	spans []Span
	// at are, for each row, the positions that predict its completion's tokens.
	at [][]int32
}

// NewRows joins prompts (at least one id each) and completions. temperature divides the logits, 0 means 1.
func NewRows(prompts, completions [][]int32, temperature float64) *Rows {
	b := &nn.Batch{Rows: 1, Docs: []int32{0}, Temperature: float32(temperature)}
	r := &Rows{Batch: b}
	for i, p := range prompts {
		from := len(b.IDs)
		b.IDs = append(append(b.IDs, p...), completions[i]...)
		var at []int32
		for k := range len(p) + len(completions[i]) {
			label := int32(nn.IgnoreLabel)
			if k >= len(p) {
				label = b.IDs[from+k]
				at = append(at, int32(from+k-1))
			}
			b.Labels = append(b.Labels, label)
		}
		b.Docs = append(b.Docs, int32(len(b.IDs)))
		r.at = append(r.at, at)
		r.spans = append(r.spans, Span{from, len(b.IDs)})
	}
	b.Seq = len(b.IDs)
	return r
}

// pick sorts values a position into rows.
func (r *Rows) pick(v []float32) [][]float64 {
	out := make([][]float64, len(r.at))
	for i, at := range r.at {
		out[i] = make([]float64, len(at))
		for k, p := range at {
			out[i][k] = float64(v[p])
		}
	}
	return out
}

// Tokens computes the log-probabilities of every completion's tokens without gradients.
func (r *Rows) Tokens(ctx context.Context, t *autograd.Tape, m zoo.Model) ([][]float64, error) {
	t.Reset(ctx, false)
	lp, err := t.Read(m.TokenLogProbs(t, r.Batch))
	if err != nil {
		return nil, fmt.Errorf("cannot score completions: %w", err)
	}
	return r.pick(lp), nil
}

// Differentiate runs a pass, lets loss compute the gradient by each token's log-probability, and runs the backward pass.
func (r *Rows) Differentiate(ctx context.Context, t *autograd.Tape, m zoo.Model, loss func(now [][]float64) (grad [][]float64)) error {
	t.Reset(ctx, true)
	logp := m.TokenLogProbs(t, r.Batch)
	lp, err := t.Read(logp)
	if err != nil {
		return fmt.Errorf("cannot score completions: %w", err)
	}
	g := loss(r.pick(lp))
	t.Seed(logp, t.Floats(r.seed(g, len(lp)), int64(len(lp))))
	return t.Backward()
}

// seed puts gradients a row at their positions.
func (r *Rows) seed(g [][]float64, n int) []float32 {
	out := make([]float32, n)
	for i, at := range r.at {
		for k, p := range at {
			out[p] = float32(g[i][k])
		}
	}
	return out
}

// valuesAt lists the positions of each row's values: those that predict a token and, where the completion is shorter than most, the last
// token's own.
func (r *Rows) valuesAt(most int) (flat []int32, counts []int) {
	for i, at := range r.at {
		n := len(at)
		flat = append(flat, at...)
		if n < most {
			flat = append(flat, int32(r.spans[i].To-1))
			n++
		}
		counts = append(counts, n)
	}
	return flat, counts
}

func cut(v []float32, counts []int) [][]float64 {
	out := make([][]float64, len(counts))
	for i, n := range counts {
		for _, x := range v[:n] {
			out[i] = append(out[i], float64(x))
		}
		v = v[n:]
	}
	return out
}

// actorCritic records a pass with log-probabilities and values.
func (r *Rows) actorCritic(ctx context.Context, t *autograd.Tape, m zoo.Model, h *ValueHead, most int, train bool) (
	logp, v autograd.Value, lp, values [][]float64, n int, err error) {
	t.Reset(ctx, train)
	flat, counts := r.valuesAt(most)
	hidden, logp := m.HiddenLogProbs(t, r.Batch)
	rows := ops.SelectRows(t, hidden, flat)
	t.Release(hidden)
	v = h.values(t, rows, flat)
	rawV, err := t.Read(v)
	if err != nil {
		return logp, v, nil, nil, 0, fmt.Errorf("cannot compute values: %w", err)
	}
	raw, err := t.Read(logp)
	if err != nil {
		return logp, v, nil, nil, 0, fmt.Errorf("cannot score completions: %w", err)
	}
	return logp, v, r.pick(raw), cut(rawV, counts), len(raw), nil
}

// ActorCritic computes log-probabilities and values of completions, of which the longest possible has most tokens, without gradients.
func (r *Rows) ActorCritic(ctx context.Context, t *autograd.Tape, m zoo.Model, h *ValueHead, most int) (lp, values [][]float64, err error) {
	_, _, lp, values, _, err = r.actorCritic(ctx, t, m, h, most, false)
	return lp, values, err
}

// DifferentiateBoth is Differentiate for log-probabilities and values at once.
func (r *Rows) DifferentiateBoth(ctx context.Context, t *autograd.Tape, m zoo.Model, h *ValueHead, most int,
	loss func(now, values [][]float64) (dlogp, dvalue [][]float64)) error {
	logp, v, lp, values, n, err := r.actorCritic(ctx, t, m, h, most, true)
	if err != nil {
		return err
	}
	dp, dv := loss(lp, values)
	var flat []float32
	for _, row := range dv {
		for _, x := range row {
			flat = append(flat, float32(x))
		}
	}
	t.Seed(logp, t.Floats(r.seed(dp, n), int64(n)))
	t.Seed(v, t.Floats(flat, int64(len(flat)), 1))
	return t.Backward()
}
