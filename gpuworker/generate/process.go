package generate

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// Sampling says how the next token is drawn from logits, with the meaning and in the order of transformers' logits processors: repetition
// penalty, temperature, top-k, top-p, min-p.
type Sampling struct {
	// Temperature 0 is greedy: the most likely token, the lowest id among equals.
	Temperature float64
	// TopK, when positive, keeps the k likeliest tokens (and what equals the k-th), TopP below 1 the smallest set with that probability,
	// MinP those at least that share as likely as the likeliest.
	TopK       int
	TopP, MinP float64
	// RepetitionPenalty divides positive logits of tokens that occurred and multiplies negative ones; 0 means 1.
	RepetitionPenalty float64
}

// validate reports all problems at once.
func (s Sampling) validate() []error {
	var errs []error
	check := func(ok bool, key string, v any, want string) {
		if !ok {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "generate."+key, "%v is not %s", v, want))
		}
	}
	check(s.Temperature >= 0 && !math.IsInf(s.Temperature, 0), "temperature", s.Temperature, "0 or more")
	check(s.TopK >= 0, "top_k", s.TopK, "0 or more")
	check(s.TopP >= 0 && s.TopP <= 1, "top_p", s.TopP, "in [0, 1]")
	check(s.MinP >= 0 && s.MinP <= 1, "min_p", s.MinP, "in [0, 1]")
	check(s.RepetitionPenalty >= 0 && !math.IsInf(s.RepetitionPenalty, 0), "repetition_penalty", s.RepetitionPenalty, "0 or more")
	return errs
}

// Validate reports all problems at once.
func (s Sampling) Validate() error { return errors.Join(s.validate()...) }

// removed marks what is not sampled.
var removed = math.Inf(-1)

// Process changes the logits of one position in place, given the ids so far: what transformers' processors leave, -Inf where they filter.
func (s Sampling) Process(z []float64, ids []int32) {
	if p := s.RepetitionPenalty; p > 0 && p != 1 {
		seen := map[int32]bool{}
		for _, id := range ids {
			if seen[id] || int(id) >= len(z) {
				continue
			}
			seen[id] = true
			if z[id] < 0 {
				z[id] *= p
			} else {
				z[id] /= p
			}
		}
	}
	if s.Temperature > 0 {
		for i := range z {
			z[i] /= s.Temperature
		}
	}
	if s.TopK > 0 && s.TopK < len(z) {
		least := kthLargest(z, s.TopK)
		for i := range z {
			if z[i] < least {
				z[i] = removed
			}
		}
	}
	if s.TopP > 0 && s.TopP < 1 {
		topP(z, s.TopP)
	}
	if s.MinP > 0 {
		p := Softmax(z)
		least := s.MinP * slices.Max(p)
		for i := range z {
			if p[i] < least {
				z[i] = removed
			}
		}
	}
}

// kthLargest is the k-th largest number of z, k at most its length.
func kthLargest(z []float64, k int) float64 {
	if k > 256 {
		sorted := slices.Clone(z)
		slices.Sort(sorted)
		return sorted[len(sorted)-k]
	}
	top := make([]float64, 0, k+1) // the largest so far, ascending
	for _, x := range z {
		if len(top) == k && x <= top[0] {
			continue
		}
		at, _ := slices.BinarySearch(top, x)
		if top = slices.Insert(top, at, x); len(top) > k {
			top = append(top[:0], top[1:]...)
		}
	}
	return top[0]
}

// Choose processes the logits of one position, given the ids so far, and picks a token: without a temperature the likeliest one, the lowest id
// among equals, else what u in [0, 1) draws.
func (s Sampling) Choose(z []float64, ids []int32, u float64) int32 {
	s.Process(z, ids)
	if s.Temperature > 0 {
		return draw(Softmax(z), u)
	}
	best := 0
	for i := range z {
		if z[i] > z[best] {
			best = i
		}
	}
	return int32(best)
}

// Uniform is the number in [0, 1) that a row draws its token of a step by.
func Uniform(seed, row uint64, step int) float64 {
	rng := rand.New(rand.NewPCG(seed^row*0x9e3779b97f4a7c15, uint64(step)))
	rng.Uint64() // the first output of nearby seeds is correlated
	return rng.Float64()
}

// topP removes the least likely tokens whose probabilities together do not exceed 1-p; the likeliest stays.
func topP(z []float64, p float64) {
	order := make([]int, 0, len(z))
	for i := range z {
		if z[i] != removed { // others have no probability: nothing is added by removing them again
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(z[a], z[b]) })
	probs := Softmax(z)
	var sum float64
	for _, i := range order[:len(order)-1] {
		if sum += probs[i]; sum > 1-p {
			return
		}
		z[i] = removed
	}
}

// Softmax gives the probabilities of logits, of which -Inf has none.
func Softmax(z []float64) []float64 {
	out := make([]float64, len(z))
	top := slices.Max(z)
	var sum float64
	for i, x := range z {
		out[i] = math.Exp(x - top)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// draw picks an index with the given probabilities for u in [0, 1).
func draw(p []float64, u float64) int32 {
	last := 0
	for i, x := range p {
		if x == 0 {
			continue
		}
		last = i
		if u -= x; u < 0 {
			return int32(i)
		}
	}
	return int32(last)
}
