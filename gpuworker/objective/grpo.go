package objective

import (
	"fmt"
	"math"
)

// GRPO is https://arxiv.org/abs/2402.03300 as TRL 0.24 computes it, on log-probabilities of the tokens of completions.
type GRPO struct {
	// Beta weighs the divergence from the reference; ClipLow and ClipHigh bound the ratio of new to old probability from 1.
	Beta, ClipLow, ClipHigh float64
	// LossType is "grpo" (mean of the completions' means), "bnpo" (mean over the leaf's tokens), "dr_grpo" (over the leaf's completions times
	// MaxLen, https://arxiv.org/abs/2503.20783) or "dapo" (over all tokens of the step, https://arxiv.org/abs/2503.14476).
	LossType string
	MaxLen   int
}

// Completion is one completion of a prompt: the log-probabilities of its tokens when it was drawn and under the reference (nil without
// Beta), and its advantage.
type Completion struct {
	Old, Ref  []float64
	Advantage float64
}

// GroupAdvantages compares rewards within groups of consecutive completions of one prompt, in the order of samples: reward minus the group's
// mean, divided by the group's ("group") or the whole batch's ("batch") deviation, or by nothing ("none").
func GroupAdvantages(rewards []float64, group int, scale string) ([]float64, error) {
	if group < 2 || len(rewards)%group != 0 {
		return nil, fmt.Errorf("cannot compare %d rewards in groups of %d", len(rewards), group)
	}
	out := make([]float64, len(rewards))
	whole := deviation(rewards)
	for at := 0; at < len(rewards); at += group {
		g := rewards[at : at+group]
		m := mean(g)
		by := 1.0
		switch scale {
		case "group":
			by = deviation(g) + 1e-4
		case "batch":
			by = whole + 1e-4
		}
		for i, r := range g {
			out[at+i] = (r - m) / by
		}
	}
	return out, nil
}

func mean(v []float64) float64 {
	var s float64
	for _, x := range v {
		s += x
	}
	return s / float64(len(v))
}

// deviation is the unbiased standard deviation.
func deviation(v []float64) float64 {
	m := mean(v)
	var s float64
	for _, x := range v {
		s += (x - m) * (x - m)
	}
	return math.Sqrt(s / float64(len(v)-1))
}

// Loss is the loss of a leaf's completions with log-probabilities now, and its gradient by each of them. leaves is the number of leaves of
// the step, tokens that of the completions' tokens of the whole step.
func (o GRPO) Loss(cs []Completion, now [][]float64, leaves, tokens int) (loss float64, grad [][]float64) {
	own := 0
	for _, n := range now {
		own += len(n)
	}
	for i, c := range cs {
		var w float64
		switch o.LossType {
		case "grpo":
			w = 1 / (float64(max(1, len(now[i]))) * float64(len(cs)) * float64(leaves))
		case "bnpo":
			w = 1 / (float64(max(1, own)) * float64(leaves))
		case "dr_grpo":
			w = 1 / (float64(len(cs)) * float64(o.MaxLen) * float64(leaves))
		default:
			w = 1 / float64(max(1, tokens))
		}
		g := make([]float64, len(now[i]))
		for t, lp := range now[i] {
			r := math.Exp(lp - c.Old[t])
			l, d := clippedRatio(r, c.Advantage, o.ClipLow, o.ClipHigh)
			if o.Beta != 0 {
				x := c.Ref[t] - lp
				l += o.Beta * (math.Exp(x) - x - 1)
				d += o.Beta * (1 - math.Exp(x))
			}
			loss += w * l
			g[t] = w * d
		}
		grad = append(grad, g)
	}
	return loss, grad
}

// clippedRatio is -min(r a, clip(r) a) and its derivative by log r. Where both are equal each has half of the gradient, as in torch.
func clippedRatio(r, a, low, high float64) (loss, d float64) {
	c := min(max(r, 1-low), 1+high)
	free, bound := -r*a, -c*a
	dFree, dBound := free, 0.0
	if r >= 1-low && r <= 1+high {
		dBound = free
	}
	switch {
	case free > bound:
		return free, dFree
	case free < bound:
		return bound, dBound
	}
	return free, (dFree + dBound) / 2
}
