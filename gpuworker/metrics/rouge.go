package metrics

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

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

// Rouge holds ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of one pair (Lin 2004).
type Rouge struct {
	R1   PRF `json:"rouge1"`
	R2   PRF `json:"rouge2"`
	RL   PRF `json:"rougeL"`
	LSum PRF `json:"rougeLsum"`
}

var notAlnum = regexp.MustCompile(`[^a-z0-9]+`)

// Words is the tokenization of the rouge-score package without stemming: lower-case runs of ASCII letters and digits.
func Words(s string) []string {
	return strings.Fields(notAlnum.ReplaceAllString(pytext.Lower(s), " "))
}

// stemmedWords is the same with the stemmer for words over 3 letters.
func stemmedWords(s string) []string {
	w := Words(s)
	for i := range w {
		if len(w[i]) > 3 {
			w[i] = PorterStem(w[i])
		}
	}
	return w
}

// RougeScore computes what rouge_score.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"]) of rouge-score 0.1.2 does.
func RougeScore(prediction, reference string) Rouge { return rougeScore(prediction, reference, Words) }

// RougeScoreStemmed is RougeScore with use_stemmer=True.
func RougeScoreStemmed(prediction, reference string) Rouge {
	return rougeScore(prediction, reference, stemmedWords)
}

func rougeScore(prediction, reference string, words func(string) []string) Rouge {
	p, r := words(prediction), words(reference)
	rn := func(n int) PRF {
		gp, gr := ngrams(p, n), ngrams(r, n)
		hit, _ := clipped(gp, gr)
		return prf(hit, max(0, len(p)-n+1), max(0, len(r)-n+1))
	}
	out := Rouge{R1: rn(1), R2: rn(2)}
	if len(p) > 0 && len(r) > 0 {
		out.RL = prf(lcs(p, r), len(p), len(r))
	}
	sentences := func(text string) (out [][]string) {
		for _, s := range strings.Split(text, "\n") {
			if s != "" {
				out = append(out, words(s))
			}
		}
		return out
	}
	out.LSum = rougeLSum(sentences(prediction), sentences(reference))
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

// rougeLSum is the summary-level ROUGE-L: of every reference sentence the union of its longest common subsequences with all sentences of
// the prediction, each token counted as often as both texts have it.
func rougeLSum(prediction, reference [][]string) PRF {
	count := func(sentences [][]string) (map[string]int, int) {
		c, n := map[string]int{}, 0
		for _, s := range sentences {
			for _, w := range s {
				c[w]++
				n++
			}
		}
		return c, n
	}
	left, n := count(prediction)
	right, m := count(reference)
	if n == 0 || m == 0 {
		return PRF{}
	}
	hits := 0
	for _, r := range reference {
		union := make([]bool, len(r))
		for _, p := range prediction {
			markLCS(r, p, union)
		}
		for i, w := range r {
			if union[i] && left[w] > 0 && right[w] > 0 {
				hits++
				left[w]--
				right[w]--
			}
		}
	}
	return prf(hits, n, m)
}

// markLCS marks the tokens of ref on one longest common subsequence with can: the one that rouge-score's walk back through the table finds.
func markLCS(ref, can []string, marked []bool) {
	t := make([][]int, len(ref)+1)
	for i := range t {
		t[i] = make([]int, len(can)+1)
	}
	for i := range ref {
		for j := range can {
			if ref[i] == can[j] {
				t[i+1][j+1] = t[i][j] + 1
			} else {
				t[i+1][j+1] = max(t[i][j+1], t[i+1][j])
			}
		}
	}
	for i, j := len(ref), len(can); i > 0 && j > 0; {
		switch {
		case ref[i-1] == can[j-1]:
			marked[i-1] = true
			i--
			j--
		case t[i][j-1] > t[i-1][j]:
			j--
		default:
			i--
		}
	}
}

// ChineseRouge holds what rouge_chinese 1.0.3 gives for one pair.
type ChineseRouge struct {
	R1 PRF `json:"rouge-1"`
	R2 PRF `json:"rouge-2"`
	RL PRF `json:"rouge-l"`
}

// Where rouge_chinese ends a sentence: after the mark, unless a closing quote follows.
var sentenceEnds = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`([。！？\?])([^”’])`), "${1}\n${2}"},
	{regexp.MustCompile(`(\.{6})([^”’])`), "${1}\n${2}"},
	{regexp.MustCompile(`(…{2})([^”’])`), "${1}\n${2}"},
	{regexp.MustCompile(`([。！？\?][”’])([^，。！？\?])`), "${1}\n${2}"},
}

// rougeTokens are the words that rouge_chinese sees: the text cut into sentences, each of them into words by white space; a sentence of
// white space only is one empty word.
func rougeTokens(text string) []string {
	for _, e := range sentenceEnds {
		text = e.re.ReplaceAllString(text, e.to)
	}
	var out []string
	for _, s := range strings.Split(trimRight(text), "\n") {
		if s == "" {
			continue
		}
		out = append(out, strings.Split(squeeze(s), " ")...)
	}
	return out
}

// RougeChinese computes rouge_chinese's Rouge().get_scores on texts whose words are separated by spaces: n-grams as sets, the longest
// common subsequence over all words. ok is false when a text has no word, where the package raises an error.
func RougeChinese(prediction, reference string) (r ChineseRouge, ok bool) {
	p, q := rougeTokens(prediction), rougeTokens(reference)
	if len(p) == 0 || len(q) == 0 {
		return r, false
	}
	n := func(n int) PRF {
		a, b := ngrams(p, n), ngrams(q, n)
		hit := 0
		for g := range a {
			if b[g] > 0 {
				hit++
			}
		}
		return chinesePRF(hit, len(a), len(b))
	}
	return ChineseRouge{R1: n(1), R2: n(2), RL: chinesePRF(lcs(q, p), len(p), len(q))}, true
}

func chinesePRF(hit, predicted, relevant int) PRF {
	var s PRF
	if predicted > 0 {
		s.P = float64(hit) / float64(predicted)
	}
	if relevant > 0 {
		s.R = float64(hit) / float64(relevant)
	}
	s.F = 2 * ((s.P * s.R) / (s.P + s.R + 1e-8))
	return s
}

// blank reports whether a list of words is nothing but white space.
func blank(words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return len(fields(w)) > 0 })
}
