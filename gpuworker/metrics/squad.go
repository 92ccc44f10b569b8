package metrics

import (
	"strings"
	"unicode"

	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

const asciiPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// SQuADNormalize is normalize_answer of the SQuAD v1.1 evaluation (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no articles,
// white space folded.
func SQuADNormalize(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && strings.ContainsRune(asciiPunctuation, r) {
			return -1
		}
		return r
	}, pytext.Lower(s))
	return squeeze(dropArticles(s))
}

// dropArticles replaces the words a, an, the by a space; a word's edge is Python's \b.
func dropArticles(s string) string {
	r := []rune(s)
	word := func(i int) bool {
		return i >= 0 && i < len(r) && (r[i] == '_' || unicode.IsLetter(r[i]) || unicode.IsNumber(r[i]))
	}
	var b strings.Builder
	for i := 0; i < len(r); {
		n := 0
		if !word(i - 1) {
			for _, a := range []string{"a", "an", "the"} {
				if strings.HasPrefix(string(r[i:min(len(r), i+3)]), a) && !word(i+len(a)) {
					n = len(a)
				}
			}
		}
		if n > 0 {
			b.WriteByte(' ')
			i += n
			continue
		}
		b.WriteRune(r[i])
		i++
	}
	return b.String()
}

// SQuAD compares a prediction with several right answers: exact match after normalization, and the best F1 over words (0 when none is
// shared, or a side is empty), 0 to 1.
func SQuAD(prediction string, answers []string) (exact bool, f1 float64) {
	p := SQuADNormalize(prediction)
	for _, a := range answers {
		n := SQuADNormalize(a)
		exact = exact || p == n
		f1 = max(f1, wordF1(strings.Fields(p), strings.Fields(n)))
	}
	return exact, f1
}

func wordF1(p, r []string) float64 {
	same, _ := clipped(ngrams(p, 1), ngrams(r, 1))
	if same == 0 {
		return 0
	}
	precision, recall := float64(same)/float64(len(p)), float64(same)/float64(len(r))
	return 2 * precision * recall / (precision + recall)
}
