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

// PairLoss is a loss over pairs of a chosen and a rejected response to the same prompt.
type PairLoss struct {
	// Name is one of schemas.PrefLosses:
	//  sigmoid   DPO, https://arxiv.org/abs/2305.18290, with conservative label smoothing
	//  robust    DPO with unbiased label smoothing, https://arxiv.org/abs/2403.00409
	//  hinge     SLiC, https://arxiv.org/abs/2309.06657
	//  ipo       https://arxiv.org/abs/2310.12036, on averaged log-probabilities
	//  kto_pair  KTO over pairs, https://arxiv.org/abs/2402.01306, as TRL had it: each side against the other's divergence
	//  orpo      https://arxiv.org/abs/2403.07691; orpo_trl takes the likelihood of the whole chosen sequence, prompt included, over tokens
	//  simpo     https://arxiv.org/abs/2405.14734
	Name string
	// Beta, Smoothing, Gamma (simpo), FTX (weight of the chosen response's mean token loss) and LDAlpha (weight of tokens beyond the shorter
	// response, 0: off) as in schemas.Preference.
	Beta, Smoothing, Gamma, FTX, LDAlpha float64
	// Average takes means of log-probabilities where the loss would take sums.
	Average bool
}

// PairLossOf is the loss of a spec.
func PairLossOf(p *schemas.Preference) PairLoss {
	l := PairLoss{Name: p.Loss, Beta: p.Beta, Smoothing: p.LabelSmoothing, FTX: p.FTX, LDAlpha: p.LDAlpha, Average: p.Average}
	if p.Gamma != nil {
		l.Gamma = *p.Gamma
	}
	return l
}

// Averages reports whether the loss works on log-probabilities averaged over tokens.
func (l PairLoss) Averages() bool {
	return l.Average || l.Name == "ipo" || l.Name == "orpo" || l.Name == "orpo_trl" || l.Name == "simpo"
}

// NeedsReference reports whether the loss compares with a reference model.
func (l PairLoss) NeedsReference() bool {
	return l.Name != "orpo" && l.Name != "orpo_trl" && l.Name != "simpo"
}

// WholeSequence reports whether the loss needs the log-probabilities of the prompt too.
func (l PairLoss) WholeSequence() bool { return l.Name == "orpo_trl" }

// Pair is the log-probabilities of one pair (sums, or means where the loss averages) under the policy and the reference.
type Pair struct {
	Chosen, Rejected, RefChosen, RefRejected float64
}

// pairGrad is the derivative of a loss by the policy's two log-probabilities.
type pairGrad struct{ chosen, rejected float64 }

// kl is what kto_pair compares with: the mean divergence of the chosen and of the rejected responses of the batch, not below 0.
type pairKL struct{ chosen, rejected float64 }

// eval is the loss of one pair without the fine-tuning term, and its gradient.
func (l PairLoss) eval(p Pair, kl pairKL) (loss float64, g pairGrad) {
	x := (p.Chosen - p.Rejected) - (p.RefChosen - p.RefRejected)
	b, e := l.Beta, l.Smoothing
	var d float64 // derivative by x
	switch l.Name {
	case "hinge":
		if loss = max(0, 1-b*x); loss > 0 {
			d = -b
		}
	case "ipo":
		r := x - 1/(2*b)
		loss, d = r*r, 2*r
	case "robust":
		loss = (-logSigmoid(b*x)*(1-e) + logSigmoid(-b*x)*e) / (1 - 2*e)
		d = b * (-sigmoid(-b*x)*(1-e) - sigmoid(b*x)*e) / (1 - 2*e)
	case "kto_pair":
		// TRL's kto_pair: 1-sigmoid(beta (chosen - KL(rejected))) and 1-sigmoid(beta (KL(chosen) - rejected)), half each.
		c, r := b*(p.Chosen-p.RefChosen-kl.rejected), b*(kl.chosen-(p.Rejected-p.RefRejected))
		sc, sr := sigmoid(c), sigmoid(r)
		return ((1 - sc) + (1 - sr)) / 2, pairGrad{-b * sc * (1 - sc) / 2, b * sr * (1 - sr) / 2}
	case "orpo", "orpo_trl":
		odds := (p.Chosen - p.Rejected) - (log1mexp(p.Chosen) - log1mexp(p.Rejected))
		s := b * sigmoid(-odds)
		// d log(1-e^a)/da = -e^a/(1-e^a), so d odds/d chosen = 1/(1-e^a).
		loss = -b * logSigmoid(odds)
		g = pairGrad{-s / -math.Expm1(p.Chosen), s / -math.Expm1(p.Rejected)}
		if l.Name == "orpo" {
			loss -= p.Chosen
			g.chosen--
		}
		return loss, g
	case "simpo":
		y := b*(p.Chosen-p.Rejected) - l.Gamma
		loss, d = -logSigmoid(y), -b*sigmoid(-y)
	default:
		loss = -logSigmoid(b*x)*(1-e) - logSigmoid(-b*x)*e
		d = b * (-sigmoid(-b*x)*(1-e) + sigmoid(b*x)*e)
	}
	return loss, pairGrad{d, -d}
}

// log1mexp is log(1 - e^a) for a < 0.
func log1mexp(a float64) float64 { return math.Log(-math.Expm1(a)) }

// PairResult is what a leaf of pairs gave.
type PairResult struct {
	// Sum of the losses of all pairs.
	Sum float64
	// Policy is the log-probabilities of chosen, rejected, chosen, ... responses.
	Policy []LogProb
	// Rewards are beta times how much likelier each response is than under the reference (orpo, simpo: than nothing).
	Rewards []float64
}

// Backward runs forward and backward of a leaf whose sequences are chosen, rejected, chosen, ... ref is what Score of the reference model
// gave for it (nil when the loss needs none). Gradients are those of weight times the sum over pairs. With WholeSequence the labels of b are
// those of the responses, and the prompts are taken from its ids. A loss that is not finite is an error with the code numeric.
func (l PairLoss) Backward(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb, weight float64) (PairResult, error) {
	return l.run(ctx, t, m, b, ref, weight, true)
}

// Loss is Backward without gradients.
func (l PairLoss) Loss(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb) (PairResult, error) {
	return l.run(ctx, t, m, b, ref, 1, false)
}

func (l PairLoss) run(ctx context.Context, t *autograd.Tape, m zoo.Model, b *nn.Batch, ref []LogProb, weight float64, train bool) (PairResult, error) {
	spans, response := Spans(b), b.Targets()
	if len(spans)%2 != 0 || l.NeedsReference() && len(ref) != len(spans) {
		return PairResult{}, errGroups
	}
	whole := b
	if l.WholeSequence() {
		whole = allLabels(b, spans)
	}
	t.Reset(ctx, train)
	logp := m.TokenLogProbs(t, whole)
	lp, err := t.Read(logp)
	if err != nil {
		return PairResult{}, fmt.Errorf("cannot compute a preference loss: %w", err)
	}
	res, dlogp := l.pairs(lp, response, whole.Targets(), spans, ref, weight)
	if err := finite(res.Sum); err != nil || !train {
		return res, err
	}
	t.Seed(logp, t.Floats(dlogp, int64(len(dlogp))))
	return res, t.Backward()
}

// allLabels trains on every token of every sequence.
func allLabels(b *nn.Batch, spans []Span) *nn.Batch {
	c := *b
	c.Labels = make([]int32, len(b.IDs))
	for i := range c.Labels {
		c.Labels[i] = nn.IgnoreLabel
	}
	for _, s := range spans {
		copy(c.Labels[s.From:s.To], b.IDs[s.From:s.To])
	}
	return &c
}

// pairs computes losses and the gradient by each token's log-probability.
func (l PairLoss) pairs(lp []float32, response, whole []int32, spans []Span, ref []LogProb, weight float64) (PairResult, []float32) {
	res := PairResult{Policy: sums(lp, response, spans), Rewards: make([]float64, len(spans))}
	dlogp := make([]float32, len(lp))
	n := len(spans) / 2
	pairs := make([]Pair, n)
	scale := make([]func(at int) float64, len(spans)) // of each sequence: d log-probability / d token
	for i := range pairs {
		c, r := res.Policy[2*i], res.Policy[2*i+1]
		short := min(c.Len, r.Len)
		value := func(k int, p LogProb) float64 {
			per := 1.0
			if l.Averages() {
				per = 1 / float64(max(1, p.Len))
			}
			beyond := per
			if l.LDAlpha > 0 {
				beyond *= l.LDAlpha
				p.Sum = longSum(lp, response, spans[k], short, l.LDAlpha)
			}
			scale[k] = func(at int) float64 {
				if at >= short {
					return beyond
				}
				return per
			}
			return p.Sum * per
		}
		pairs[i] = Pair{Chosen: value(2*i, c), Rejected: value(2*i+1, r)}
		if l.NeedsReference() {
			pairs[i].RefChosen, pairs[i].RefRejected = ref[2*i].Sum, ref[2*i+1].Sum
			if l.Averages() {
				pairs[i].RefChosen, pairs[i].RefRejected = ref[2*i].Mean(), ref[2*i+1].Mean()
			}
		}
		res.Rewards[2*i] = l.Beta * (pairs[i].Chosen - pairs[i].RefChosen)
		res.Rewards[2*i+1] = l.Beta * (pairs[i].Rejected - pairs[i].RefRejected)
	}
	kl := meanKL(pairs)
	for i, p := range pairs {
		loss, g := l.eval(p, kl)
		spread(dlogp, response, spans[2*i], func(at int) float64 { return weight * g.chosen * scale[2*i](at) })
		spread(dlogp, response, spans[2*i+1], func(at int) float64 { return weight * g.rejected * scale[2*i+1](at) })
		if l.FTX > 0 {
			// Upstream's mean is that of the log-probabilities as LDAlpha has weighed them.
			mean, per := p.Chosen, 1.0
			if !l.Averages() {
				per = 1 / float64(max(1, res.Policy[2*i].Len))
			}
			loss -= l.FTX * mean * per
			spread(dlogp, response, spans[2*i], func(at int) float64 { return -weight * l.FTX * per * scale[2*i](at) })
		}
		res.Sum += loss
	}
	if l.WholeSequence() {
		res.Sum += l.wholeChosen(lp, dlogp, whole, spans, weight)
	}
	return res, dlogp
}

// longSum adds a response's log-probabilities, those from the short-th token on times alpha.
func longSum(lp []float32, targets []int32, s Span, short int, alpha float64) float64 {
	var sum float64
	at := 0
	for p := s.From; p < s.To; p++ {
		if targets[p] < 0 {
			continue
		}
		if at < short {
			sum += float64(lp[p])
		} else {
			sum += alpha * float64(lp[p])
		}
		at++
	}
	return sum
}

// spread adds f(index of the target) to the gradient of every target of a sequence.
func spread(dlogp []float32, targets []int32, s Span, f func(at int) float64) {
	at := 0
	for p := s.From; p < s.To; p++ {
		if targets[p] >= 0 {
			dlogp[p] = float32(float64(dlogp[p]) + f(at))
			at++
		}
	}
}

// meanKL is kto_pair's estimate; it gets no gradient.
func meanKL(pairs []Pair) (kl pairKL) {
	for _, p := range pairs {
		kl.chosen += p.Chosen - p.RefChosen
		kl.rejected += p.Rejected - p.RefRejected
	}
	n := float64(max(1, len(pairs)))
	return pairKL{max(0, kl.chosen/n), max(0, kl.rejected/n)}
}

// wholeChosen is orpo_trl's likelihood term: the mean over all tokens of all chosen sequences, counted once a pair.
func (l PairLoss) wholeChosen(lp, dlogp []float32, targets []int32, spans []Span, weight float64) float64 {
	var total LogProb
	for i := 0; i < len(spans); i += 2 {
		s := sums(lp, targets, spans[i:i+1])[0]
		total.Sum += s.Sum
		total.Len += s.Len
	}
	n := float64(len(spans)/2) / float64(max(1, total.Len))
	for i := 0; i < len(spans); i += 2 {
		spread(dlogp, targets, spans[i], func(int) float64 { return -weight * n })
	}
	return -total.Sum * n
}
