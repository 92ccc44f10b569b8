package objective

import "math"

// PPO is https://arxiv.org/abs/1707.06347 for language models, as TRL 0.24's PPOTrainer computes it.
type PPO struct {
	// Beta weighs the divergence from the reference within the reward; Clip bounds the ratio of new to old probability from 1.
	Beta, Clip float64
	// ValueClip bounds the change of values, ValueWeight weighs their loss.
	ValueClip, ValueWeight float64
	// Discount and Lambda are those of generalized advantage estimation (https://arxiv.org/abs/1506.02438).
	Discount, Lambda float64
	// Whiten divides rewards by their deviation.
	Whiten bool
}

// Rollout is one response: the log-probabilities of its tokens when it was drawn and under the reference, the values before each token and,
// where the response ended before MaxLen, after the last one, and the score of the whole.
type Rollout struct {
	Old, Ref, Values []float64
	Score            float64
}

// Estimates computes advantages (one a token) and returns (one a value) of a batch of rollouts. Means and deviations go over the batch in
// the order of samples.
func (o PPO) Estimates(rs []Rollout) (advantages, returns [][]float64) {
	rewards := make([][]float64, len(rs))
	for i, r := range rs {
		rewards[i] = make([]float64, len(r.Values))
		for t := range r.Old {
			rewards[i][t] = -o.Beta * (r.Old[t] - r.Ref[t])
		}
		rewards[i][len(r.Values)-1] += r.Score
	}
	if o.Whiten {
		whiten(rewards, false)
	}
	for i, r := range rs {
		a, last := make([]float64, len(r.Values)), 0.0
		for t := len(r.Values) - 1; t >= 0; t-- {
			next := 0.0
			if t+1 < len(r.Values) {
				next = r.Values[t+1]
			}
			last = rewards[i][t] + o.Discount*next - r.Values[t] + o.Discount*o.Lambda*last
			a[t] = last
		}
		ret := make([]float64, len(a))
		for t := range a {
			ret[t] = a[t] + r.Values[t]
		}
		advantages, returns = append(advantages, a[:len(r.Old)]), append(returns, ret)
	}
	whiten(advantages, true)
	return advantages, returns
}

// whiten divides by the deviation (unbiased), and with shift takes the mean away.
func whiten(v [][]float64, shift bool) {
	var n, sum, sq float64
	each := func(f func(x *float64)) {
		for i := range v {
			for t := range v[i] {
				f(&v[i][t])
			}
		}
	}
	each(func(x *float64) { n++; sum += *x })
	m := sum / n
	each(func(x *float64) { sq += (*x - m) * (*x - m) })
	scale := 1 / math.Sqrt(sq/max(1, n-1)+1e-8)
	each(func(x *float64) {
		*x = (*x - m) * scale
		if !shift {
			*x += m
		}
	})
}

// PPOLoss is the loss of some rollouts and its parts, and the gradients by each token's log-probability and each value.
type PPOLoss struct {
	Policy, Value       float64
	DPolicy, DValue     [][]float64
	clipped, everything int
}

// Total is the loss that the gradients are of.
func (o PPO) Total(l PPOLoss) float64 { return l.Policy + o.ValueWeight*l.Value }

// ClipFraction is the share of tokens whose ratio was clipped.
func (l PPOLoss) ClipFraction() float64 { return float64(l.clipped) / float64(max(1, l.everything)) }

// Loss is the loss of rollouts with the estimates made of them, log-probabilities and values now. tokens and values are the numbers of the
// whole step that the two means are over.
func (o PPO) Loss(rs []Rollout, advantages, returns, now, values [][]float64, tokens, valueCount int) (l PPOLoss) {
	for i, r := range rs {
		dp, dv := make([]float64, len(now[i])), make([]float64, len(values[i]))
		for t, lp := range now[i] {
			ratio := math.Exp(lp - r.Old[t])
			x, d := clippedRatio(ratio, advantages[i][t], o.Clip, o.Clip)
			l.Policy += x / float64(tokens)
			dp[t] = d / float64(tokens)
			if ratio < 1-o.Clip || ratio > 1+o.Clip {
				l.clipped++
			}
			l.everything++
		}
		for t, v := range values[i] {
			old, want := r.Values[t], returns[i][t]
			c := min(max(v, old-o.ValueClip), old+o.ValueClip)
			free, bound := (v-want)*(v-want), (c-want)*(c-want)
			dFree, dBound := 2*(v-want), 0.0
			if v >= old-o.ValueClip && v <= old+o.ValueClip {
				dBound = dFree
			}
			d := dFree
			switch {
			case bound > free:
				d = dBound
			case bound == free:
				d = (dFree + dBound) / 2
			}
			l.Value += 0.5 * max(free, bound) / float64(valueCount)
			dv[t] = o.ValueWeight * 0.5 * d / float64(valueCount)
		}
		l.DPolicy, l.DValue = append(l.DPolicy, dp), append(l.DValue, dv)
	}
	return l
}
