package data

import (
	"crypto/sha256"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/tunefleet/tunefleet/schemas"
)

// Cleaned counts what cleaning did; the keys of a prep result's counters.
type Cleaned struct {
	Read, Duplicates, Mislabelled, UnknownLabel, Length, PIIMasked, PIIDropped, Kept int
}

// Counters returns the counts by name.
func (c Cleaned) Counters() map[string]int64 {
	return map[string]int64{"rows_read": int64(c.Read), "dropped_duplicates": int64(c.Duplicates), "dropped_mislabelled": int64(c.Mislabelled),
		"dropped_unknown_label": int64(c.UnknownLabel), "dropped_length": int64(c.Length), "masked_pii": int64(c.PIIMasked),
		"dropped_pii": int64(c.PIIDropped), "rows_kept": int64(c.Kept)}
}

// Clean repairs and drops rows in a fixed order: normalization, labels, length, PII, duplicates, rows whose label disagrees with their
// group's consensus. Kept rows keep their order and are numbered anew.
func Clean(rows []Row, spec schemas.CleanSpec) ([]Row, Cleaned) {
	c := Cleaned{Read: len(rows)}
	seen := map[[32]byte]bool{}
	out := make([]Row, 0, len(rows))
	for _, r := range rows {
		if spec.Normalize {
			for _, p := range []*string{&r.Text, &r.Prompt, &r.Response, &r.System, &r.Explanation, &r.Label} {
				*p = Normalize(*p)
			}
		}
		if len(spec.Labels) > 0 && !slices.Contains(spec.Labels, r.Label) {
			c.UnknownLabel++
			continue
		}
		if n := len([]rune(r.Text + r.Prompt)); n < spec.MinChars || spec.MaxChars > 0 && n > spec.MaxChars {
			c.Length++
			continue
		}
		if spec.PII != "" {
			n := 0
			for _, p := range []*string{&r.Text, &r.Prompt, &r.Response} {
				var k int
				*p, k = MaskPII(*p)
				n += k
			}
			if n > 0 && spec.PII == "drop" {
				c.PIIDropped++
				continue
			}
			c.PIIMasked += n
		}
		if spec.Dedup {
			h := sha256.Sum256([]byte(strings.ToLower(Normalize(r.Text) + "\x00" + Normalize(r.Prompt) + "\x00" + Normalize(r.Response))))
			if seen[h] {
				c.Duplicates++
				continue
			}
			seen[h] = true
		}
		out = append(out, r)
	}
	if spec.Mislabelled == "drop" {
		n := len(out)
		out = dropMislabelled(out)
		c.Mislabelled = n - len(out)
	}
	for i := range out {
		out[i].Index = i
	}
	c.Kept = len(out)
	return out, c
}

// dropMislabelled drops rows whose label differs from the strict majority of their group: rows that say the same in other words.
func dropMislabelled(rows []Row) []Row {
	votes := map[string]map[string]int{}
	for _, r := range rows {
		if votes[r.Group] == nil {
			votes[r.Group] = map[string]int{}
		}
		votes[r.Group][r.Label]++
	}
	return slices.DeleteFunc(rows, func(r Row) bool {
		if r.Group == "" || r.Label == "" {
			return false
		}
		total := 0
		for _, n := range votes[r.Group] {
			total += n
		}
		for label, n := range votes[r.Group] {
			if 2*n > total {
				return label != r.Label
			}
		}
		return false
	})
}

// Normalize applies Unicode NFC, drops control characters and zero-width marks, and folds each run of blanks to one space, keeping line
// breaks.
func Normalize(s string) string {
	var b strings.Builder
	space := false
	for _, r := range norm.NFC.String(s) {
		switch {
		case r == '\n':
			if str := strings.TrimRight(b.String(), " "); len(str) != b.Len() {
				b.Reset()
				b.WriteString(str)
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
	return strings.TrimSpace(b.String())
}

// pii lists the patterns in the order they are tried; check, when set, confirms a match by its checksum.
var pii = []struct {
	mask  string
	re    *regexp.Regexp
	check func(string) bool
}{
	{"[EMAIL]", regexp.MustCompile(`[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}`), nil},
	{"[IBAN]", regexp.MustCompile(`\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b`), validIBAN},
	{"[CARD]", regexp.MustCompile(`\b\d(?:[ -]?\d){12,18}\b`), validLuhn},
	{"[IP]", regexp.MustCompile(`\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b`), nil},
	{"[NAME]", regexp.MustCompile(`\b(?:Mr|Mrs|Ms|Dr|Prof)\.? \p{Lu}\p{L}+(?: \p{Lu}\p{L}+)?`), nil},
	{"[PHONE]", regexp.MustCompile(`(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?|\b\d{2,4}[ .-])\d{3,4}[ .-]\d{3,4}\b`), nil},
}

// MaskPII replaces e-mail addresses, IBANs and card numbers (with valid checksums), IP addresses, names after a title and phone numbers by
// their kind, and counts them.
func MaskPII(s string) (string, int) {
	n := 0
	for _, p := range pii {
		s = p.re.ReplaceAllStringFunc(s, func(m string) string {
			if p.check != nil && !p.check(m) {
				return m
			}
			n++
			return p.mask
		})
	}
	return s, n
}

// validLuhn checks the check digit of card numbers (ISO/IEC 7812).
func validLuhn(s string) bool {
	sum, double := 0, false
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] < '0' || s[i] > '9' {
			continue
		}
		d := int(s[i] - '0')
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		double = !double
	}
	return sum%10 == 0
}

// validIBAN checks the remainder modulo 97 (ISO 13616).
func validIBAN(s string) bool {
	s = strings.ReplaceAll(s, " ", "")
	if len(s) < 15 || len(s) > 34 {
		return false
	}
	rem := 0
	for _, c := range s[4:] + s[:4] {
		if c >= 'A' {
			rem = (rem*100 + int(c-'A') + 10) % 97
		} else {
			rem = (rem*10 + int(c-'0')) % 97
		}
	}
	return rem == 1
}
