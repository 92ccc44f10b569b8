// Package metrics scores predictions: BLEU, ROUGE, chrF, TER, exact match, SQuAD's F1, classification reports, and a bag-of-words baseline.
// Each function names the library and version whose numbers it reproduces, to the last digit where that library's order of operations
// allows; the tests hold it to that library's results.
package metrics

import (
	"math"
)

// BLEU4 is the sentence BLEU of up to 4-grams over the characters of two texts, from 0 to 1, with the geometric smoothing of nltk's
// SmoothingFunction.method3: what LLaMA-Factory reports (times 100). Papineni et al. 2002; Chen and Cherry 2014.
func BLEU4(prediction, reference string) float64 {
	return bleu([]rune(prediction), []rune(reference), 4)
}

func bleu(hyp, ref []rune, order int) float64 {
	if len(hyp) == 0 {
		return 0
	}
	var logs []float64
	zeros := 1
	for n := 1; n <= order; n++ {
		hit, total := clipped(ngrams(hyp, n), ngrams(ref, n))
		if n == 1 && hit == 0 {
			return 0
		}
		p := float64(hit) / float64(max(1, total))
		if hit == 0 {
			p = 1 / (math.Pow(2, float64(zeros)) * float64(max(1, total)))
			zeros++
		}
		logs = append(logs, exactLog(p)/float64(order))
	}
	brevity := 1.0
	if len(hyp) <= len(ref) {
		brevity = exactExp(1 - float64(len(ref))/float64(len(hyp)))
	}
	return brevity * exactExp(exactSum(logs))
}

// exactSum is Python's math.fsum: the float64 nearest to the exact sum (Shewchuk 1997).
func exactSum(v []float64) float64 {
	sum := newBig(0).SetPrec(2200)
	for _, x := range v {
		sum.Add(sum, newBig(x))
	}
	f, _ := sum.Float64()
	return f
}

// ngrams counts the n-grams of a sequence, n at most 4.
func ngrams[T comparable](s []T, n int) map[[4]T]int {
	out := map[[4]T]int{}
	for i := 0; i+n <= len(s); i++ {
		var g [4]T
		copy(g[:], s[i:i+n])
		out[g]++
	}
	return out
}

// clipped counts the n-grams of hyp that ref has too, each at most as often, and all of hyp.
func clipped[K comparable](hyp, ref map[K]int) (hit, total int) {
	for g, n := range hyp {
		hit += min(n, ref[g])
		total += n
	}
	return hit, total
}
