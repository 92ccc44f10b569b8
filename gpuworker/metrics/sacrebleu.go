package metrics

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/tunefleet/tunefleet/schemas"

	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

// SacreVersion is the version of sacrebleu whose results the functions here reproduce; it stands in signatures.
const SacreVersion = "2.6.0"

// BLEUOptions are those of sacrebleu.BLEU. The zero value is not usable: take DefaultBLEU.
type BLEUOptions struct {
	// Tokenize is 13a, zh, char, intl or none.
	Tokenize  string
	Lowercase bool
	// Smooth is exp, floor, add-k or none (Chen and Cherry 2014); Value is the parameter of floor (0.1) and add-k (1).
	Smooth   string
	Value    float64
	MaxOrder int
	// EffectiveOrder stops at the highest order that a text is long enough for; sentence scores want it.
	EffectiveOrder bool
}

// DefaultBLEU are sacrebleu's defaults.
func DefaultBLEU() BLEUOptions {
	return BLEUOptions{Tokenize: "13a", Smooth: "exp", MaxOrder: 4}
}

// WithDefaults fills what is empty.
func (o BLEUOptions) WithDefaults() BLEUOptions {
	d := DefaultBLEU()
	if o.Tokenize == "" {
		o.Tokenize = d.Tokenize
	}
	if o.Smooth == "" {
		o.Smooth = d.Smooth
	}
	if o.MaxOrder == 0 {
		o.MaxOrder = d.MaxOrder
	}
	if o.Value == 0 {
		o.Value = map[string]float64{"floor": 0.1, "add-k": 1}[o.Smooth]
	}
	return o
}

// Validate reports what the options ask for that there is not. Errors are CodeInvalid.
func (o BLEUOptions) Validate() error {
	if tokenizerOf(o.Tokenize) == nil {
		return schemas.Errorf(schemas.CodeInvalid, "tokenize", "%q is unknown (13a, zh, char, intl, none)", o.Tokenize)
	}
	if !slices.Contains([]string{"exp", "floor", "add-k", "none"}, o.Smooth) {
		return schemas.Errorf(schemas.CodeInvalid, "smooth_method", "%q is unknown (exp, floor, add-k, none)", o.Smooth)
	}
	if o.MaxOrder < 1 || o.MaxOrder > 16 {
		return schemas.Errorf(schemas.CodeInvalid, "max_ngram_order", "is %d, must be 1 to 16", o.MaxOrder)
	}
	return nil
}

// BLEUScore is sacrebleu's BLEUScore: Score and Precisions are 0 to 100. Counts and Totals are whole numbers unless add-k smoothing adds a
// fraction.
type BLEUScore struct {
	Score          float64
	Counts, Totals []float64
	Precisions     []float64
	BP             float64
	SysLen, RefLen int
}

// Signature is sacrebleu's signature for a number of references.
func (o BLEUOptions) Signature(refs int) string {
	smooth := o.Smooth
	if smooth == "floor" || smooth == "add-k" {
		smooth += fmt.Sprintf("[%.2f]", o.Value)
	}
	return fmt.Sprintf("nrefs:%d|case:%s|eff:%s|tok:%s|smooth:%s|version:%s", refs, pick(o.Lowercase, "lc", "mixed"), pick(o.EffectiveOrder, "yes", "no"),
		o.Tokenize, smooth, SacreVersion)
}

func pick(c bool, yes, no string) string {
	if c {
		return yes
	}
	return no
}

// CorpusBLEU scores hypotheses against references[i], the references of hypothesis i (Papineni et al. 2002; Post 2018). Every hypothesis
// needs at least one reference. Errors are CodeInvalid.
func CorpusBLEU(hypotheses []string, references [][]string, o BLEUOptions) (*BLEUScore, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := checkCorpus(hypotheses, references); err != nil {
		return nil, err
	}
	tokenize := tokenizerOf(o.Tokenize)
	prepare := func(s string) []string {
		if o.Lowercase {
			s = pytext.Lower(s)
		}
		return fields(tokenize(trimRight(s)))
	}
	s := &BLEUScore{Counts: make([]float64, o.MaxOrder), Totals: make([]float64, o.MaxOrder)}
	for i, h := range hypotheses {
		hyp := prepare(h)
		merged := map[string]int{}
		diff, length := -1, -1
		for _, r := range references[i] {
			ref := prepare(r)
			for g, n := range wordGrams(ref, 1, o.MaxOrder) {
				merged[g.text] = max(merged[g.text], n)
			}
			if d := abs(len(hyp) - len(ref)); diff < 0 || d < diff || d == diff && len(ref) < length {
				diff, length = d, len(ref)
			}
		}
		for g, n := range wordGrams(hyp, 1, o.MaxOrder) {
			s.Totals[g.order-1] += float64(n)
			s.Counts[g.order-1] += float64(min(n, merged[g.text]))
		}
		s.SysLen += len(hyp)
		s.RefLen += length
	}
	s.finish(o)
	return s, nil
}

func checkCorpus(hypotheses []string, references [][]string) error {
	if len(hypotheses) == 0 || len(hypotheses) != len(references) {
		return schemas.Errorf(schemas.CodeInvalid, "references", "there are %d hypotheses and %d lists of references", len(hypotheses), len(references))
	}
	for i, r := range references {
		if len(r) == 0 {
			return schemas.Errorf(schemas.CodeInvalid, fmt.Sprintf("references[%d]", i), "is empty")
		}
	}
	return nil
}

func abs(x int) int { return max(x, -x) }

// finish computes the score from the counts, in sacrebleu's order of operations.
func (s *BLEUScore) finish(o BLEUOptions) {
	s.BP = 1
	if s.SysLen < s.RefLen {
		s.BP = 0
		if s.SysLen > 0 {
			s.BP = exactExp(1 - float64(s.RefLen)/float64(s.SysLen))
		}
	}
	s.Precisions = make([]float64, o.MaxOrder)
	if !slices.ContainsFunc(s.Counts, func(c float64) bool { return c != 0 }) {
		return
	}
	mteval, order := 1.0, o.MaxOrder
	for n := range s.Precisions {
		if o.Smooth == "add-k" && n > 0 {
			s.Counts[n] += o.Value
			s.Totals[n] += o.Value
		}
		if s.Totals[n] == 0 {
			break
		}
		if o.EffectiveOrder {
			order = n + 1
		}
		switch {
		case s.Counts[n] != 0:
			s.Precisions[n] = 100 * s.Counts[n] / s.Totals[n]
		case o.Smooth == "exp":
			mteval *= 2
			s.Precisions[n] = 100 / (mteval * s.Totals[n])
		case o.Smooth == "floor":
			s.Precisions[n] = 100 * o.Value / s.Totals[n]
		}
	}
	sum := 0.0
	for _, p := range s.Precisions[:order] {
		if p == 0 {
			sum += -9999999999
		} else {
			sum += exactLog(p)
		}
	}
	s.Score = s.BP * exactExp(sum/float64(order))
}

// gram is one n-gram: its words joined by a space, which no word holds.
type gram struct {
	order int
	text  string
}

func wordGrams(words []string, from, to int) map[gram]int {
	out := map[gram]int{}
	for n := from; n <= to; n++ {
		for i := 0; i+n <= len(words); i++ {
			out[gram{n, strings.Join(words[i:i+n], " ")}]++
		}
	}
	return out
}

// tokenizerOf returns sacrebleu's tokenizer of a name, nil when there is none.
func tokenizerOf(name string) func(string) string {
	switch name {
	case "13a":
		return tokenize13a
	case "zh":
		return tokenizeZh
	case "intl":
		return tokenizeIntl
	case "char":
		return func(s string) string { return strings.Join(strings.Split(s, ""), " ") }
	case "none":
		return func(s string) string { return s }
	}
	return nil
}

type rule struct {
	re *regexp.Regexp
	to string
}

func applyRules(s string, rules []rule) string {
	for _, r := range rules {
		s = r.re.ReplaceAllString(s, r.to)
	}
	return s
}

// westernRules separate punctuation as mteval-v13a does: marks always, full stop and comma unless between digits, a dash after a digit.
var westernRules = []rule{
	{regexp.MustCompile("([\\{-~\\[-` -&\\(-\\+:-@/])"), " ${1} "},
	{regexp.MustCompile(`([^0-9])([\.,])`), "${1} ${2} "},
	{regexp.MustCompile(`([\.,])([^0-9])`), " ${1} ${2}"},
	{regexp.MustCompile(`([0-9])(-)`), "${1} ${2} "},
}

func tokenize13a(s string) string {
	s = strings.ReplaceAll(s, "<skipped>", "")
	s = strings.ReplaceAll(s, "-\n", "")
	s = strings.ReplaceAll(s, "\n", " ")
	for _, e := range [][2]string{{"&quot;", `"`}, {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return squeeze(applyRules(" "+s+" ", westernRules))
}

// chineseRanges are those of sacrebleu's zh tokenizer, its two slips included: it writes U+20000 and U+2F800 in a way that Python reads as
// two characters, which in the comparison of strings become U+2001..U+2A6D and U+2F81..U+2FA1.
var chineseRanges = [][2]rune{{0x3400, 0x4db5}, {0x4e00, 0x9fa5}, {0x9fa6, 0x9fbb}, {0xf900, 0xfa2d}, {0xfa30, 0xfa6a}, {0xfa70, 0xfad9},
	{0x2001, 0x2a6d}, {0x2f81, 0x2fa1}, {0xff00, 0xffef}, {0x2e80, 0x2eff}, {0x3000, 0x303f}, {0x31c0, 0x31ef}, {0x2f00, 0x2fdf}, {0x2ff0, 0x2fff},
	{0x3100, 0x312f}, {0x31a0, 0x31bf}, {0xfe10, 0xfe1f}, {0xfe30, 0xfe4f}, {0x2600, 0x26ff}, {0x2700, 0x27bf}, {0x3200, 0x32ff}, {0x3300, 0x33ff}}

func tokenizeZh(s string) string {
	s = strings.TrimFunc(s, isSpace)
	var b strings.Builder
	for _, r := range s {
		if slices.ContainsFunc(chineseRanges, func(x [2]rune) bool { return r >= x[0] && r <= x[1] }) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		} else {
			b.WriteRune(r)
		}
	}
	return squeeze(applyRules(b.String(), westernRules))
}

var intlRules = []rule{
	{regexp.MustCompile(`([^\pN` + newN + `])([\pP` + newP + `])`), "${1} ${2} "},
	{regexp.MustCompile(`([\pP` + newP + `])([^\pN` + newN + `])`), " ${1} ${2}"},
	{regexp.MustCompile(`([\pS` + newS + `])`), " ${1} "},
}

func tokenizeIntl(s string) string { return squeeze(applyRules(s, intlRules)) }

// ChrFOptions are those of sacrebleu.CHRF. The zero value is not usable: take DefaultChrF.
type ChrFOptions struct {
	// CharOrder and WordOrder are the longest n-grams; word order 2 is chrF++.
	CharOrder, WordOrder int
	// Beta weighs recall.
	Beta       float64
	Lowercase  bool
	Whitespace bool
	// EpsSmoothing is chrF++.py's smoothing instead of the effective order.
	EpsSmoothing bool
}

// DefaultChrF are sacrebleu's defaults.
func DefaultChrF() ChrFOptions { return ChrFOptions{CharOrder: 6, Beta: 2} }

// Signature is sacrebleu's signature for a number of references.
func (o ChrFOptions) Signature(refs int) string {
	return fmt.Sprintf("nrefs:%d|case:%s|eff:%s|nc:%d|nw:%d|space:%s|version:%s", refs, pick(o.Lowercase, "lc", "mixed"), pick(o.EpsSmoothing, "no", "yes"),
		o.CharOrder, o.WordOrder, pick(o.Whitespace, "yes", "no"), SacreVersion)
}

// CorpusChrF is sacrebleu's corpus chrF, 0 to 100 (Popović 2015, 2017): of several references the one with the best F score counts. Errors
// are CodeInvalid.
func CorpusChrF(hypotheses []string, references [][]string, o ChrFOptions) (float64, error) {
	if err := checkCorpus(hypotheses, references); err != nil {
		return 0, err
	}
	if o.CharOrder < 1 || o.WordOrder < 0 || o.CharOrder > 32 || o.WordOrder > 32 {
		return 0, schemas.Errorf(schemas.CodeInvalid, "char_order", "orders %d and %d must be 1 to 32 and 0 to 32", o.CharOrder, o.WordOrder)
	}
	total := make([][3]int, o.CharOrder+o.WordOrder)
	for i, h := range hypotheses {
		hyp := o.grams(h)
		best, top := total[:0:0], -1.0
		for _, r := range references[i] {
			stats := make([][3]int, len(total))
			for k, ref := range o.grams(r) {
				stats[k] = matches(hyp[k], ref)
			}
			if f := o.fScore(stats); f > top {
				best, top = stats, f
			}
		}
		for k := range best {
			for m := range best[k] {
				total[k][m] += best[k][m]
			}
		}
	}
	return o.fScore(total), nil
}

// matches counts the n-grams of the hypothesis (none when the reference has none), of the reference, and of both.
func matches(hyp, ref map[string]int) (out [3]int) {
	for g, n := range hyp {
		out[0] += n
		out[2] += min(n, ref[g])
	}
	for _, n := range ref {
		out[1] += n
	}
	if len(ref) == 0 {
		out[0] = 0
	}
	return out
}

// grams counts n-grams by order: of characters, then of words.
func (o ChrFOptions) grams(s string) []map[string]int {
	if o.Lowercase {
		s = pytext.Lower(s)
	}
	chars := []rune(s)
	if !o.Whitespace {
		chars = slices.DeleteFunc(slices.Clone(chars), isSpace)
	}
	var out []map[string]int
	for n := 1; n <= o.CharOrder; n++ {
		m := map[string]int{}
		for i := 0; i+n <= len(chars); i++ {
			m[string(chars[i:i+n])]++
		}
		out = append(out, m)
	}
	if o.WordOrder == 0 {
		return out
	}
	words := chrfWords(s)
	for n := 1; n <= o.WordOrder; n++ {
		m := map[string]int{}
		for i := 0; i+n <= len(words); i++ {
			m[strings.Join(words[i:i+n], " ")]++
		}
		out = append(out, m)
	}
	return out
}

// chrfWords splits by white space and takes one ASCII mark off the end or else the beginning of a word.
func chrfWords(s string) []string {
	mark := func(r rune) bool { return r < unicode.MaxASCII && strings.ContainsRune(asciiPunctuation, r) }
	var out []string
	for _, w := range fields(s) {
		r := []rune(w)
		n := len(r)
		switch {
		case n == 1:
			out = append(out, w)
		case mark(r[n-1]):
			out = append(out, string(r[:n-1]), string(r[n-1]))
		case mark(r[0]):
			out = append(out, string(r[0]), string(r[1:]))
		default:
			out = append(out, w)
		}
	}
	return out
}

// fScore computes the F score, 0 to 100, in sacrebleu's order of operations.
func (o ChrFOptions) fScore(stats [][3]int) float64 {
	const eps = 1e-16
	factor := o.Beta * o.Beta
	score, precision, recall, order := 0.0, 0.0, 0.0, 0
	for _, s := range stats {
		p, r := eps, eps
		if s[0] > 0 {
			p = float64(s[2]) / float64(s[0])
		}
		if s[1] > 0 {
			r = float64(s[2]) / float64(s[1])
		}
		if d := factor*p + r; d > 0 {
			score += (1 + factor) * p * r / d
		} else {
			score += eps
		}
		if s[0] > 0 && s[1] > 0 {
			precision += p
			recall += r
			order++
		}
	}
	if o.EpsSmoothing {
		return 100 * score / float64(len(stats))
	}
	if order == 0 {
		return 0
	}
	precision /= float64(order)
	recall /= float64(order)
	if precision+recall == 0 {
		return 0
	}
	f := (1 + factor) * precision * recall
	f /= factor*precision + recall
	return 100 * f
}
