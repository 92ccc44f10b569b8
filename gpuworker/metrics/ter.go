package metrics

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

// TEROptions are those of sacrebleu.TER; the zero value has its defaults.
type TEROptions struct {
	Normalized    bool
	NoPunct       bool
	AsianSupport  bool
	CaseSensitive bool
}

// Signature is sacrebleu's signature for a number of references.
func (o TEROptions) Signature(refs int) string {
	return fmt.Sprintf("nrefs:%d|case:%s|tok:tercom|norm:%s|punct:%s|asian:%s|version:%s", refs, pick(o.CaseSensitive, "mixed", "lc"),
		pick(o.Normalized, "yes", "no"), pick(o.NoPunct, "no", "yes"), pick(o.AsianSupport, "yes", "no"), SacreVersion)
}

// CorpusTER is sacrebleu's translation edit rate, 0 and up (100: as many edits as the references have words); of several references the
// fewest edits count, over their mean length (Snover et al. 2006; the search is Tercom's with sacrebleu's beam). Errors are CodeInvalid.
func CorpusTER(hypotheses []string, references [][]string, o TEROptions) (float64, error) {
	if err := checkCorpus(hypotheses, references); err != nil {
		return 0, err
	}
	edits, length := 0, 0.0
	for i, h := range hypotheses {
		hyp := o.words(h)
		best, sum := math.MaxInt, 0
		for _, r := range references[i] {
			// sacrebleu tokenizes references twice, which matters where its rules split what they have put apart once more.
			ref := o.words(strings.Join(o.words(r), " "))
			best = min(best, editRate(hyp, ref))
			sum += len(ref)
		}
		edits += best
		length += float64(sum) / float64(len(references[i]))
	}
	switch {
	case length > 0:
		return 100 * (float64(edits) / length), nil
	case edits > 0:
		return 100, nil
	}
	return 0, nil
}

var (
	asianPunct     = regexp.MustCompile(`([\x{3001}\x{3002}\x{3008}-\x{3011}\x{3014}-\x{301f}\x{ff61}-\x{ff65}\x{30fb}])`)
	fullWidthPunct = regexp.MustCompile(`([\x{ff0e}\x{ff0c}\x{ff1f}\x{ff1a}\x{ff1b}\x{ff01}\x{ff02}\x{ff08}\x{ff09}])`)
	terPunct       = regexp.MustCompile(`[\.,\?:;!"\(\)]`)
	possessiveEnd  = regexp.MustCompile(`'s$`)
)

// asianRules split CJK characters off. sacrebleu's rules for kana can never match behind the space that stands before the text, and its
// range of enclosed letters ends at U+3F22, not U+32FF; both are so here.
var asianRules = []rule{
	{regexp.MustCompile(`([\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}])`), " ${1} "},
	{regexp.MustCompile(`([\x{31c0}-\x{31ef}\x{2e80}-\x{2eff}])`), " ${1} "},
	{regexp.MustCompile(`([\x{3300}-\x{33ff}\x{f900}-\x{faff}\x{fe30}-\x{fe4f}])`), " ${1} "},
	{regexp.MustCompile(`([\x{3200}-\x{3f22}])`), " ${1} "},
	{asianPunct, " ${1} "},
	{fullWidthPunct, " ${1} "},
}

func (o TEROptions) words(s string) []string {
	s = trimRight(s)
	if !o.CaseSensitive {
		s = pytext.Lower(s)
	}
	if s == "" {
		return nil
	}
	if o.Normalized {
		s = strings.ReplaceAll(s, "\n-", "")
		s = strings.ReplaceAll(s, "\n", " ")
		for _, e := range [][2]string{{"&quot;", `"`}, {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}} {
			s = strings.ReplaceAll(s, e[0], e[1])
		}
		s = applyRules(" "+s+" ", westernRules[:1])
		s = strings.ReplaceAll(s, "'s ", " 's ")
		s = possessiveEnd.ReplaceAllString(s, " 's")
		s = applyRules(s, westernRules[1:])
		if o.AsianSupport {
			s = applyRules(s, asianRules)
		}
	}
	if o.NoPunct {
		s = terPunct.ReplaceAllString(s, "")
		if o.AsianSupport {
			s = fullWidthPunct.ReplaceAllString(asianPunct.ReplaceAllString(s, ""), "")
		}
	}
	return fields(s)
}

// Tercom's and sacrebleu's limits of the search.
const (
	maxShiftSize       = 10
	maxShiftDistance   = 50
	beamWidth          = 25
	maxShiftCandidates = 1000
	farAway            = 1 << 30
)

// The operations of an edit trace.
const (
	opNone = iota
	opKeep
	opSubstitute
	opInsert
	opDelete
)

// editRate is the number of edits, shifts of word sequences included, that turn hyp into ref.
func editRate(hyp, ref []string) int {
	if len(ref) == 0 {
		return len(hyp)
	}
	words, shifts, checked := hyp, 0, 0
	for {
		m := newMatrix(words, ref)
		shifted, gain := m.shift(&checked)
		if checked >= maxShiftCandidates || gain <= 0 {
			return shifts + m.distance()
		}
		shifts++
		words = shifted
	}
}

// matrix is the table of edit distances between the prefixes of hyp and ref, computed around its diagonal only.
type matrix struct {
	hyp, ref []string
	cost     [][]int32
	op       [][]uint8
}

func newMatrix(hyp, ref []string) *matrix {
	m := &matrix{hyp: hyp, ref: ref, cost: make([][]int32, len(hyp)+1), op: make([][]uint8, len(hyp)+1)}
	for i := range m.cost {
		m.cost[i], m.op[i] = make([]int32, len(ref)+1), make([]uint8, len(ref)+1)
	}
	for j := range m.cost[0] {
		m.cost[0][j], m.op[0][j] = int32(j), opInsert
	}
	m.fill(1)
	return m
}

func (m *matrix) distance() int { return int(m.cost[len(m.hyp)][len(m.ref)]) }

// fill computes the rows from first on; those before depend on the words before only.
func (m *matrix) fill(first int) {
	ratio := 1.0
	if len(m.hyp) > 0 {
		ratio = float64(len(m.ref)) / float64(len(m.hyp))
	}
	beam := beamWidth
	if float64(beam) < ratio/2 {
		beam = int(math.Ceil(ratio/2 + beamWidth))
	}
	for i := first; i <= len(m.hyp); i++ {
		cost, op, before := m.cost[i], m.op[i], m.cost[i-1]
		for j := range cost {
			cost[j], op[j] = farAway, opNone
		}
		diagonal := int(math.Floor(float64(i) * ratio))
		from, to := max(0, diagonal-beam), min(len(m.ref)+1, diagonal+beam)
		if i == len(m.hyp) {
			to = len(m.ref) + 1
		}
		for j := from; j < to; j++ {
			if j == 0 {
				cost[0], op[0] = before[0]+1, opDelete
				continue
			}
			c, o := before[j-1], uint8(opKeep)
			if m.hyp[i-1] != m.ref[j-1] {
				c, o = c+1, opSubstitute
			}
			if before[j]+1 < c {
				c, o = before[j]+1, opDelete
			}
			if cost[j-1]+1 < c {
				c, o = cost[j-1]+1, opInsert
			}
			if c < farAway {
				cost[j], op[j] = c, o
			}
		}
	}
}

// alignment walks the cheapest path: for every word of ref the place in hyp that it stands at, and which words are wrong.
func (m *matrix) alignment() (align []int, refWrong, hypWrong []bool) {
	var path []uint8
	for i, j := len(m.hyp), len(m.ref); i > 0 || j > 0; {
		o := m.op[i][j]
		if i == 0 {
			o = opInsert
		} else if j == 0 {
			o = opDelete
		}
		path = append(path, o)
		if o != opInsert {
			i--
		}
		if o != opDelete {
			j--
		}
	}
	slices.Reverse(path)
	at := -1
	for _, o := range path {
		switch o {
		case opKeep, opSubstitute:
			at++
			align, refWrong, hypWrong = append(align, at), append(refWrong, o == opSubstitute), append(hypWrong, o == opSubstitute)
		case opDelete: // a word of hyp without one of ref
			at++
			hypWrong = append(hypWrong, true)
		case opInsert:
			align, refWrong = append(align, at), append(refWrong, true)
		}
	}
	return align, refWrong, hypWrong
}

// shift finds the move of a word sequence within hyp that saves most edits; of equal ones the longest, then the earliest, then to the
// earliest place. gain is 0 when there is none.
func (m *matrix) shift(checked *int) (words []string, gain int) {
	align, refWrong, hypWrong := m.alignment()
	pre := m.distance()
	trial := &matrix{hyp: slices.Clone(m.hyp), ref: m.ref, cost: make([][]int32, len(m.cost)), op: make([][]uint8, len(m.op))}
	for i := range trial.cost {
		trial.cost[i], trial.op[i] = slices.Clone(m.cost[i]), slices.Clone(m.op[i])
	}
	var best [4]int
	for startH := range m.hyp {
		for startR := max(0, startH-maxShiftDistance); startR < len(m.ref) && startR <= startH+maxShiftDistance; startR++ {
			for n := 1; n <= maxShiftSize && startH+n <= len(m.hyp) && startR+n <= len(m.ref) && m.hyp[startH+n-1] == m.ref[startR+n-1]; n++ {
				if !slices.Contains(hypWrong[startH:startH+n], true) || !slices.Contains(refWrong[startR:startR+n], true) ||
					startH <= align[startR] && align[startR] < startH+n {
					continue
				}
				previous := -1
				for offset := -1; offset < n; offset++ {
					to := 0
					if startR+offset >= len(align) {
						break
					} else if startR+offset >= 0 {
						to = align[startR+offset] + 1
					}
					if to == previous {
						continue
					}
					previous = to
					moved := move(m.hyp, startH, n, to)
					key := [4]int{pre - trial.try(m, moved), n, -startH, -to}
					*checked++
					if words == nil || slices.Compare(key[:], best[:]) > 0 {
						best, words = key, moved
					}
				}
				if *checked >= maxShiftCandidates {
					return words, best[0]
				}
			}
		}
	}
	return words, best[0]
}

// try is the edit distance of other words, of which those that m begins with need not be computed again.
func (m *matrix) try(of *matrix, words []string) int {
	same := 0
	for same < len(words) && words[same] == of.hyp[same] {
		same++
	}
	for i := 0; i <= same; i++ {
		m.cost[i], m.op[i] = of.cost[i], of.op[i]
	}
	for i := same + 1; i < len(m.cost); i++ {
		if &m.cost[i][0] == &of.cost[i][0] { // the rows of the other are not ours to write
			m.cost[i], m.op[i] = make([]int32, len(m.ref)+1), make([]uint8, len(m.ref)+1)
		}
	}
	m.hyp = words
	m.fill(same + 1)
	return m.distance()
}

// move returns words with n of them from start moved before the place to.
func move(words []string, start, n, to int) []string {
	switch {
	case to < start:
		return slices.Concat(words[:to], words[start:start+n], words[to:start], words[start+n:])
	case to > start+n:
		return slices.Concat(words[:start], words[start+n:to], words[start:start+n], words[to:])
	}
	// Into itself: n words go on after the sequence, as far as there are that many.
	end := min(len(words), n+to)
	return slices.Concat(words[:start], words[min(len(words), start+n):end], words[start:start+n], words[end:])
}
