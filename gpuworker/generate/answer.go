package generate

import (
	"cmp"
	"context"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Answer continues prompts as a spec's generation says: by draws or the likeliest tokens, all at once, or by a beam search for each. rows names
// the prompts for the draws, as Options.Rows does.
func Answer(ctx context.Context, t *autograd.Tape, m zoo.Model, prompts [][]int32, rows []int64, g *schemas.Generation, stop []int32, seed uint64) ([][]int32, error) {
	if g.Beams < 2 {
		return Generate(ctx, t, m, prompts, options(rows, g, stop, seed), nil)
	}
	o := BeamOptions{MaxNewTokens: g.MaxNewTokens, Stop: stop, Beams: g.Beams, LengthPenalty: 1, RepetitionPenalty: g.RepetitionPenalty}
	if g.LengthPenalty != nil {
		o.LengthPenalty = *g.LengthPenalty
	}
	out := make([][]int32, len(prompts))
	for i, p := range prompts {
		ids, _, err := Beams(ctx, t, m, p, o)
		if err != nil {
			return nil, err
		}
		out[i] = ids
	}
	return out, nil
}

func options(rows []int64, g *schemas.Generation, stop []int32, seed uint64) Options {
	o := Options{MaxNewTokens: g.MaxNewTokens, Stop: stop, Seed: seed, Rows: rows}
	if g.Sample {
		o.Sampling = Sampling{Temperature: cmp.Or(g.Temperature, 1), TopK: g.TopK, TopP: g.TopP}
	}
	o.RepetitionPenalty = g.RepetitionPenalty
	return o
}

// AnswerPadded is Answer as transformers computes it for prompts that padding follows: an answer's first token is the one that follows the
// padding, which no token sees, itself included, and which stands at position 1; the others come after the prompt and what has been answered.
// The length of a batch is that of its longest prompt, rounded up; MaxLength bounds it and the answer. Beams are searched behind the prompts.
func AnswerPadded(ctx context.Context, t *autograd.Tape, m zoo.Model, prompts [][]int32, rows []int64, g *schemas.Generation, stop []int32, seed uint64, pad schemas.Padding) ([][]int32, error) {
	longest := 0
	for _, p := range prompts {
		longest = max(longest, len(p))
	}
	multiple := max(1, pad.Multiple)
	longest = (longest + multiple - 1) / multiple * multiple
	limited := *g
	if g = &limited; g.MaxLength > 0 {
		g.MaxNewTokens = max(1, g.MaxLength-longest)
	}
	if g.Beams > 1 {
		return Answer(ctx, t, m, prompts, rows, g, stop, seed)
	}
	o := options(rows, g, stop, seed)
	if err := o.Validate(); err != nil {
		return nil, err
	}
	out := make([][]int32, len(prompts))
	var whole, begun []int // rows without padding, and rows whose first token is there
	for i, p := range prompts {
		if len(p) == longest {
			whole = append(whole, i)
			continue
		}
		first, err := afterPadding(ctx, t, m, p, pad.ID, o, i)
		if err != nil {
			return nil, err
		}
		out[i] = []int32{first}
		if !slices.Contains(stop, first) && g.MaxNewTokens > 1 {
			begun = append(begun, i)
		}
	}
	for _, part := range [][]int{whole, begun} {
		if len(part) == 0 {
			continue
		}
		var ps [][]int32
		var ids []int64
		for _, i := range part {
			ps = append(ps, slices.Concat(prompts[i], out[i]))
			if rows != nil {
				ids = append(ids, rows[i])
			}
		}
		rest := *g
		rest.MaxNewTokens -= len(out[part[0]])
		made, err := Answer(ctx, t, m, ps, ids, &rest, stop, seed)
		if err != nil {
			return nil, err
		}
		for k, i := range part {
			out[i] = append(out[i], made[k]...)
		}
	}
	return out, nil
}

// afterPadding chooses what follows a prompt and a token of padding.
func afterPadding(ctx context.Context, t *autograd.Tape, m zoo.Model, prompt []int32, pad int32, o Options, row int) (int32, error) {
	n := len(prompt)
	b := &nn.Batch{Rows: 1, Seq: n + 1, IDs: append(slices.Clone(prompt), pad), Mask: slices.Repeat([]uint8{1}, n+1), Positions: make([]int32, n+1)}
	for i := range n {
		b.Positions[i] = int32(i)
	}
	b.Mask[n], b.Positions[n] = 0, 1
	t.Reset(ctx, false)
	logits, err := t.Read(m.Logits(t, b))
	if err != nil {
		return 0, err
	}
	v := len(logits) / (n + 1)
	z := make([]float64, v)
	for i, x := range logits[n*v:] {
		z[i] = float64(x)
	}
	s := sampler{o: o, ids: make([][]int32, row+1)}
	s.ids[row] = prompt
	return s.sample(z, row), nil
}
