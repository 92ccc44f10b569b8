// Package clean repairs rows and drops those that should not be trained on, and says what it did: normalization, boilerplate, broken rows,
// length, language, blocklist, personal data, exact and near duplicates, contamination of training by evaluation, wrong labels, and people's
// decisions from a review file. Everything is a pure function of rows, settings and seed.
package clean

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
	"github.com/tunefleet/tunefleet/schemas"
)

// Reasons why rows are dropped; the keys of a report's Dropped.
const (
	Broken       = "broken"
	UnknownLabel = "unknown_label"
	Length       = "length"
	Language     = "language"
	Blocked      = "blocked"
	PersonalData = "pii"
	Duplicate    = "duplicates"
	NearDup      = "near_duplicates"
	Contaminated = "contaminated"
	Mislabelled  = "mislabelled"
	Reviewed     = "reviewed"
)

// maxExamples is the number of dropped rows that a report keeps of each reason.
const maxExamples = 5

// Drop is an example of a dropped row.
type Drop struct {
	// Row is the row's place among the rows read, from 0.
	Row int `json:"row"`
	// Of is the row that it repeats, -1 where there is none.
	Of         int     `json:"of"`
	Similarity float64 `json:"similarity,omitempty"`
	// Why says it in words.
	Why  string `json:"why,omitempty"`
	Text string `json:"text"`
}

// Report says what cleaning did.
type Report struct {
	Read int `json:"read"`
	Kept int `json:"kept"`
	// Dropped counts rows by reason, Examples has the first of each.
	Dropped  map[string]int    `json:"dropped"`
	Examples map[string][]Drop `json:"examples,omitempty"`
	// Masked counts replaced personal data by type.
	Masked map[string]int `json:"masked,omitempty"`
	// Changed counts rows that normalization changed, Lines the lines of boilerplate taken out, Relabelled the labels that a review set.
	Changed    int `json:"changed"`
	Lines      int `json:"boilerplate_lines"`
	Relabelled int `json:"relabelled"`
}

// NewReport makes an empty report.
func NewReport() *Report {
	return &Report{Dropped: map[string]int{}, Examples: map[string][]Drop{}, Masked: map[string]int{}}
}

// Counters returns the counts by the names that a prep result has.
func (r *Report) Counters() map[string]int64 {
	out := map[string]int64{"rows_read": int64(r.Read), "rows_kept": int64(r.Kept), "masked_pii": 0, "normalized_rows": int64(r.Changed),
		"boilerplate_lines": int64(r.Lines), "relabelled": int64(r.Relabelled)}
	for _, k := range []string{Broken, UnknownLabel, Length, Language, Blocked, PersonalData, Duplicate, NearDup, Contaminated, Mislabelled, Reviewed} {
		out["dropped_"+k] = int64(r.Dropped[k])
	}
	for _, n := range r.Masked {
		out["masked_pii"] += int64(n)
	}
	return out
}

// Summary lists the reasons that dropped rows, for people.
func (r *Report) Summary() string {
	var parts []string
	for k, n := range r.Dropped {
		parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(k, "_", " ")))
	}
	slices.Sort(parts)
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func (r *Report) drop(reason string, row *data.Row, place int, d Drop) {
	r.Dropped[reason]++
	if len(r.Examples[reason]) < maxExamples {
		d.Row, d.Text = place, excerpt(row.User())
		r.Examples[reason] = append(r.Examples[reason], d)
	}
}

func excerpt(s string) string {
	const most = 80
	r := []rune(strings.Join(strings.Fields(s), " "))
	if len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(r)
}

// Options are what the settings refer to.
type Options struct {
	// IDs are the names of the rows for Review where they are not those of RowID: rows that were changed before.
	IDs  []string
	Seed uint64
	// Review is the content of the review file, nil when there is none.
	Review io.Reader
}

// NamePattern finds names behind a title; it is the type "name".
const NamePattern = `\b(?:Mr|Mrs|Ms|Dr|Prof)\.? \p{Lu}\p{L}+(?: \p{Lu}\p{L}+)?`

// Finder makes the detector of personal data that the settings ask for. Errors are CodeInvalid.
func Finder(spec *schemas.CleanSpec) (*pii.Finder, error) {
	c := pii.Config{Patterns: map[string]string{}}
	for _, t := range spec.PIITypes {
		if t != "name" {
			c.Types = append(c.Types, t)
		}
	}
	if len(spec.PIITypes) == 0 || slices.Contains(spec.PIITypes, "name") {
		c.Patterns["name"] = NamePattern
	}
	for k, v := range spec.PIIPatterns {
		c.Patterns[k] = v
	}
	return pii.New(c)
}

// Run repairs and drops rows in the order of the settings' fields. Kept rows keep their order and are numbered anew. The steps that need the
// split (Contamination) are left to Decontaminate. Errors are CodeInvalid, or CodeData for the review file.
func Run(rows []data.Row, spec schemas.CleanSpec, o Options) ([]data.Row, *Report, error) {
	rep := NewReport()
	rep.Read = len(rows)
	st, err := newState(&spec, o, rep)
	if err != nil {
		return nil, nil, err
	}
	// Reviewers saw the rows as they are in the file.
	ids := o.IDs
	for i := range rows {
		if o.Review != nil && len(ids) < len(rows) {
			ids = append(ids, RowID(&rows[i]))
		}
	}
	out := make([]data.Row, 0, len(rows))
	places := make([]int, 0, len(rows))
	for i, r := range rows {
		if st.row(&r, i) {
			out, places = append(out, r), append(places, i)
		}
	}
	if spec.NearDup > 0 {
		out, places = dropNear(out, places, &spec, o.Seed, rep)
	}
	if o.Review != nil {
		if out, places, err = applyReview(out, places, ids, &spec, o.Review, rep); err != nil {
			return nil, nil, err
		}
	}
	if spec.Mislabelled == "drop" {
		out = dropMislabelled(out, places, rep)
	}
	for i := range out {
		out[i].Index = i
	}
	rep.Kept = len(out)
	return out, rep, nil
}

// state is what the steps row by row need.
type state struct {
	spec   *schemas.CleanSpec
	rep    *Report
	finder *pii.Finder
	with   func(kind, found string) string
	words  []string
	seen   map[[32]byte]int
}

func newState(spec *schemas.CleanSpec, o Options, rep *Report) (*state, error) {
	s := &state{spec: spec, rep: rep, seen: map[[32]byte]int{}}
	for _, w := range spec.Blocklist {
		s.words = append(s.words, strings.ToLower(Normalize(w)))
	}
	if spec.PII == "" {
		return s, nil
	}
	var err error
	if s.finder, err = Finder(spec); err != nil {
		return nil, err
	}
	replace := pii.Mask
	if spec.PII == "pseudonym" {
		key := binary.LittleEndian.AppendUint64([]byte("tunefleet pseudonyms "), o.Seed)
		replace = pii.Pseudonyms(key)
	}
	s.with = func(kind, found string) string {
		rep.Masked[kind]++
		return replace(kind, found)
	}
	return s, nil
}

func texts(r *data.Row) []*string { return []*string{&r.Text, &r.Prompt, &r.Response} }

// row repairs one row; false drops it.
func (s *state) row(r *data.Row, place int) bool {
	if s.spec.Normalize {
		changed := false
		for _, p := range append(texts(r), &r.System, &r.Explanation, &r.Label) {
			n := Normalize(*p)
			changed = changed || n != *p
			*p = n
		}
		if changed {
			s.rep.Changed++
		}
	}
	if s.spec.Boilerplate {
		for _, p := range texts(r) {
			t, n := dropBoilerplate(*p)
			*p = t
			s.rep.Lines += n
		}
	}
	if s.spec.Broken {
		if why := broken(r); why != "" {
			s.rep.drop(Broken, r, place, Drop{Of: -1, Why: why})
			return false
		}
	}
	if len(s.spec.Labels) > 0 && !slices.Contains(s.spec.Labels, r.Label) {
		s.rep.drop(UnknownLabel, r, place, Drop{Of: -1, Why: r.Label})
		return false
	}
	if n := len([]rune(r.Text + r.Prompt)); n < s.spec.MinChars || s.spec.MaxChars > 0 && n > s.spec.MaxChars {
		s.rep.drop(Length, r, place, Drop{Of: -1, Why: fmt.Sprintf("%d characters", n)})
		return false
	}
	if len(s.spec.Languages) > 0 {
		if l := DetectLanguage(r.Text + "\n" + r.Prompt + "\n" + r.Response); l != "" && !slices.Contains(s.spec.Languages, l) {
			s.rep.drop(Language, r, place, Drop{Of: -1, Why: l})
			return false
		}
	}
	if w := s.blocked(r); w != "" {
		s.rep.drop(Blocked, r, place, Drop{Of: -1, Why: w})
		return false
	}
	if !s.personal(r, place) {
		return false
	}
	if s.spec.Dedup {
		h := Key(r)
		if of, ok := s.seen[h]; ok {
			s.rep.drop(Duplicate, r, place, Drop{Of: of, Similarity: 1})
			return false
		}
		s.seen[h] = place
	}
	return true
}

// blocked returns the first listed word that a row holds. A word of letters must stand by itself; Han text has no such edges.
func (s *state) blocked(r *data.Row) string {
	for _, p := range texts(r) {
		if len(s.words) == 0 || *p == "" {
			continue
		}
		text := strings.ToLower(*p)
		for _, w := range s.words {
			for at := 0; ; {
				k := strings.Index(text[at:], w)
				if k < 0 {
					break
				}
				k += at
				if edge(text[:k], w, true) && edge(text[k+len(w):], w, false) {
					return w
				}
				at = k + 1
			}
		}
	}
	return ""
}

// edge reports whether a word may begin (or end) beside what stands there.
func edge(beside, word string, before bool) bool {
	latin := func(c rune) bool { return (unicode.IsLetter(c) || unicode.IsDigit(c)) && c < 0x2e80 }
	w, b := []rune(word), []rune(beside)
	if len(b) == 0 {
		return true
	}
	if before {
		return !latin(w[0]) || !latin(b[len(b)-1])
	}
	return !latin(w[len(w)-1]) || !latin(b[0])
}

func (s *state) personal(r *data.Row, place int) bool {
	if s.finder == nil {
		return true
	}
	if s.spec.PII == "drop" {
		for _, p := range texts(r) {
			if f := s.finder.Find(*p); len(f) > 0 {
				s.rep.drop(PersonalData, r, place, Drop{Of: -1, Why: f[0].Type})
				return false
			}
		}
		return true
	}
	for _, p := range texts(r) {
		*p, _ = s.finder.Replace(*p, s.with)
	}
	return true
}

func allTexts(rows []data.Row) []string {
	out := make([]string, len(rows))
	for i := range rows {
		out[i] = Compared(&rows[i])
	}
	return out
}

func dropNear(rows []data.Row, places []int, spec *schemas.CleanSpec, seed uint64, rep *Report) ([]data.Row, []int) {
	dup := map[int]bool{}
	for _, m := range minhash.Duplicates(allTexts(rows), spec.NearDup, spec.Shingle, seed) {
		dup[m.Row] = true
		rep.drop(NearDup, &rows[m.Row], places[m.Row], Drop{Of: places[m.Of], Similarity: m.Similarity})
	}
	return keep(rows, places, func(i int) bool { return !dup[i] })
}

func keep(rows []data.Row, places []int, ok func(i int) bool) ([]data.Row, []int) {
	n := 0
	for i := range rows {
		if ok(i) {
			rows[n], places[n] = rows[i], places[i]
			n++
		}
	}
	return rows[:n], places[:n]
}

// Decontaminate drops training rows that are similar to a row of eval or test (after the split), and counts them in the report.
func Decontaminate(rows []data.Row, spec schemas.CleanSpec, seed uint64, rep *Report) []data.Row {
	if spec.Contamination <= 0 {
		return rows
	}
	var train, held []string
	var trainAt, heldAt []int
	for i := range rows {
		if rows[i].Split == "train" {
			train, trainAt = append(train, Compared(&rows[i])), append(trainAt, i)
		} else {
			held, heldAt = append(held, Compared(&rows[i])), append(heldAt, i)
		}
	}
	bad := map[int]bool{}
	for _, m := range minhash.Overlaps(train, held, spec.Contamination, spec.Shingle, seed) {
		i := trainAt[m.Row]
		bad[i] = true
		rep.drop(Contaminated, &rows[i], rows[i].Index, Drop{Of: rows[heldAt[m.Of]].Index, Similarity: m.Similarity})
	}
	places := make([]int, len(rows))
	rows, _ = keep(rows, places, func(i int) bool { return !bad[i] })
	for i := range rows {
		rows[i].Index = i
	}
	rep.Kept = len(rows)
	return rows
}

// dropMislabelled drops rows whose label differs from the strict majority of their group: rows that say the same in other words.
func dropMislabelled(rows []data.Row, places []int, rep *Report) []data.Row {
	votes := map[string]map[string]int{}
	for _, r := range rows {
		if votes[r.Group] == nil {
			votes[r.Group] = map[string]int{}
		}
		votes[r.Group][r.Label]++
	}
	out, _ := keep(rows, places, func(i int) bool {
		r := &rows[i]
		if r.Group == "" || r.Label == "" {
			return true
		}
		total := 0
		for _, n := range votes[r.Group] {
			total += n
		}
		for label, n := range votes[r.Group] {
			if 2*n > total && label != r.Label {
				rep.drop(Mislabelled, r, places[i], Drop{Of: -1, Why: fmt.Sprintf("%s, its group says %s", r.Label, label)})
				return false
			}
		}
		return true
	})
	return out
}

// Normalize applies Unicode NFC, drops control characters and zero-width marks, and folds each run of blanks to one space, keeping line
// breaks.
func Normalize(s string) string {
	var b bytes.Buffer
	space := false
	for _, r := range norm.NFC.String(s) {
		switch {
		case r == '\n':
			for b.Len() > 0 && b.Bytes()[b.Len()-1] == ' ' {
				b.Truncate(b.Len() - 1)
			}
			b.WriteRune('\n')
			space = true
		case unicode.IsSpace(r):
			if !space && b.Len() > 0 {
				b.WriteByte(' ')
			}
			space = true
		case unicode.IsControl(r), r == '\u200b', r == '\u200c', r == '\u200d', r == '\ufeff':
		default:
			b.WriteRune(r)
			space = false
		}
	}
	// Without the marks that stood between, letters may now compose.
	return norm.NFC.String(strings.TrimSpace(b.String()))
}

// NewRepairer returns a function that changes a text as Run does (normalization, boilerplate, masked personal data) and drops nothing. What it
// changes is counted in rep. Errors are CodeInvalid.
func NewRepairer(spec schemas.CleanSpec, seed uint64, rep *Report) (func(string) string, error) {
	only := schemas.CleanSpec{Normalize: spec.Normalize, Boilerplate: spec.Boilerplate, PII: spec.PII, PIITypes: spec.PIITypes, PIIPatterns: spec.PIIPatterns}
	if only.PII == "drop" {
		only.PII = ""
	}
	st, err := newState(&only, Options{Seed: seed}, rep)
	if err != nil {
		return nil, err
	}
	return func(text string) string {
		r := data.Row{Text: text}
		st.row(&r, 0)
		return r.Text
	}, nil
}
