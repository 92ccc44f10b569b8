// Package metrics scores predictions: BLEU, ROUGE, classification reports, and a bag-of-words baseline. Each function names the library whose
// numbers it reproduces; the tests hold it to that library's results.
package metrics

import (
	"math"
	"regexp"
	"strings"
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
	logs, zeros := 0.0, 1
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
		logs += math.Log(p) / float64(order)
	}
	brevity := 1.0
	if len(hyp) <= len(ref) {
		brevity = math.Exp(1 - float64(len(ref))/float64(len(hyp)))
	}
	return brevity * math.Exp(logs)
}

// ngrams counts the n-grams of a sequence.
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

// PRF is precision, recall and their harmonic mean.
type PRF struct {
	P float64 `json:"p"`
	R float64 `json:"r"`
	F float64 `json:"f"`
}

func prf(hit, predicted, relevant int) PRF {
	var s PRF
	s.P = float64(hit) / float64(max(1, predicted))
	s.R = float64(hit) / float64(max(1, relevant))
	if s.P+s.R > 0 {
		s.F = 2 * s.P * s.R / (s.P + s.R)
	}
	return s
}

// Rouge holds ROUGE-1, ROUGE-2 and ROUGE-L of one pair (Lin 2004).
type Rouge struct {
	R1 PRF `json:"rouge1"`
	R2 PRF `json:"rouge2"`
	RL PRF `json:"rougeL"`
}

var notAlnum = regexp.MustCompile(`[^a-z0-9]+`)

// Words is the tokenization of the rouge-score package without stemming: lower-case runs of ASCII letters and digits.
func Words(s string) []string {
	return strings.Fields(notAlnum.ReplaceAllString(strings.ToLower(s), " "))
}

// RougeScore computes what rouge_score.RougeScorer(["rouge1", "rouge2", "rougeL"]) does.
func RougeScore(prediction, reference string) Rouge {
	p, r := Words(prediction), Words(reference)
	rn := func(n int) PRF {
		gp, gr := ngrams(p, n), ngrams(r, n)
		hit, _ := clipped(gp, gr)
		return prf(hit, max(0, len(p)-n+1), max(0, len(r)-n+1))
	}
	out := Rouge{R1: rn(1), R2: rn(2)}
	if len(p) > 0 && len(r) > 0 {
		out.RL = prf(lcs(p, r), len(p), len(r))
	}
	return out
}

// lcs is the length of the longest common subsequence.
func lcs(a, b []string) int {
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for _, x := range a {
		for j, y := range b {
			if x == y {
				cur[j+1] = prev[j] + 1
			} else {
				cur[j+1] = max(cur[j], prev[j+1])
			}
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
