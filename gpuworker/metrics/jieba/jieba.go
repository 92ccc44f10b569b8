// Package jieba cuts Chinese text into words exactly as the Python package jieba 0.42.1 does: maximum-probability path over a prefix
// dictionary, a hidden Markov model for what the dictionary does not know, full mode and search mode.
//
// The tables (dict.txt, the HMM's log-probabilities) are jieba's own, under the MIT licence that stands beside them in data/.
package jieba

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed" // the tables
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/schemas"
)

//go:embed data/dict.txt.gz
var dictGz []byte

//go:embed data/hmm.json.gz
var hmmGz []byte

// Limits of the tables that are read.
const (
	maxDictBytes = 64 << 20
	maxHMMBytes  = 16 << 20
)

// minFloat is the log-probability of what never occurs.
const minFloat = -3.14e100

// The states of the HMM, in jieba's order of names: a larger letter wins a tie.
const (
	stateB = iota
	stateE
	stateM
	stateS
	states
)

// Segmenter cuts text. It is immutable and safe for concurrent use.
type Segmenter struct {
	freq map[string]int32
	// names are the words that the dictionary tags as names of people, places and organizations.
	names    map[string]bool
	total    int64
	logTotal float64
	start    [states]float64
	trans    [states][states]float64
	emit     [states]map[rune]float64
}

// shared holds the tables that ship with the program: they are read when they are first needed, once.
var shared = sync.OnceValues(func() (*Segmenter, error) {
	dict, err := gzip.NewReader(bytes.NewReader(dictGz))
	if err != nil {
		return nil, fmt.Errorf("cannot read jieba's dictionary: %w", err)
	}
	hmm, err := gzip.NewReader(bytes.NewReader(hmmGz))
	if err != nil {
		return nil, fmt.Errorf("cannot read jieba's model: %w", err)
	}
	return Load(dict, hmm)
})

// Default returns the segmenter with the tables of jieba 0.42.1.
func Default() (*Segmenter, error) { return shared() }

// Open reads dict.txt and hmm.json of a folder. Errors are CodeData.
func Open(dir fs.FS) (*Segmenter, error) {
	dict, err := dir.Open("dict.txt")
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, "dict.txt", "cannot open jieba's dictionary: %v", err)
	}
	defer dict.Close()
	hmm, err := dir.Open("hmm.json")
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, "hmm.json", "cannot open jieba's model: %v", err)
	}
	defer hmm.Close()
	return Load(dict, hmm)
}

// Load reads a dictionary (a line: word frequency [tag]) and the HMM as JSON {start, trans, emit} of natural logarithms. Errors are CodeData
// with the line.
func Load(dict, hmm io.Reader) (*Segmenter, error) {
	s := &Segmenter{freq: make(map[string]int32, 500_000), names: map[string]bool{}}
	if err := s.readDict(dict); err != nil {
		return nil, err
	}
	if err := s.readHMM(hmm); err != nil {
		return nil, err
	}
	s.logTotal = math.Log(float64(max(1, s.total)))
	return s, nil
}

func (s *Segmenter) readDict(r io.Reader) error {
	sc := bufio.NewScanner(io.LimitReader(r, maxDictBytes))
	for line := 1; sc.Scan(); line++ {
		text := strings.TrimSpace(sc.Text())
		word, rest, ok := strings.Cut(text, " ")
		n, tag, _ := strings.Cut(rest, " ")
		f, err := strconv.ParseInt(n, 10, 32)
		if !ok || err != nil || f < 0 || !utf8.ValidString(word) {
			return schemas.Errorf(schemas.CodeData, fmt.Sprintf("dict.txt:%d", line), "must be a word and its frequency")
		}
		s.freq[word] = int32(f)
		if strings.HasPrefix(tag, "nr") || strings.HasPrefix(tag, "ns") || strings.HasPrefix(tag, "nt") || strings.HasPrefix(tag, "nz") {
			s.names[word] = true
		}
		s.total += f
		for i := range word {
			if i > 0 {
				if _, ok := s.freq[word[:i]]; !ok {
					s.freq[word[:i]] = 0
				}
			}
		}
	}
	if err := sc.Err(); err != nil {
		return schemas.Errorf(schemas.CodeData, "dict.txt", "cannot read the dictionary: %v", err)
	}
	return nil
}

func (s *Segmenter) readHMM(r io.Reader) error {
	var m struct {
		Start map[string]float64            `json:"start"`
		Trans map[string]map[string]float64 `json:"trans"`
		Emit  map[string]map[string]float64 `json:"emit"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxHMMBytes)).Decode(&m); err != nil {
		return schemas.Errorf(schemas.CodeData, "hmm.json", "cannot read the model: %v", err)
	}
	for i, name := range []string{"B", "E", "M", "S"} {
		start, ok := m.Start[name]
		if !ok {
			return schemas.Errorf(schemas.CodeData, "hmm.json", "has no start probability of state %s", name)
		}
		s.start[i] = start
		for k, next := range []string{"B", "E", "M", "S"} {
			s.trans[i][k] = minFloat
			if p, ok := m.Trans[name][next]; ok {
				s.trans[i][k] = p
			}
		}
		s.emit[i] = make(map[rune]float64, len(m.Emit[name]))
		for c, p := range m.Emit[name] {
			r, _ := utf8.DecodeRuneInString(c)
			s.emit[i][r] = p
		}
	}
	return nil
}

// IsName reports whether the dictionary tags a word as the name of a person, place, organization or the like.
func (s *Segmenter) IsName(word string) bool { return s.names[word] }

// isBlock are the characters that are cut by dictionary: [\u4E00-\u9FD5a-zA-Z0-9+#&._%-].
func isBlock(r rune) bool {
	return isHan(r) || isAlnum(r) || r < utf8.RuneSelf && strings.ContainsRune("+#&._%-", r)
}

func isHan(r rune) bool { return r >= 0x4e00 && r <= 0x9fd5 }

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// isSpace is Python's \s.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// Cut is jieba.cut(text): accurate mode with the HMM. The words joined are the text.
func (s *Segmenter) Cut(text string) []string { return s.cut(text, s.cutDAG, false) }

// CutNoHMM is jieba.cut(text, HMM=False).
func (s *Segmenter) CutNoHMM(text string) []string { return s.cut(text, s.cutNoHMM, false) }

// CutAll is jieba.cut(text, cut_all=True): every word of the dictionary that occurs.
func (s *Segmenter) CutAll(text string) []string { return s.cut(text, s.cutAll, true) }

// CutForSearch is jieba.cut_for_search(text): accurate mode, long words also by their shorter ones.
func (s *Segmenter) CutForSearch(text string) []string {
	var out []string
	for _, w := range s.Cut(text) {
		r := []rune(w)
		for n := 2; n <= 3; n++ {
			for i := 0; len(r) > n && i+n <= len(r); i++ {
				if g := string(r[i : i+n]); s.freq[g] > 0 {
					out = append(out, g)
				}
			}
		}
		out = append(out, w)
	}
	return out
}

// cut deals the blocks of a text out: those of the dictionary to block, the rest by character (or, in full mode, between white space).
func (s *Segmenter) cut(text string, block func([]rune, []string) []string, all bool) []string {
	var out []string
	r := []rune(text)
	for i := 0; i < len(r); {
		j := i
		inside := isBlock(r[i])
		for j < len(r) && isBlock(r[j]) == inside {
			j++
		}
		switch {
		case inside:
			out = block(r[i:j], out)
		case all:
			out = splitSpace(r[i:j], out)
		default:
			for k := i; k < j; k++ {
				if r[k] == '\r' && k+1 < j && r[k+1] == '\n' {
					out = append(out, "\r\n")
					k++
					continue
				}
				out = append(out, string(r[k]))
			}
		}
		i = j
	}
	return out
}

// splitSpace is what Python's re.split((\r\n|\s)) gives, empty pieces included.
func splitSpace(r []rune, out []string) []string {
	from := 0
	for k := 0; k < len(r); k++ {
		if !isSpace(r[k]) {
			continue
		}
		end := k + 1
		if r[k] == '\r' && end < len(r) && r[end] == '\n' {
			end++
		}
		out = append(out, string(r[from:k]), string(r[k:end]))
		from, k = end, end-1
	}
	return append(out, string(r[from:]))
}

// dag lists for every position the ends (inclusive) of the dictionary's words that begin there.
func (s *Segmenter) dag(r []rune) [][]int {
	text := string(r)
	at := make([]int, len(r)+1)
	for i, c := range r {
		n := utf8.RuneLen(c)
		if n < 0 {
			n = utf8.RuneLen(utf8.RuneError)
		}
		at[i+1] = at[i] + n
	}
	out := make([][]int, len(r))
	for k := range r {
		for i := k; i < len(r); i++ {
			f, ok := s.freq[text[at[k]:at[i+1]]]
			if !ok {
				break
			}
			if f > 0 {
				out[k] = append(out[k], i)
			}
		}
		if out[k] == nil {
			out[k] = []int{k}
		}
	}
	return out
}

// route is the most probable path: the end (inclusive) of the word that begins at each position.
func (s *Segmenter) route(r []rune) []int {
	dag := s.dag(r)
	best, next := make([]float64, len(r)+1), make([]int, len(r))
	for i := len(r) - 1; i >= 0; i-- {
		top := math.Inf(-1)
		for _, x := range dag[i] {
			f := max(1, s.freq[string(r[i:x+1])])
			// Ends come in ascending order and the later one wins a tie, as the larger tuple does in Python.
			if p := math.Log(float64(f)) - s.logTotal + best[x+1]; p >= top {
				top, next[i] = p, x
			}
		}
		best[i] = top
	}
	return next
}

func (s *Segmenter) cutDAG(r []rune, out []string) []string {
	next := s.route(r)
	from := 0 // of the single characters not yet given out
	flush := func(to int) {
		buf := r[from:to]
		switch {
		case len(buf) == 0:
		case len(buf) == 1:
			out = append(out, string(buf))
		case s.freq[string(buf)] == 0:
			out = s.unknown(buf, out)
		default:
			for _, c := range buf {
				out = append(out, string(c))
			}
		}
	}
	for x := 0; x < len(r); {
		y := next[x] + 1
		if y-x > 1 {
			flush(x)
			out = append(out, string(r[x:y]))
			from = y
		}
		x = y
	}
	flush(len(r))
	return out
}

func (s *Segmenter) cutNoHMM(r []rune, out []string) []string {
	next := s.route(r)
	from := 0
	for x := 0; x < len(r); {
		y := next[x] + 1
		if y-x == 1 && isAlnum(r[x]) {
			x = y
			continue
		}
		if from < x {
			out = append(out, string(r[from:x]))
		}
		out = append(out, string(r[x:y]))
		x, from = y, y
	}
	if from < len(r) {
		out = append(out, string(r[from:]))
	}
	return out
}

func (s *Segmenter) cutAll(r []rune, out []string) []string {
	old := -1
	english := false
	var buf []rune
	for k, ends := range s.dag(r) {
		if english && !isAlnum(r[k]) {
			english = false
			out = append(out, string(buf))
		}
		if len(ends) == 1 && k > old {
			word := r[k : ends[0]+1]
			if isAlnum(word[0]) {
				if !english {
					english, buf = true, nil
				}
				buf = append(buf, word...)
			}
			if !english {
				out = append(out, string(word))
			}
			old = ends[0]
			continue
		}
		for _, j := range ends {
			if j > k {
				out = append(out, string(r[k:j+1]))
				old = j
			}
		}
	}
	if english {
		out = append(out, string(buf))
	}
	return out
}

// unknown cuts single characters that the dictionary makes no words of: Han by the HMM, [a-zA-Z0-9]+(\.\d+)?%? as one, the rest between.
func (s *Segmenter) unknown(r []rune, out []string) []string {
	for i := 0; i < len(r); {
		j := i
		if isHan(r[i]) {
			for j < len(r) && isHan(r[j]) {
				j++
			}
			out = s.viterbi(r[i:j], out)
		} else if isAlnum(r[i]) {
			for j < len(r) && isAlnum(r[j]) {
				j++
			}
			if j+1 < len(r) && r[j] == '.' && isDigit(r[j+1]) {
				for j++; j < len(r) && isDigit(r[j]); j++ {
				}
			}
			if j < len(r) && r[j] == '%' {
				j++
			}
			out = append(out, string(r[i:j]))
		} else {
			for j < len(r) && !isHan(r[j]) && !isAlnum(r[j]) {
				j++
			}
			out = append(out, string(r[i:j]))
		}
		i = j
	}
	return out
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

// viterbi labels characters as begin, middle, end or single (Viterbi 1967) and gives the words out.
func (s *Segmenter) viterbi(r []rune, out []string) []string {
	previous := [states][2]int{stateB: {stateE, stateS}, stateE: {stateB, stateM}, stateM: {stateB, stateM}, stateS: {stateE, stateS}}
	var v [states]float64
	back := make([][states]uint8, len(r))
	for y := range states {
		v[y] = s.start[y] + s.emission(y, r[0])
	}
	for t := 1; t < len(r); t++ {
		var w [states]float64
		for y := range states {
			e := s.emission(y, r[t])
			top := math.Inf(-1)
			for _, y0 := range previous[y] { // ascending names: the later one wins a tie
				if p := v[y0] + s.trans[y0][y] + e; p >= top {
					top, back[t][y] = p, uint8(y0)
				}
			}
			w[y] = top
		}
		v = w
	}
	y := stateE
	if v[stateS] >= v[stateE] {
		y = stateS
	}
	path := make([]int, len(r))
	for t := len(r) - 1; t >= 0; t-- {
		path[t] = y
		y = int(back[t][y])
	}
	begin, next := 0, 0
	for i, p := range path {
		switch p {
		case stateB:
			begin = i
		case stateE:
			out = append(out, string(r[begin:i+1]))
			next = i + 1
		case stateS:
			out = append(out, string(r[i]))
			next = i + 1
		}
	}
	if next < len(r) {
		out = append(out, string(r[next:]))
	}
	return out
}

func (s *Segmenter) emission(state int, c rune) float64 {
	if p, ok := s.emit[state][c]; ok {
		return p
	}
	return minFloat
}
