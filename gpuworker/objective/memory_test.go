package objective_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestNoLossHoldsLogits runs a training pass of every objective over a vocabulary that dwarfs the model: activations and workspace together
// stay far below the logits of the batch.
func TestNoLossHoldsLogits(t *testing.T) {
	const vocab, rows, seq, hidden = 20000, 16, 96, 8
	dev, err := kernels.Open(kernels.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	m, err := zoo.New([]byte(`{"model_type":"llama","vocab_size":20000,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":1}`))
	if err != nil {
		t.Fatal(err)
	}
	head := objective.NewValueHead(hidden)
	store, err := nn.NewStorage(dev, q, append(m.Units(), head.Unit()), true)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := nn.InitRandom(q, append(nn.Params(m.Root()), head.Unit().Params...), 3); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	b := &nn.Batch{Rows: rows, Seq: seq}
	var prompts, answers [][]int32
	for r := range rows {
		for range seq {
			b.IDs = append(b.IDs, int32(rng.IntN(vocab)))
		}
		prompts, answers = append(prompts, b.IDs[r*seq:r*seq+8]), append(answers, b.IDs[r*seq+8:])
	}
	b.Labels = b.IDs
	ref := make([]objective.LogProb, rows)
	for i := range ref {
		ref[i] = objective.LogProb{Sum: -100, Len: seq - 1}
	}
	flat := func(v [][]float64) [][]float64 {
		out := make([][]float64, len(v))
		for i := range v {
			out[i] = make([]float64, len(v[i]))
			for k := range out[i] {
				out[i][k] = 0.01
			}
		}
		return out
	}
	passes := map[string]func(ctx context.Context, t *autograd.Tape) error{
		"sft": func(ctx context.Context, t *autograd.Tape) error {
			_, err := objective.Backward(ctx, t, m, b, b.LabelTokens())
			return err
		},
		"sft, smoothed, z": func(ctx context.Context, t *autograd.Tape) error {
			c := *b
			c.Extra = &ops.XentExtra{Smoothing: 0.1, ZLoss: 1e-3}
			_, err := objective.Backward(ctx, t, m, &c, c.LabelTokens())
			return err
		},
		"score": func(ctx context.Context, t *autograd.Tape) error {
			_, err := objective.Score(ctx, t, m, b)
			return err
		},
		"kto": func(ctx context.Context, t *autograd.Tape) error {
			_, err := objective.KTO{Beta: 0.1, Desirable: 1, Undesirable: 1}.Backward(ctx, t, m, b, ref, make([]bool, rows), 0, 0.5)
			return err
		},
		"rm": func(ctx context.Context, t *autograd.Tape) error {
			_, err := head.Reward(ctx, t, m, b, 0.5, true)
			return err
		},
		"grpo": func(ctx context.Context, t *autograd.Tape) error {
			return objective.NewRows(prompts, answers, 0.9).Differentiate(ctx, t, m, flat)
		},
		"ppo": func(ctx context.Context, t *autograd.Tape) error {
			return objective.NewRows(prompts, answers, 1).DifferentiateBoth(ctx, t, m, head, seq, func(lp, values [][]float64) (a, b [][]float64) {
				return flat(lp), flat(values)
			})
		},
	}
	for _, name := range schemas.PrefLosses() {
		passes["dpo "+name] = func(ctx context.Context, t *autograd.Tape) error {
			_, err := objective.PairLoss{Name: name, Beta: 0.1, Gamma: 0.5, FTX: 0.1}.Backward(ctx, t, m, b, ref, 0.5)
			return err
		}
	}
	const logits = 4 * vocab * rows * seq
	for name, pass := range passes {
		mem := autograd.NewMemory(dev, q, 0)
		if err := pass(t.Context(), autograd.New(mem, autograd.Config{})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if used := mem.Peak() + q.Workspace(); used > logits/4 {
			t.Errorf("%s takes %d bytes (%d of them workspace), the logits of the batch alone would take %d", name, used, q.Workspace(), logits)
		}
		if err := mem.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
