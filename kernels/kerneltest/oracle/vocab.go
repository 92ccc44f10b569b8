package oracle

import "math"

// Vocab describes a loss over a vocabulary: logits z = cap(scale * (x[m,k] w[v,k]^T + bias)), cap(z) = softcap * tanh(z / softcap).
type Vocab struct {
	M, V, K int
	// Scale 0 means 1, Softcap 0 none.
	Scale, Softcap float64
}

// Stats are what is known of each row: the log-probability of its target (0 where the target is negative), log-sum-exp, entropy and the
// sum of logits.
type Stats struct{ LogP, LSE, Entropy, ZSum []float64 }

// Forward returns the statistics of each row.
func (o Vocab) Forward(x, w, bias []float64, targets []int32) Stats {
	z := Linear(x, w, bias, o.M, o.V, o.K)
	s := Stats{make([]float64, o.M), make([]float64, o.M), make([]float64, o.M), make([]float64, o.M)}
	for i := range o.M {
		row := z[i*o.V : (i+1)*o.V]
		for j := range row {
			if o.Scale != 0 {
				row[j] *= o.Scale
			}
			if o.Softcap != 0 {
				row[j] = o.Softcap * math.Tanh(row[j]/o.Softcap)
			}
			s.ZSum[i] += row[j]
		}
		p, lse := softmax(row)
		s.LSE[i] = lse
		for j := range row {
			s.Entropy[i] -= p[j] * (row[j] - lse)
		}
		if targets[i] >= 0 {
			s.LogP[i] = row[targets[i]] - lse
		}
	}
	return s
}

// Loss is sum_i weights[i] * ((1-smoothing) * -logp_i + smoothing * mean_v(-log p_v) + zloss * lse_i^2) over rows with a target.
func (o Vocab) Loss(x, w, bias []float64, targets []int32, weights []float64, smoothing, zloss float64) float64 {
	s := o.Forward(x, w, bias, targets)
	sum := 0.0
	for i := range o.M {
		if targets[i] < 0 {
			continue
		}
		sum += weights[i] * ((1-smoothing)*-s.LogP[i] + smoothing*(s.LSE[i]-s.ZSum[i]/float64(o.V)) + zloss*s.LSE[i]*s.LSE[i])
	}
	return sum
}
