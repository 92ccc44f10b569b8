package hftok

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// piece is a part of the text on its way through the pre-tokenizers. first says that it begins at the start of the text.
type piece struct {
	text  string
	first bool
}

// step is one pre-tokenizer.
type step func(in []piece) []piece

// pretokenizerJSON is a pre-tokenizer of tokenizer.json; the fields are those of the types that are built.
type pretokenizerJSON struct {
	Type           string             `json:"type"`
	Pretokenizers  []pretokenizerJSON `json:"pretokenizers"`
	Pattern        patternJSON        `json:"pattern"`
	Behavior       string             `json:"behavior"`
	Invert         bool               `json:"invert"`
	AddPrefixSpace bool               `json:"add_prefix_space"`
	UseRegex       *bool              `json:"use_regex"`
	Individual     bool               `json:"individual_digits"`
	Replacement    string             `json:"replacement"`
	PrependScheme  string             `json:"prepend_scheme"`
	Split          *bool              `json:"split"`
}

type patternJSON struct {
	String string `json:"String"`
	Regex  string `json:"Regex"`
}

// errUnsupported marks parts of a tokenizer that are not built here.
type unsupportedError struct{ what string }

// Error implements error.
func (e *unsupportedError) Error() string { return e.what + " is not built" }

func unsupported(format string, args ...any) error {
	return &unsupportedError{fmt.Sprintf(format, args...)}
}

// flat lists the pre-tokenizers of a tree of sequences.
func (p *pretokenizerJSON) flat() []pretokenizerJSON {
	if p == nil {
		return nil
	}
	if p.Type != "Sequence" {
		return []pretokenizerJSON{*p}
	}
	var out []pretokenizerJSON
	for i := range p.Pretokenizers {
		out = append(out, p.Pretokenizers[i].flat()...)
	}
	return out
}

func newStep(p pretokenizerJSON) (step, error) {
	switch p.Type {
	case "ByteLevel":
		return byteLevelStep(p), nil
	case "Split":
		m, err := newMatcher(p.Pattern)
		if err != nil {
			return nil, err
		}
		return splitStep(m, p.Behavior, p.Invert)
	case "Digits":
		behavior := "Contiguous"
		if p.Individual {
			behavior = "Isolated"
		}
		return splitStep(runeMatcher(unicode.IsNumber), behavior, false)
	case "Punctuation":
		behavior := p.Behavior
		if behavior == "" {
			behavior = "Isolated"
		}
		return splitStep(runeMatcher(isPunctuation), behavior, false)
	case "Metaspace":
		return metaspaceStep(p)
	}
	return nil, unsupported("the pre-tokenizer %s", p.Type)
}

func isPunctuation(r rune) bool {
	if r < utf8.RuneSelf {
		alnum := r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
		return r > ' ' && r < 0x7f && !alnum
	}
	for _, x := range punctuationSince {
		if r >= x[0] && r <= x[1] {
			return !unicode.IsPunct(r)
		}
	}
	return unicode.IsPunct(r)
}

// punctuationSince are the code points whose being punctuation has changed since Unicode 8, which the library's table has
// (the crate unicode_categories 0.1.1).
//
//nolint:gochecknoglobals // a constant table
var punctuationSince = [...][2]rune{
	{0x61d, 0x61d}, {0x9fd, 0x9fd}, {0xa76, 0xa76}, {0xc77, 0xc77}, {0xc84, 0xc84}, {0x166d, 0x166d}, {0x1b7d, 0x1b7e}, {0x2e43, 0x2e4f},
	{0x2e52, 0x2e5d}, {0x10ead, 0x10ead}, {0x10f55, 0x10f59}, {0x10f86, 0x10f89}, {0x111c9, 0x111c9}, {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d},
	{0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46}, {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2},
	{0x11b00, 0x11b09}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71}, {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a},
	{0x16fe2, 0x16fe2}, {0x1e95e, 0x1e95f},
}

// matcher returns the spans of all matches, in order.
type matcher func(s string) [][]int

func runeMatcher(is func(rune) bool) matcher {
	return func(s string) [][]int {
		var out [][]int
		for i, r := range s {
			if is(r) {
				out = append(out, []int{i, i + utf8.RuneLen(r)})
			}
		}
		return out
	}
}

func newMatcher(p patternJSON) (matcher, error) {
	if p.Regex == "" {
		return func(s string) [][]int {
			var out [][]int
			for i := 0; p.String != ""; {
				k := strings.Index(s[i:], p.String)
				if k < 0 {
					break
				}
				out = append(out, []int{i + k, i + k + len(p.String)})
				i += k + len(p.String)
			}
			return out
		}, nil
	}
	if next := knownPattern(p.Regex); next != nil {
		return func(s string) [][]int {
			var out [][]int
			for i := 0; i < len(s); {
				j := next(s, i)
				out = append(out, []int{i, j})
				i = j
			}
			return out
		}, nil
	}
	re, err := translate(p.Regex)
	if err != nil {
		return nil, err
	}
	return func(s string) [][]int { return re.FindAllStringIndex(s, -1) }, nil
}

// translate turns a regular expression of Oniguruma, as far as it has no look-around or other extensions, into Go's: \s and \d are Unicode
// classes there, and $ is the end of a line.
func translate(re string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("(?m)")
	inClass := false
	for i := 0; i < len(re); i++ {
		c := re[i]
		switch {
		case c == '\\' && i+1 < len(re):
			i++
			class := ""
			switch re[i] {
			case 's':
				class = `\t\n\v\f\r \x{85}\p{Z}`
			case 'd':
				class = `\p{Nd}`
			case 'S', 'D', 'w', 'W', 'h', 'H', 'R', 'X', 'G', 'K', 'k', 'g', 'Z', 'b', 'B', 'A', 'z':
				return nil, unsupported(`the expression \%c`, re[i])
			default:
				b.WriteByte('\\')
				b.WriteByte(re[i])
				continue
			}
			if !inClass {
				class = "[" + class + "]"
			}
			b.WriteString(class)
			continue
		case c == '[' && inClass, c == '&' && inClass && strings.HasPrefix(re[i:], "&&"):
			return nil, unsupported("a nested character class")
		case c == '[':
			inClass = true
		case c == ']':
			inClass = false
		case c == '(' && strings.HasPrefix(re[i:], "(?") && !strings.HasPrefix(re[i:], "(?:"), (c == '*' || c == '+' || c == '?') && !inClass && i+1 < len(re) && re[i+1] == '+':
			return nil, unsupported("the expression %q", re)
		}
		b.WriteByte(c)
	}
	out, err := regexp.Compile(b.String())
	if err != nil {
		return nil, unsupported("the expression %q", re)
	}
	return out, nil
}

// splitStep cuts pieces at matches; behavior is what the tokenizers library calls SplitDelimiterBehavior.
func splitStep(m matcher, behavior string, invert bool) (step, error) {
	switch behavior {
	case "Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext":
	default:
		return nil, unsupported("the split behavior %q", behavior)
	}
	return func(in []piece) []piece {
		out := make([]piece, 0, len(in)*2)
		for _, p := range in {
			out = appendSplit(out, p, m(p.text), behavior, invert)
		}
		return out
	}, nil
}

type part struct {
	from, to int
	match    bool
}

func appendSplit(out []piece, p piece, matches [][]int, behavior string, invert bool) []piece {
	var parts []part
	at := 0
	for _, m := range matches {
		if m[0] > at {
			parts = append(parts, part{at, m[0], invert})
		}
		parts = append(parts, part{m[0], m[1], !invert})
		at = m[1]
	}
	if at < len(p.text) {
		parts = append(parts, part{at, len(p.text), invert})
	}
	parts = mergeParts(parts, behavior)
	for _, x := range parts {
		if x.from < x.to && (behavior != "Removed" || !x.match) {
			out = append(out, piece{p.text[x.from:x.to], p.first && x.from == 0})
		}
	}
	return out
}

func mergeParts(parts []part, behavior string) []part {
	var out []part
	switch behavior {
	case "Contiguous":
		for _, x := range parts {
			if n := len(out); n > 0 && out[n-1].match == x.match {
				out[n-1].to = x.to
			} else {
				out = append(out, x)
			}
		}
	case "MergedWithPrevious":
		before := false
		for _, x := range parts {
			if n := len(out); x.match && !before && n > 0 {
				out[n-1].to = x.to
			} else {
				out = append(out, x)
			}
			before = x.match
		}
	case "MergedWithNext":
		after := false
		for i := len(parts) - 1; i >= 0; i-- {
			x := parts[i]
			if n := len(out); x.match && !after && n > 0 {
				out[n-1].from = x.from
			} else {
				out = append(out, x)
			}
			after = x.match
		}
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
	default:
		return parts
	}
	return out
}

func byteLevelStep(p pretokenizerJSON) step {
	regex := p.UseRegex == nil || *p.UseRegex
	return func(in []piece) []piece {
		out := make([]piece, 0, len(in)*4)
		for _, x := range in {
			s := x.text
			if p.AddPrefixSpace && !strings.HasPrefix(s, " ") {
				s = " " + s
			}
			for i := 0; i < len(s); {
				j := len(s)
				if regex {
					j = nextGPT2(s, i)
				}
				out = append(out, piece{toByteChars(s[i:j]), x.first && i == 0})
				i = j
			}
		}
		return out
	}
}

func metaspaceStep(p pretokenizerJSON) (step, error) {
	split := p.Split == nil || *p.Split
	rep := p.Replacement
	if utf8.RuneCountInString(rep) != 1 {
		return nil, unsupported("the replacement %q", rep)
	}
	scheme := p.PrependScheme
	if scheme == "" {
		scheme = "always"
		if !p.AddPrefixSpace {
			scheme = "never"
		}
	}
	return func(in []piece) []piece {
		out := make([]piece, 0, len(in))
		for _, x := range in {
			s := strings.ReplaceAll(x.text, " ", rep)
			if !strings.HasPrefix(s, rep) && (scheme == "always" || scheme == "first" && x.first) {
				s = rep + s
			}
			if !split {
				out = append(out, piece{s, x.first})
				continue
			}
			m, _ := newMatcher(patternJSON{String: rep}) // a literal always compiles
			out = appendSplit(out, piece{s, x.first}, m(s), "MergedWithNext", false)
		}
		return out
	}, nil
}

//nolint:gochecknoglobals // constant tables: how the byte-level pre-tokenizer writes bytes as characters (as in GPT-2's encoder)
var (
	byteChar = func() (t [256]rune) {
		next := rune(256)
		for b := range t {
			if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
				t[b] = rune(b)
			} else {
				t[b] = next
				next++
			}
		}
		return t
	}()
	charByte = func() map[rune]byte {
		m := make(map[rune]byte, 256)
		for b, r := range byteChar {
			m[r] = byte(b)
		}
		return m
	}()
)

func toByteChars(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/4)
	for i := range len(s) {
		b.WriteRune(byteChar[s[i]])
	}
	return b.String()
}

// fromByteChars undoes toByteChars; false when a character stands for no byte.
func fromByteChars(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		b, ok := charByte[r]
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}
