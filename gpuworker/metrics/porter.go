package metrics

import "strings"

// porterIrregular are the words that nltk stems by table.
var porterIrregular = map[string]string{"sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
	"innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning", "howe": "howe",
	"proceed": "proceed", "exceed": "exceed", "succeed": "succeed"}

// PorterStem is nltk's PorterStemmer with its extensions (Porter 1980, "An algorithm for suffix stripping", and what nltk changed): the
// stem of a lower-case ASCII word.
func PorterStem(word string) string {
	if s, ok := porterIrregular[word]; ok {
		return s
	}
	if len(word) <= 2 {
		return word
	}
	w := stepPlural(word)
	w = stepPast(w)
	w = stepY(w)
	w = stepDouble(w)
	w = apply(w, porterStep3, measured(0))
	w = stepSuffix(w)
	w = stepFinalE(w)
	if strings.HasSuffix(w, "ll") && measure(w[:len(w)-1]) > 1 {
		w = w[:len(w)-1]
	}
	return w
}

// consonants flags each letter: y is one at the beginning and after a vowel.
func consonants(w string) []bool {
	out := make([]bool, len(w))
	for i := range len(w) {
		switch w[i] {
		case 'a', 'e', 'i', 'o', 'u':
		case 'y':
			out[i] = i == 0 || !out[i-1]
		default:
			out[i] = true
		}
	}
	return out
}

// measure is m of [C](VC){m}[V].
func measure(w string) int {
	c, n := consonants(w), 0
	for i := 1; i < len(c); i++ {
		if !c[i-1] && c[i] {
			n++
		}
	}
	return n
}

func hasVowel(w string) bool {
	for _, c := range consonants(w) {
		if !c {
			return true
		}
	}
	return false
}

// endsCVC is condition *o: consonant, vowel, consonant other than w, x, y; or a word of vowel and consonant only.
func endsCVC(w string) bool {
	c, n := consonants(w), len(w)
	if n == 2 {
		return !c[0] && c[1]
	}
	return n >= 3 && c[n-3] && !c[n-2] && c[n-1] && !strings.ContainsRune("wxy", rune(w[n-1]))
}

// endsDouble is condition *d: a double consonant at the end.
func endsDouble(w string) bool {
	n := len(w)
	return n >= 2 && w[n-1] == w[n-2] && consonants(w)[n-1]
}

// measured is the condition that a stem's measure is over m.
func measured(m int) func(string) bool { return func(stem string) bool { return measure(stem) > m } }

// apply replaces the first suffix of the list that the word has, if the condition holds for what is before it.
func apply(w string, rules [][2]string, cond func(string) bool) string {
	for _, r := range rules {
		if stem, ok := strings.CutSuffix(w, r[0]); ok {
			if cond(stem) {
				return stem + r[1]
			}
			return w
		}
	}
	return w
}

func stepPlural(w string) string {
	if strings.HasSuffix(w, "ies") && len(w) == 4 {
		return w[:len(w)-1]
	}
	return apply(w, [][2]string{{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}}, func(string) bool { return true })
}

func stepPast(w string) string {
	if stem, ok := strings.CutSuffix(w, "ied"); ok {
		if len(w) == 4 {
			return stem + "ie"
		}
		return stem + "i"
	}
	if stem, ok := strings.CutSuffix(w, "eed"); ok {
		if measure(stem) > 0 {
			return stem + "ee"
		}
		return w
	}
	stem, ok := strings.CutSuffix(w, "ed")
	if !ok || !hasVowel(stem) {
		if stem, ok = strings.CutSuffix(w, "ing"); !ok || !hasVowel(stem) {
			return w
		}
	}
	for _, s := range []string{"at", "bl", "iz"} {
		if strings.HasSuffix(stem, s) {
			return stem + "e"
		}
	}
	last := stem[len(stem)-1]
	if endsDouble(stem) {
		if last != 'l' && last != 's' && last != 'z' {
			return stem[:len(stem)-1]
		}
		return stem
	}
	if measure(stem) == 1 && endsCVC(stem) {
		return stem + "e"
	}
	return stem
}

func stepY(w string) string {
	if stem, ok := strings.CutSuffix(w, "y"); ok && len(stem) > 1 && consonants(stem)[len(stem)-1] {
		return stem + "i"
	}
	return w
}

var porterStep2 = [][2]string{{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"}, {"bli", "ble"},
	{"alli", "al"}, {"entli", "ent"}, {"eli", "e"}, {"ousli", "ous"}, {"ization", "ize"}, {"ation", "ate"}, {"ator", "ate"}, {"alism", "al"},
	{"iveness", "ive"}, {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"}, {"iviti", "ive"}, {"biliti", "ble"}, {"fulli", "ful"}}

var porterStep3 = [][2]string{{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""}, {"ness", ""}}

func stepDouble(w string) string {
	if stem, ok := strings.CutSuffix(w, "alli"); ok && measure(stem) > 0 {
		return stepDouble(stem + "al")
	}
	for _, r := range porterStep2 {
		if strings.HasSuffix(w, r[0]) {
			return apply(w, [][2]string{r}, measured(0))
		}
	}
	if stem, ok := strings.CutSuffix(w, "logi"); ok && measure(w[:len(w)-3]) > 0 {
		return stem + "log"
	}
	return w
}

var porterStep4 = []string{"al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous",
	"ive", "ize"}

func stepSuffix(w string) string {
	for _, s := range porterStep4 {
		stem, ok := strings.CutSuffix(w, s)
		if !ok {
			continue
		}
		if measure(stem) > 1 && (s != "ion" || strings.HasSuffix(stem, "s") || strings.HasSuffix(stem, "t")) {
			return stem
		}
		return w
	}
	return w
}

func stepFinalE(w string) string {
	stem, ok := strings.CutSuffix(w, "e")
	if m := measure(stem); ok && (m > 1 || m == 1 && !endsCVC(stem)) {
		return stem
	}
	return w
}
