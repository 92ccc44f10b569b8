package chat

import (
	"errors"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// errSyntax says that a text is no Python expression.
var errSyntax = errors.New("not a Python expression")

// pyParser reads a Python expression (the grammar of Python 3.11, `ast.parse(s, mode="eval")`): the lexical part. Like Python's parser it
// does not check what only the compiler does.
type pyParser struct {
	s string
	i int
	// open counts brackets: within them line ends and comments are blanks.
	open int
	// depth counts nested expressions.
	depth int
}

func runeAt(s string, i int) (rune, int) { return utf8.DecodeRuneInString(s[i:]) }

// space skips blanks.
func (p *pyParser) space() {
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == ' ' || c == '\t' || c == '\f', c == '\n' && p.open > 0:
			p.i++
		case c == '\\' && strings.HasPrefix(p.s[p.i+1:], "\n") && p.i+2 < len(p.s):
			p.i += 2
		case c == '#' && p.open > 0:
			p.comment()
		default:
			return
		}
	}
}

func (p *pyParser) comment() {
	if n := strings.IndexByte(p.s[p.i:], '\n'); n >= 0 {
		p.i += n
	} else {
		p.i = len(p.s)
	}
}

// ended reports whether nothing but blanks, comments and line ends is left.
func (p *pyParser) ended() bool {
	p.open++ // an expression may be followed by empty lines
	p.space()
	p.open--
	return p.i == len(p.s)
}

// take skips blanks and the given operator, unless a longer one begins there.
func (p *pyParser) take(op string, notBefore ...string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.s[p.i:], op)
	if !ok {
		return false
	}
	for _, n := range notBefore {
		if strings.HasPrefix(rest, n) {
			return false
		}
	}
	p.i += len(op)
	return true
}

func begins(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.Is(unicode.Nl, r) }

func continues(r rune) bool {
	return begins(r) || unicode.In(r, unicode.Nd, unicode.Mn, unicode.Mc, unicode.Pc)
}

// word is the name or keyword at the current place, "" for none. It is not taken.
func (p *pyParser) word() string {
	p.space()
	for i, r := range p.s[p.i:] {
		if !continues(r) || i == 0 && !begins(r) {
			return p.s[p.i : p.i+i]
		}
	}
	return p.s[p.i:]
}

// takeWord takes a keyword.
func (p *pyParser) takeWord(w string) bool {
	if p.word() != w {
		return false
	}
	p.i += len(w)
	return true
}

func keyword(w string) bool {
	switch w {
	case "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else", "except",
		"finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try",
		"while", "with", "yield":
		return true
	}
	return false
}

// name takes a name that is no keyword; Python reads names in NFKC.
func (p *pyParser) name() (string, bool) {
	w := p.word()
	if w == "" || keyword(w) {
		return "", false
	}
	p.i += len(w)
	return norm.NFKC.String(w), true
}

//nolint:gochecknoglobals // constant expressions
var (
	rePyWhole = regexp.MustCompile(`^(?:0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+)`)
	rePyFloat = regexp.MustCompile(`^(?:(?:[0-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*|[0-9](?:_?[0-9])*\.?)(?:[eE][+-]?[0-9](?:_?[0-9])*)?[jJ]?`)
	rePyEnd   = regexp.MustCompile(`^(?:and|else|for|if|in|is|not|or)(?:[^A-Za-z0-9_]|$)`)
)

// number reads a number: int64, *big.Int, float64, or pyOdd for an imaginary one.
func (p *pyParser) number() (any, error) {
	rest := p.s[p.i:]
	t := rePyWhole.FindString(rest)
	whole := t != ""
	if !whole {
		t = rePyFloat.FindString(rest)
	}
	if t == "" {
		return nil, errSyntax
	}
	p.i += len(t)
	// Only a keyword that may follow an operand may follow the digits at once.
	if r, n := runeAt(p.s, p.i); n > 0 && continues(r) && !rePyEnd.MatchString(p.s[p.i:]) {
		return nil, errSyntax
	}
	digits := strings.ReplaceAll(t, "_", "")
	switch {
	case strings.ContainsAny(digits[len(digits)-1:], "jJ"):
		return pyOdd{"complex"}, nil
	case !whole && strings.Trim(digits, "0123456789") != "":
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, errSyntax
		}
		return f, nil
	case !whole && digits[0] == '0' && strings.Trim(digits, "0") != "":
		return nil, errSyntax // Python refuses leading zeros
	case !whole:
		digits = strings.TrimLeft(digits[:len(digits)-1], "0") + digits[len(digits)-1:]
	}
	n, ok := new(big.Int).SetString(digits, 0)
	switch {
	case !ok, len(digits) > 4300 && !whole: // Python's limit
		return nil, errSyntax
	case n.IsInt64():
		return n.Int64(), nil
	}
	return n, nil
}

// stringPrefix is the length of the prefix of a string literal that begins at the current place, -1 when none begins there.
func (p *pyParser) stringPrefix() int {
	n := 0
	for n < 2 && p.i+n < len(p.s) && strings.IndexByte("rRbBuUfF", p.s[p.i+n]) >= 0 {
		n++
	}
	if p.i+n >= len(p.s) || p.s[p.i+n] != '"' && p.s[p.i+n] != '\'' {
		return -1
	}
	switch strings.ToLower(p.s[p.i : p.i+n]) {
	case "", "r", "b", "u", "f", "br", "rb", "fr", "rf":
		return n
	}
	return -1
}

// strings reads string literals that follow each other as one node.
func (p *pyParser) strings() (*pyNode, error) {
	var b strings.Builder
	kinds := map[bool]bool{}
	format := false
	for p.space(); ; p.space() {
		n := p.stringPrefix()
		if n < 0 {
			break
		}
		prefix := strings.ToLower(p.s[p.i : p.i+n])
		p.i += n
		bytes := strings.Contains(prefix, "b")
		kinds[bytes], format = true, format || strings.Contains(prefix, "f")
		if err := p.str(&b, strings.Contains(prefix, "r"), bytes); err != nil {
			return nil, err
		}
	}
	switch {
	case kinds[true] && kinds[false]:
		return nil, errSyntax // Python does not mix them
	case format:
		return &pyNode{kind: pyOther}, nil
	case kinds[true]:
		return &pyNode{kind: pyConst, value: pyOdd{"bytes"}}, nil
	}
	return &pyNode{kind: pyConst, value: b.String()}, nil
}

func (p *pyParser) str(b *strings.Builder, raw, bytes bool) error {
	quote := p.s[p.i : p.i+1]
	long := strings.HasPrefix(p.s[p.i:], strings.Repeat(quote, 3))
	if long {
		quote = strings.Repeat(quote, 3)
	}
	p.i += len(quote)
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case strings.HasPrefix(p.s[p.i:], quote):
			p.i += len(quote)
			return nil
		case c == '\n' && !long, bytes && c >= utf8.RuneSelf:
			return errSyntax
		case c != '\\':
			b.WriteByte(c)
			p.i++
		case p.i+1 >= len(p.s):
			return errSyntax
		case raw:
			b.WriteString(p.s[p.i : p.i+2])
			p.i += 2
		default:
			if err := p.escape(b, bytes); err != nil {
				return err
			}
		}
	}
	return errSyntax
}

func (p *pyParser) escape(b *strings.Builder, bytes bool) error {
	c := p.s[p.i+1]
	if k := strings.IndexByte(`\'"abfnrtv`, c); k >= 0 {
		b.WriteByte("\\'\"\a\b\f\n\r\t\v"[k])
		p.i += 2
		return nil
	}
	digits, base, at := 0, 16, p.i+2
	switch {
	case c == '\n':
		p.i += 2
		return nil
	case c == 'x':
		digits = 2
	case c == 'u' && !bytes:
		digits = 4
	case c == 'U' && !bytes:
		digits = 8
	case c >= '0' && c <= '7':
		base, at = 8, p.i+1
		for digits < 3 && at+digits < len(p.s) && p.s[at+digits] >= '0' && p.s[at+digits] <= '7' {
			digits++
		}
	case c == 'N' && !bytes:
		return errSyntax // names of characters are not known here
	default: // Python keeps an unknown escape as it is
		b.WriteByte('\\')
		p.i++
		return nil
	}
	if at+digits > len(p.s) {
		return errSyntax
	}
	n, err := strconv.ParseUint(p.s[at:at+digits], base, 32)
	if err != nil || n > unicode.MaxRune {
		return errSyntax
	}
	pyjson.WriteRune(b, rune(n))
	p.i = at + digits
	return nil
}
