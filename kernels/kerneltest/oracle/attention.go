package oracle

import "math"

// Attn describes one attention call on dense tensors: q [batch, tq, heads, dqk], k [batch, tk, kvHeads, dqk], v [batch, tk, kvHeads, dv].
type Attn struct {
	Batch, TQ, TK, Heads, KVHeads, DQK, DV int
	Scale                                  float64
	Causal                                 bool
	// Window, when positive, lets query i (at position i+QOffset) see keys j with 0 <= i-j < Window.
	Window int
	// QOffset is the position of the first query relative to the first key (decode with a cache).
	QOffset int
	// KVLen, when set, is the number of valid keys of each batch row.
	KVLen []int32
	// Docs, when set, holds the document number of each token [batch, tk]: attention stays within a document (TQ == TK).
	Docs []int32
	// Band, when set, holds how far a query sees to the left and right; negative is no limit.
	Band *[2]int
	// KVFirst, when set, is the first valid key of each batch row.
	KVFirst []int32
	// Mask, when set, hides a key where it is 0 [batch, tk].
	Mask []uint8
	// Softcap, when positive, bounds scores: softcap * tanh(score / softcap).
	Softcap float64
	// Bias, when set, is added to the scores of each key [batch, heads, tk], less that of the key at the query's position.
	Bias []float64
	// Sinks, when set, is one more logit of each head in the denominator.
	Sinks []float64
	// Drop, when set, drops probabilities; RowIDs [batch, tq] are the ids of the queries, default their numbers.
	Drop   *Drop
	RowIDs []int64
}

// factor is dropout's for the probability that query i of (b, h) gives key j.
func (a Attn) factor(b, h, i, j int) float64 {
	if a.Drop == nil {
		return 1
	}
	id := int64(b*a.TQ + i)
	if a.RowIDs != nil {
		id = a.RowIDs[id]
	}
	return a.Drop.Factor(id, h, j)
}

// visible reports whether query i may attend to key j in batch row b.
func (a Attn) visible(b, i, j int) bool {
	p := i + a.QOffset
	if a.Causal && j > p {
		return false
	}
	if a.Window > 0 && (p-j >= a.Window || j > p) {
		return false
	}
	if a.Band != nil && (a.Band[0] >= 0 && j < p-a.Band[0] || a.Band[1] >= 0 && j > p+a.Band[1]) {
		return false
	}
	if a.KVLen != nil && j >= int(a.KVLen[b]) || a.KVFirst != nil && j < int(a.KVFirst[b]) || a.Mask != nil && a.Mask[b*a.TK+j] == 0 {
		return false
	}
	return a.Docs == nil || a.Docs[b*a.TK+i] == a.Docs[b*a.TK+j]
}

// probs returns the softmax row of (b, h, i), zeros where nothing is visible, its log-sum-exp, and how fast each score grows with q.k.
func (a Attn) probs(q, k []float64, b, h, i int) (p []float64, lse float64, slope []float64) {
	p, slope = make([]float64, a.TK), make([]float64, a.TK)
	kh := h / (a.Heads / a.KVHeads)
	top := math.Inf(-1)
	for j := range a.TK {
		p[j] = math.Inf(-1)
		if !a.visible(b, i, j) {
			continue
		}
		s := 0.0
		for d := range a.DQK {
			s += q[((b*a.TQ+i)*a.Heads+h)*a.DQK+d] * k[((b*a.TK+j)*a.KVHeads+kh)*a.DQK+d]
		}
		p[j], slope[j] = s*a.Scale, a.Scale
		if a.Softcap > 0 {
			t := math.Tanh(p[j] / a.Softcap)
			p[j], slope[j] = a.Softcap*t, a.Scale*(1-t*t)
		}
		if a.Bias != nil {
			keys := a.Bias[(b*a.Heads+h)*a.TK:][:a.TK]
			p[j] += keys[j] - keys[min(i+a.QOffset, a.TK-1)]
		}
		top = max(top, p[j])
	}
	if math.IsInf(top, -1) {
		return make([]float64, a.TK), top, slope
	}
	sum := 0.0
	if a.Sinks != nil {
		top = max(top, a.Sinks[h])
		sum = math.Exp(a.Sinks[h] - top)
	}
	for j := range p {
		p[j] = math.Exp(p[j] - top)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p, top + math.Log(sum), slope
}

// Attention returns o [batch, tq, heads, dv] and lse [batch, heads, tq] (Dao et al. 2022 save only lse for the backward pass).
func Attention(a Attn, q, k, v []float64) (o, lse []float64) {
	o, lse = make([]float64, a.Batch*a.TQ*a.Heads*a.DV), make([]float64, a.Batch*a.Heads*a.TQ)
	for b := range a.Batch {
		for h := range a.Heads {
			kh := h / (a.Heads / a.KVHeads)
			for i := range a.TQ {
				p, l, _ := a.probs(q, k, b, h, i)
				lse[(b*a.Heads+h)*a.TQ+i] = l
				for j := range a.TK {
					p[j] *= a.factor(b, h, i, j)
					for d := range a.DV {
						o[((b*a.TQ+i)*a.Heads+h)*a.DV+d] += p[j] * v[((b*a.TK+j)*a.KVHeads+kh)*a.DV+d]
					}
				}
			}
		}
	}
	return o, lse
}

// AttentionBackward returns dq, dk and dv.
func AttentionBackward(a Attn, q, k, v, do []float64) (dq, dk, dv []float64) {
	dq, dk, dv = make([]float64, len(q)), make([]float64, len(k)), make([]float64, len(v))
	for b := range a.Batch {
		for h := range a.Heads {
			kh := h / (a.Heads / a.KVHeads)
			for i := range a.TQ {
				p, _, slope := a.probs(q, k, b, h, i)
				g := do[((b*a.TQ+i)*a.Heads+h)*a.DV:][:a.DV]
				dp, dot := make([]float64, a.TK), 0.0
				for j := range a.TK {
					f := a.factor(b, h, i, j)
					for d := range a.DV {
						at := ((b*a.TK+j)*a.KVHeads+kh)*a.DV + d
						dp[j] += f * g[d] * v[at]
						dv[at] += f * p[j] * g[d]
					}
					dot += p[j] * dp[j]
				}
				for j := range a.TK {
					ds := p[j] * (dp[j] - dot) * slope[j]
					for d := range a.DQK {
						qa, ka := ((b*a.TQ+i)*a.Heads+h)*a.DQK+d, ((b*a.TK+j)*a.KVHeads+kh)*a.DQK+d
						dq[qa] += ds * k[ka]
						dk[ka] += ds * q[qa]
					}
				}
			}
		}
	}
	return dq, dk, dv
}
