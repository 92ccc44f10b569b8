package objective

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// ValueHead reads a number from hidden states, as TRL's ValueHead does: a linear layer behind dropout. Its parameters form a unit of their
// own, which follows the model's.
type ValueHead struct {
	Head struct {
		Summary nn.Linear `hf:"summary"`
	} `hf:"v_head"`
	// Dropout acts on the hidden states while training.
	Dropout float64

	unit *nn.Unit
}

// HeadDropout is the dropout that TRL gives the value head of a model with that config.json: summary_dropout_prob, else 0.1.
func HeadDropout(config []byte) float64 {
	var c struct {
		P *float64 `json:"summary_dropout_prob"`
	}
	if json.Unmarshal(config, &c) == nil && c.P != nil {
		return *c.P
	}
	return 0.1
}

// NewValueHead describes a head over hidden states of that width, drawn uniformly within 1/sqrt(width) as torch.nn.Linear is.
func NewValueHead(hidden int) *ValueHead {
	h := &ValueHead{}
	h.Head.Summary = nn.NewLinear(hidden, 1, true, 0)
	init := autograd.Init{Kind: autograd.InitUniform, Std: 1 / math.Sqrt(float64(hidden))}
	h.Head.Summary.Weight.Init, h.Head.Summary.Bias.Init = init, init
	nn.Name(h)
	h.unit = &nn.Unit{Name: "v_head", Block: -1, Params: nn.Params(h)}
	return h
}

// Unit holds the head's parameters.
func (h *ValueHead) Unit() *nn.Unit { return h.unit }

// values computes a number a row of x [n, d], which it releases, as [n, 1]. rows are the rows' places in the batch, for dropout.
func (h *ValueHead) values(t *autograd.Tape, x autograd.Value, rows []int32) autograd.Value {
	if n, ok := t.Noise(); ok && h.Dropout > 0 && t.OK() {
		ids := make([]int64, len(rows))
		for i, r := range rows {
			ids[i] = n.IDs[r]
		}
		y := ops.Dropout(t, x, ops.DropoutConfig{P: float32(h.Dropout), Seed: n.Seed, Stream: nn.Stream("v_head.dropout") ^ autograd.Mix(n.Step),
			Rows: t.Longs(ids, int64(len(ids)))})
		t.Release(x)
		x = y
	}
	t.Enter(h.unit)
	y := h.Head.Summary.Forward(t, x)
	t.Leave(h.unit)
	t.Release(x)
	return y
}

// RewardResult is what a leaf of pairs gave.
type RewardResult struct {
	// Sum of -log sigmoid(chosen - rejected) over the pairs.
	Sum float64
	// Scores of chosen, rejected, chosen, ... sequences.
	Scores []float64
}

// Correct counts the pairs whose chosen sequence scores higher.
func (r RewardResult) Correct() int {
	n := 0
	for i := 0; i < len(r.Scores); i += 2 {
		if r.Scores[i] > r.Scores[i+1] {
			n++
		}
	}
	return n
}

// Scores computes the head's value at the last position of each sequence.
func (h *ValueHead) scores(t *autograd.Tape, m zoo.Model, b *nn.Batch) (autograd.Value, []float32, error) {
	var last []int32
	for _, s := range Spans(b) {
		last = append(last, int32(s.To-1))
	}
	hidden := m.Hidden(t, b)
	rows := ops.SelectRows(t, hidden, last)
	t.Release(hidden)
	v := h.values(t, rows, last)
	out, err := t.Read(v)
	if err != nil {
		return v, nil, fmt.Errorf("cannot compute scores: %w", err)
	}
	return v, out, nil
}

// Scores is the head's value at the last position of each sequence, without gradients: a reward.
func (h *ValueHead) Scores(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch) ([]float64, error) {
	t.Reset(ctx, false)
	_, v, err := h.scores(t, m, b)
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out, err
}

// Reward runs one leaf of pairs (chosen, rejected, chosen, ...) of the Bradley-Terry loss; with train, gradients are those of weight times
// the sum over pairs.
func (h *ValueHead) Reward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, weight float64, train bool) (RewardResult, error) {
	t.Reset(ctx, train)
	v, s, err := h.scores(t, m, b)
	if err != nil {
		return RewardResult{}, err
	}
	if len(s)%2 != 0 {
		return RewardResult{}, errGroups
	}
	res, grad := RewardResult{Scores: make([]float64, len(s))}, make([]float32, len(s))
	for i := range s {
		res.Scores[i] = float64(s[i])
	}
	for i := 0; i < len(s); i += 2 {
		d := res.Scores[i] - res.Scores[i+1]
		res.Sum -= logSigmoid(d)
		g := weight * sigmoid(-d)
		grad[i], grad[i+1] = float32(-g), float32(g)
	}
	if err := finite(res.Sum); err != nil || !train {
		return res, err
	}
	t.Seed(v, t.Floats(grad, int64(len(grad)), 1))
	return res, t.Backward()
}
