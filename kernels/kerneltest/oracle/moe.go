package oracle

import (
	"math"
	"slices"
)

// GLUClamped is the gated unit of gpt-oss on rows of 2f: (clamp(up)+1) * g * sigmoid(alpha*g) with g = min(gate, limit).
func GLUClamped(x []float64, f int, alpha, limit float64, interleaved bool) []float64 {
	y := make([]float64, len(x)/2)
	for i := range y {
		gate, up := gluAt(i, f, interleaved)
		g := min(x[gate], limit)
		y[i] = (min(max(x[up], -limit), limit) + 1) * g * sigmoid(alpha*g)
	}
	return y
}

// GLUClampedBackward returns dx.
func GLUClampedBackward(x, dy []float64, f int, alpha, limit float64, interleaved bool) []float64 {
	dx := make([]float64, len(x))
	for i := range dy {
		gate, up := gluAt(i, f, interleaved)
		g, u := min(x[gate], limit), min(max(x[up], -limit), limit)
		s := sigmoid(alpha * g)
		if x[gate] <= limit {
			dx[gate] = dy[i] * (u + 1) * (s + alpha*g*s*(1-s))
		}
		if x[up] >= -limit && x[up] <= limit {
			dx[up] = dy[i] * g * s
		}
	}
	return dx
}

// gluAt is where gate and up of element i lie.
func gluAt(i, f int, interleaved bool) (gate, up int) {
	row, col := i/f*2*f, i%f
	if interleaved {
		return row + 2*col, row + 2*col + 1
	}
	return row + col, row + f + col
}

// The scores of a Router.
const (
	RouteSoftmax     = "softmax"
	RouteSigmoid     = "sigmoid"
	RouteSoftmaxTopK = "softmax_topk"
)

// Router chooses K of E experts for each row of logits, as tf_moe_route_fwd of tunefleet.h says.
type Router struct {
	E, K                         int
	Score                        string
	Bias                         []float64
	Groups, TopKGroups, GroupTop int
	Normalize                    bool
	NormEps, NormMin, Scale      float64
}

// Routes are the outcome for each row.
type Routes struct {
	Scores, Weights []float64
	IDs             []int32
}

// Route computes scores, choices and weights.
func (o Router) Route(logits []float64) Routes {
	var out Routes
	for at := 0; at < len(logits); at += o.E {
		x := logits[at : at+o.E]
		scores := o.scores(x)
		from := scores
		if o.Score == RouteSoftmaxTopK {
			from = x
		}
		choice := slices.Clone(from)
		for i := range o.Bias {
			choice[i] += o.Bias[i]
		}
		if o.Groups > 1 {
			o.limit(choice)
		}
		ids := greatest(choice, o.K)
		if o.Score == RouteSoftmaxTopK {
			clear(scores)
			var sum float64
			for _, id := range ids {
				sum += math.Exp(x[id] - x[ids[0]])
			}
			for _, id := range ids {
				scores[id] = math.Exp(x[id]-x[ids[0]]) / sum
			}
		}
		out.Scores = append(out.Scores, scores...)
		out.IDs = append(out.IDs, ids...)
		out.Weights = append(out.Weights, o.weights(scores, ids)...)
	}
	return out
}

// Weights are the weights that fixed choices get: what is differentiated.
func (o Router) Weights(logits []float64, ids []int32) []float64 {
	var out []float64
	for r := range len(logits) / o.E {
		x, chosen := logits[r*o.E:(r+1)*o.E], ids[r*o.K:(r+1)*o.K]
		scores := o.scores(x)
		if o.Score == RouteSoftmaxTopK {
			var sum float64
			for _, id := range chosen {
				sum += math.Exp(x[id])
			}
			for _, id := range chosen {
				scores[id] = math.Exp(x[id]) / sum
			}
		}
		out = append(out, o.weights(scores, chosen)...)
	}
	return out
}

func (o Router) scores(x []float64) []float64 {
	if o.Score == RouteSigmoid {
		s := make([]float64, len(x))
		for i, v := range x {
			s[i] = sigmoid(v)
		}
		return s
	}
	s, _ := softmax(x)
	return s
}

func (o Router) weights(scores []float64, ids []int32) []float64 {
	w, den := make([]float64, len(ids)), 0.0
	for i, id := range ids {
		w[i] = scores[id]
		den += w[i]
	}
	den = max(den+o.NormEps, o.NormMin)
	for i := range w {
		if o.Normalize {
			w[i] /= den
		}
		w[i] *= o.Scale
	}
	return w
}

// limit clears the choices outside the best groups (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437).
func (o Router) limit(choice []float64) {
	per := len(choice) / o.Groups
	sums := make([]float64, o.Groups)
	for g := range sums {
		group := choice[g*per : (g+1)*per]
		for _, id := range greatest(group, o.GroupTop) {
			sums[g] += group[id]
		}
	}
	best := greatest(sums, o.TopKGroups)
	for i := range choice {
		if !slices.Contains(best, int32(i/per)) {
			choice[i] = 0
		}
	}
}

// greatest are the indices of the k greatest, equal ones by lower index.
func greatest(x []float64, k int) []int32 {
	ids := make([]int32, len(x))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	return ids[:k]
}

// SortExperts orders slots by expert, stably, and returns the groups' bounds, the slot at each place and the place of each slot.
func SortExperts(ids []int32, experts int) (offsets, order, place []int32) {
	place = make([]int32, len(ids))
	for e := range experts {
		offsets = append(offsets, int32(len(order)))
		for i, id := range ids {
			if int(id) == e {
				place[i] = int32(len(order))
				order = append(order, int32(i))
			}
		}
	}
	return append(offsets, int32(len(order))), order, place
}

// Combine sums weights[t,j] * x[place[t,j]] for each of n tokens.
func Combine(x, weights []float64, place []int32, n, k, d int) []float64 {
	y := make([]float64, n*d)
	for s := range n * k {
		for i := range d {
			y[s/k*d+i] += weights[s] * x[int(place[s])*d+i]
		}
	}
	return y
}

// CombineBackward returns dx [m,d] and dweights.
func CombineBackward(x, weights, dy []float64, place []int32, n, k, d, m int) (dx, dw []float64) {
	dx, dw = make([]float64, m*d), make([]float64, n*k)
	for s := range n * k {
		for i := range d {
			g := dy[s/k*d+i]
			dx[int(place[s])*d+i] += weights[s] * g
			dw[s] += g * x[int(place[s])*d+i]
		}
	}
	return dx, dw
}

// MoEAux returns the load-balancing statistics of logits [n,e]; rows with mask 0 do not count.
func MoEAux(x []float64, mask []uint8, e, k int) (counts, probs []float64) {
	counts, probs = make([]float64, e), make([]float64, e)
	for r := range len(x) / e {
		if mask != nil && mask[r] == 0 {
			continue
		}
		p, _ := softmax(x[r*e : (r+1)*e])
		for _, id := range greatest(p, k) {
			counts[id]++
		}
		for i := range p {
			probs[i] += p[i]
		}
	}
	return counts, probs
}

// MoEAuxBackward is the gradient of scale * sum counts[i]*probs[i] with constant counts.
func MoEAuxBackward(x []float64, mask []uint8, counts []float64, scale float64) []float64 {
	e := len(counts)
	dx := make([]float64, len(x))
	for r := range len(x) / e {
		if mask != nil && mask[r] == 0 {
			continue
		}
		p, _ := softmax(x[r*e : (r+1)*e])
		dot := 0.0
		for i := range p {
			dot += p[i] * counts[i]
		}
		for i := range p {
			dx[r*e+i] = scale * p[i] * (counts[i] - dot)
		}
	}
	return dx
}
