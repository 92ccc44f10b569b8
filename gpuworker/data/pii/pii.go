// Package pii finds personal data in Chinese and English text: e-mail addresses, phone numbers, Chinese resident ids, bank cards, IBANs, IP
// addresses, passports and postal addresses. It works by patterns; what has a checksum (GB 11643 for resident ids, ISO 7812 for cards, ISO
// 13616 for IBANs) must pass it, and the words before a number decide where its digits alone do not: an order number is no phone.
//
// Positions count Unicode code points. Full-width digits and letters are read as their ASCII forms.
package pii

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// The types of spans, besides the names of a user's own patterns.
const (
	Email      = "email"
	Phone      = "phone"
	ResidentID = "resident_id"
	BankCard   = "bank_card"
	IBAN       = "iban"
	IP         = "ip"
	Passport   = "passport"
	Address    = "address"
)

// Types lists the built-in types.
func Types() []string {
	return []string{Email, Phone, ResidentID, BankCard, IBAN, IP, Passport, Address}
}

// Span is one find: code points [Start, End) of the text.
type Span struct {
	Start int    `json:"start"`
	End   int    `json:"end"`
	Type  string `json:"type"`
}

// Config says what to look for.
type Config struct {
	// Types are the built-in types to find; empty: all.
	Types []string
	// Patterns are a user's own: name of the type to regular expression (RE2).
	Patterns map[string]string
}

// Finder finds personal data. It is immutable and safe for concurrent use.
type Finder struct {
	types map[string]bool
	own   []ownPattern
}

type ownPattern struct {
	name string
	re   *regexp.Regexp
}

// New makes a Finder. Errors are CodeInvalid, all at once.
func New(c Config) (*Finder, error) {
	f := &Finder{types: map[string]bool{}}
	var problems []string
	for _, t := range c.Types {
		if !slices.Contains(Types(), t) {
			problems = append(problems, fmt.Sprintf("type %q is unknown (%s)", t, strings.Join(Types(), ", ")))
		}
		f.types[t] = true
	}
	if len(c.Types) == 0 {
		for _, t := range Types() {
			f.types[t] = true
		}
	}
	for name, p := range c.Patterns {
		re, err := regexp.Compile(p)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("pattern %s: %v", name, err))
		case re.MatchString(""):
			problems = append(problems, fmt.Sprintf("pattern %s matches nothing at all everywhere", name))
		default:
			f.own = append(f.own, ownPattern{name, re})
		}
	}
	slices.SortFunc(f.own, func(a, b ownPattern) int { return cmp.Compare(a.name, b.name) })
	if problems != nil {
		slices.Sort(problems)
		return nil, schemas.Errorf(schemas.CodeInvalid, "pii", "%s", strings.Join(problems, "; "))
	}
	return f, nil
}

// doc is a text made ready: its code points with full-width forms folded, the same as a string, and where each byte of that is.
type doc struct {
	r []rune
	s string
	// at maps a byte of s to its code point; nil when they are the same.
	at []int32
}

func newDoc(text string) *doc {
	d := &doc{}
	ascii := true
	for i := range len(text) {
		if text[i] >= 0x80 {
			ascii = false
			break
		}
	}
	d.r = []rune(text)
	if ascii {
		d.s = text
		return d
	}
	for i, c := range d.r {
		d.r[i] = fold(c)
	}
	d.s = string(d.r)
	d.at = make([]int32, len(d.s)+1)
	n := int32(0)
	for i := range d.s {
		d.at[i] = n
		n++
	}
	d.at[len(d.s)] = n
	return d
}

// fold reads full-width forms as ASCII, and dashes and blanks as the plain ones.
func fold(c rune) rune {
	switch {
	case c >= '！' && c <= '～' && c != '，' && c != '；' && c != '！' && c != '？':
		return c - '！' + '!'
	case c == '\u3000', c == '\u00a0', c == '\u2009', c == '\u202f':
		return ' '
	case c == '‐', c == '‑', c == '–', c == '—', c == '−':
		return '-'
	}
	return c
}

// rune of a byte offset.
func (d *doc) pos(b int) int {
	if d.at == nil {
		return b
	}
	return int(d.at[b])
}

func (d *doc) char(i int) rune {
	if i < 0 || i >= len(d.r) {
		return 0
	}
	return d.r[i]
}

// Find returns the spans of a text in ascending order without overlap: of two that do the more certain one stays.
func (f *Finder) Find(text string) []Span {
	if text == "" {
		return nil
	}
	d := newDoc(text)
	var found []Span // in the order of certainty
	add := func(t string, spans []Span) {
		if f.types[t] {
			found = append(found, spans...)
		}
	}
	for _, o := range f.own {
		for _, m := range o.re.FindAllStringIndex(text, -1) {
			found = append(found, Span{runes(text, m[0]), runes(text, m[1]), o.name})
		}
	}
	digits, at := false, false
	for _, c := range d.r {
		digits = digits || isDigit(c)
		at = at || c == '@' || c == 'a' || c == 'A'
	}
	if at {
		add(Email, d.emails())
	}
	if digits {
		add(IBAN, d.ibans())
		add(Passport, d.passports())
		ips := d.ips()
		add(IP, ips)
		numbers := d.numbers(ips)
		for _, s := range numbers {
			add(s.Type, []Span{s})
		}
		add(Address, d.chineseAddresses())
		add(Address, d.englishAddresses())
	} else {
		add(IP, d.ips()) // ::ffff:face has no digit, but is looked for by its colons
	}
	return settle(found)
}

func runes(text string, b int) int { return len([]rune(text[:b])) }

// settle drops spans that overlap an earlier one and sorts the rest.
func settle(found []Span) []Span {
	var out []Span
	for _, s := range found {
		if !slices.ContainsFunc(out, func(o Span) bool { return s.Start < o.End && o.Start < s.End }) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
	return out
}

// Replace rewrites the finds of a text by with(type, found text) and returns how many there were.
func (f *Finder) Replace(text string, with func(kind, found string) string) (string, int) {
	spans := f.Find(text)
	if len(spans) == 0 {
		return text, 0
	}
	r := []rune(text)
	var b strings.Builder
	last := 0
	for _, s := range spans {
		b.WriteString(string(r[last:s.Start]))
		b.WriteString(with(s.Type, string(r[s.Start:s.End])))
		last = s.End
	}
	b.WriteString(string(r[last:]))
	return b.String(), len(spans)
}

// Mask is a replacement by the type: [EMAIL].
func Mask(kind, _ string) string { return "[" + strings.ToUpper(kind) + "]" }

// Pseudonyms returns a replacement by the type and a short name that is always the same for the same find and key, and cannot be turned
// back without the key: [EMAIL_3f9a2c41]. Blanks and separators in numbers do not matter.
func Pseudonyms(key []byte) func(kind, found string) string {
	return func(kind, found string) string {
		h := hmac.New(sha256.New, key)
		canonical := strings.ToLower(found)
		if kind != Email && kind != Address {
			canonical = strings.Map(func(r rune) rune {
				if strings.ContainsRune(" -.()/", r) {
					return -1
				}
				return fold(r)
			}, canonical)
		}
		_, _ = h.Write([]byte(kind + "\x00" + canonical)) // a hash does not fail
		return "[" + strings.ToUpper(kind) + "_" + hex.EncodeToString(h.Sum(nil)[:4]) + "]"
	}
}

func isDigit(c rune) bool  { return c >= '0' && c <= '9' }
func isLetter(c rune) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isAlnum(c rune) bool  { return isDigit(c) || isLetter(c) }
func isHan(c rune) bool    { return c >= 0x3400 && c <= 0x9fff }
