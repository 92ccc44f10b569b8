package oracle

import "math"

// IgnoreIndex marks tokens without a label.
const IgnoreIndex = -100

// LinearXent computes the cross entropy of logits = x[m,k] w[v,k]^T + bias against targets: loss per token (0 where ignored), and the
// gradients of sum(weight[i] * loss[i]) with respect to x, w and bias.
func LinearXent(x, w, bias []float64, targets []int32, weight []float64, m, v, k int) (loss, dx, dw, db []float64) {
	logits := Linear(x, w, bias, m, v, k)
	dl := make([]float64, m*v)
	loss = make([]float64, m)
	for i := range m {
		if targets[i] == IgnoreIndex {
			continue
		}
		p, lse := softmax(logits[i*v : (i+1)*v])
		loss[i] = lse - logits[i*v+int(targets[i])]
		for j := range v {
			dl[i*v+j] = weight[i] * p[j]
		}
		dl[i*v+int(targets[i])] -= weight[i]
	}
	dx, dw, db = LinearBackward(x, w, dl, m, v, k)
	return loss, dx, dw, db
}

func softmax(x []float64) (p []float64, lse float64) {
	top := math.Inf(-1)
	for _, v := range x {
		top = max(top, v)
	}
	p = make([]float64, len(x))
	sum := 0.0
	for j, v := range x {
		p[j] = math.Exp(v - top)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p, top + math.Log(sum)
}
