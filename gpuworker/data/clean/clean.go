// Package clean repairs rows and drops those that should not be trained on, and says what it did: normalization, boilerplate, broken rows,
// length, language, blocklist, personal data, exact and near duplicates, contamination of training by evaluation, wrong labels, and people's
// decisions from a review file. Everything is a pure function of rows, settings and seed.
package clean

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/tunefleet/tunefleet/gpuworker/data"
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

// Report says what cleaning did.
type Report struct {
	Read int `json:"read"`
	Kept int `json:"kept"`
	// Dropped counts rows by reason.
	Dropped map[string]int `json:"dropped"`
	// Masked counts replaced personal data by type.
	Masked map[string]int `json:"masked,omitempty"`
	// Changed counts rows that normalization changed, Lines the lines of boilerplate taken out, Relabelled the labels that a review set.
	Changed    int `json:"changed"`
	Lines      int `json:"boilerplate_lines"`
	Relabelled int `json:"relabelled"`
}

// NewReport makes an empty report.
func NewReport() *Report {
	return &Report{Dropped: map[string]int{}, Masked: map[string]int{}}
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

// Drop counts n rows that are gone for a reason after they were kept.
func (r *Report) Drop(reason string, n int) {
	if r.Kept -= n; n > 0 {
		r.Dropped[reason] += n
	}
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

// state is what the steps row by row need.
type state struct {
	spec   *schemas.CleanSpec
	rep    *Report
	finder *pii.Finder
	with   func(kind, found string) string
	words  []string
}

func newState(spec *schemas.CleanSpec, seed uint64, rep *Report) (*state, error) {
	s := &state{spec: spec, rep: rep}
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
		key := binary.LittleEndian.AppendUint64([]byte("tunefleet pseudonyms "), seed)
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
func (s *state) row(r *data.Row) bool {
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
			s.rep.Dropped[Broken]++
			return false
		}
	}
	if len(s.spec.Labels) > 0 && !slices.Contains(s.spec.Labels, r.Label) {
		s.rep.Dropped[UnknownLabel]++
		return false
	}
	if n := len([]rune(r.Text + r.Prompt)); n < s.spec.MinChars || s.spec.MaxChars > 0 && n > s.spec.MaxChars {
		s.rep.Dropped[Length]++
		return false
	}
	if len(s.spec.Languages) > 0 {
		if l := DetectLanguage(r.Text + "\n" + r.Prompt + "\n" + r.Response); l != "" && !slices.Contains(s.spec.Languages, l) {
			s.rep.Dropped[Language]++
			return false
		}
	}
	if w := s.blocked(r); w != "" {
		s.rep.Dropped[Blocked]++
		return false
	}
	return s.personal(r)
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

func (s *state) personal(r *data.Row) bool {
	if s.finder == nil {
		return true
	}
	if s.spec.PII == "drop" {
		for _, p := range texts(r) {
			if f := s.finder.Find(*p); len(f) > 0 {
				s.rep.Dropped[PersonalData]++
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

// NewRepairer returns a function that changes a text as Stream does (normalization, boilerplate, masked personal data) and drops nothing. What it
// changes is counted in rep. Errors are CodeInvalid.
func NewRepairer(spec schemas.CleanSpec, seed uint64, rep *Report) (func(string) string, error) {
	only := schemas.CleanSpec{Normalize: spec.Normalize, Boilerplate: spec.Boilerplate, PII: spec.PII, PIITypes: spec.PIITypes, PIIPatterns: spec.PIIPatterns}
	if only.PII == "drop" {
		only.PII = ""
	}
	st, err := newState(&only, seed, rep)
	if err != nil {
		return nil, err
	}
	return func(text string) string {
		r := data.Row{Text: text}
		st.row(&r)
		return r.Text
	}, nil
}
