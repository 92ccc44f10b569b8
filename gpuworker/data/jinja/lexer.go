package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/runenames"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

type kind uint8

const (
	tData kind = iota
	tVarBegin
	tVarEnd
	tBlockBegin
	tBlockEnd
	tName
	tString
	tInt
	tFloat
	tOp
	tEOF
)

type token struct {
	kind kind
	text string
	line int
}

// SyntaxError says what is wrong with a template and in which line.
type SyntaxError struct {
	Line   int
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("cannot parse the template: line %d: %s", e.Line, e.Reason)
}

type lexer struct {
	src string
	i   int
	out []token
	// lineStart says that what came before ended with a newline.
	lineStart bool
}

// lex cuts a template into tokens, with trim_blocks and lstrip_blocks.
func lex(src string) ([]token, error) {
	src = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(src)
	l := &lexer{src: strings.TrimSuffix(src, "\n"), lineStart: true}
	for l.i < len(l.src) {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	return append(l.out, token{tEOF, "", l.line(l.i)}), nil
}

func (l *lexer) line(at int) int { return 1 + strings.Count(l.src[:at], "\n") }

func (l *lexer) fail(at int, format string, args ...any) error {
	return &SyntaxError{l.line(at), fmt.Sprintf(format, args...)}
}

func (l *lexer) add(k kind, text string, at int) { l.out = append(l.out, token{k, text, l.line(at)}) }

// next reads text up to a tag, and the tag.
func (l *lexer) next() error {
	start, at := l.i, -1
	for k := start; k+1 < len(l.src); k++ {
		if l.src[k] == '{' && strings.IndexByte("{%#", l.src[k+1]) >= 0 {
			at = k
			break
		}
	}
	if at < 0 {
		l.add(tData, l.src[start:], start)
		l.i = len(l.src)
		return nil
	}
	text, open := l.src[start:at], l.src[at+1]
	sign := byte(0)
	if at+2 < len(l.src) && (l.src[at+2] == '-' || l.src[at+2] == '+') {
		sign = l.src[at+2]
	}
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, unicode.IsSpace)
	case sign != '+' && open != '{':
		// A tag alone on its line takes the white space before it along.
		if n := strings.LastIndexByte(text, '\n') + 1; n > 0 || l.lineStart {
			if strings.TrimSpace(text[n:]) == "" {
				text = text[:n]
			}
		}
	}
	if text != "" {
		l.add(tData, text, start)
	}
	l.i = at + 2
	if sign != 0 {
		l.i++
	}
	switch open {
	case '#':
		return l.comment(at)
	case '%':
		if done, err := l.raw(at); done || err != nil {
			return err
		}
		l.add(tBlockBegin, "{%", at)
		return l.expression(at, tBlockEnd, "%}")
	}
	l.add(tVarBegin, "{{", at)
	return l.expression(at, tVarEnd, "}}")
}

// end moves behind the end of a tag: sign is what stands before it; blocks take one newline along, a minus all white space.
func (l *lexer) end(sign byte, block bool) {
	from := l.i
	switch {
	case sign == '-':
		l.i = len(l.src) - len(strings.TrimLeftFunc(l.src[l.i:], unicode.IsSpace))
	case block && sign != '+' && strings.HasPrefix(l.src[l.i:], "\n"):
		l.i++
	}
	l.lineStart = l.i > from && l.src[l.i-1] == '\n'
}

func (l *lexer) comment(at int) error {
	k := strings.Index(l.src[l.i:], "#}")
	if k < 0 {
		return l.fail(at, "a comment without end")
	}
	sign := byte(0)
	if k > 0 {
		sign = l.src[l.i+k-1]
	}
	l.i += k + 2
	l.end(sign, true)
	return nil
}

// raw reads {% raw %}...{% endraw %} when it begins here.
func (l *lexer) raw(at int) (bool, error) {
	word := func(i int, w string) int { // the end of a tag of one word, 0 when it is none
		rest := strings.TrimLeftFunc(l.src[i:], unicode.IsSpace)
		if !strings.HasPrefix(rest, w) {
			return 0
		}
		rest = strings.TrimLeftFunc(rest[len(w):], unicode.IsSpace)
		for _, end := range []string{"-%}", "+%}", "%}"} {
			if strings.HasPrefix(rest, end) {
				return len(l.src) - len(rest) + len(end)
			}
		}
		return 0
	}
	body := word(l.i, "raw")
	if body == 0 {
		return false, nil
	}
	l.i = body
	l.end(l.src[body-3], false) // trim_blocks does not reach behind {% raw %}
	from := l.i
	for k := from; k+1 < len(l.src); k++ {
		if l.src[k] != '{' || l.src[k+1] != '%' {
			continue
		}
		i, trim := k+2, false
		if i < len(l.src) && (l.src[i] == '-' || l.src[i] == '+') {
			trim = l.src[i] == '-'
			i++
		}
		end := word(i, "endraw")
		if end == 0 {
			continue
		}
		text := l.src[from:k]
		if trim {
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		} else if n := strings.LastIndexByte(text, '\n') + 1; n > 0 && strings.TrimSpace(text[n:]) == "" {
			text = text[:n]
		}
		l.add(tData, text, from)
		l.i = end
		l.end(l.src[end-3], true)
		return true, nil
	}
	return true, l.fail(at, "raw without endraw")
}

// expression reads the tokens of a tag up to its end.
func (l *lexer) expression(at int, endKind kind, end string) error {
	var open []byte
	for {
		l.i = len(l.src) - len(strings.TrimLeftFunc(l.src[l.i:], unicode.IsSpace))
		if l.i >= len(l.src) {
			return l.fail(at, "a tag without end")
		}
		if len(open) == 0 {
			sign := byte(0)
			rest := l.src[l.i:]
			if (rest[0] == '-' || rest[0] == '+' && endKind == tBlockEnd) && strings.HasPrefix(rest[1:], end) {
				sign, rest = rest[0], rest[1:]
				l.i++
			}
			if strings.HasPrefix(rest, end) {
				l.add(endKind, end, l.i)
				l.i += 2
				l.end(sign, endKind == tBlockEnd)
				return nil
			}
		}
		t, err := l.token()
		if err != nil {
			return err
		}
		if t.kind == tOp {
			switch t.text {
			case "(", "[", "{":
				open = append(open, t.text[0])
			case ")", "]", "}":
				if len(open) == 0 || open[len(open)-1] != map[byte]byte{')': '(', ']': '[', '}': '{'}[t.text[0]] {
					return l.fail(l.i, "unexpected %q", t.text)
				}
				open = open[:len(open)-1]
			}
		}
		l.out = append(l.out, t)
	}
}

func (l *lexer) token() (token, error) {
	start := l.i
	c := l.src[l.i]
	switch {
	case c == '"' || c == '\'':
		s, err := l.str(c)
		return token{tString, s, l.line(start)}, err
	case c >= '0' && c <= '9':
		return l.number(), nil
	}
	r, n := utf8.DecodeRuneInString(l.src[l.i:])
	if r == '_' || unicode.IsLetter(r) {
		for l.i < len(l.src) && (r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.Mn, r)) {
			l.i += n
			r, n = utf8.DecodeRuneInString(l.src[l.i:])
		}
		return token{tName, l.src[start:l.i], l.line(start)}, nil
	}
	for _, op := range []string{"//", "**", "==", "!=", "<=", ">="} {
		if strings.HasPrefix(l.src[l.i:], op) {
			l.i += 2
			return token{tOp, op, l.line(start)}, nil
		}
	}
	if strings.IndexByte("+-*/%~<>=.,:|()[]{}", c) >= 0 {
		l.i++
		return token{tOp, l.src[start:l.i], l.line(start)}, nil
	}
	return token{}, l.fail(start, "unexpected character %q", r)
}

// basedInteger is an integer in base 2, 8 or 16.
var basedInteger = regexp.MustCompile(`^0(?:[bB](?:_?[01])+|[oO](?:_?[0-7])+|[xX](?:_?[0-9a-fA-F])+)`)

func (l *lexer) number() token {
	start := l.i
	if n := len(basedInteger.FindString(l.src[l.i:])); n > 0 {
		l.i += n
		return token{tInt, l.src[start:l.i], l.line(start)}
	}
	digits := func() {
		for l.i < len(l.src) && (l.src[l.i] >= '0' && l.src[l.i] <= '9' || l.src[l.i] == '_') {
			l.i++
		}
	}
	digits()
	k := tInt
	if l.i+1 < len(l.src) && l.src[l.i] == '.' && l.src[l.i+1] >= '0' && l.src[l.i+1] <= '9' {
		k = tFloat
		l.i++
		digits()
	}
	if l.i < len(l.src) && (l.src[l.i] == 'e' || l.src[l.i] == 'E') {
		at := l.i
		l.i++
		if l.i < len(l.src) && (l.src[l.i] == '+' || l.src[l.i] == '-') {
			l.i++
		}
		n := l.i
		digits()
		if l.i == n {
			l.i = at
		} else {
			k = tFloat
		}
	}
	return token{k, strings.ReplaceAll(l.src[start:l.i], "_", ""), l.line(start)}
}

func (l *lexer) str(quote byte) (string, error) {
	start := l.i
	l.i++
	var b strings.Builder
	for l.i < len(l.src) {
		c := l.src[l.i]
		switch {
		case c == quote:
			l.i++
			return b.String(), nil
		case c != '\\':
			b.WriteByte(c)
			l.i++
		case l.i+1 >= len(l.src):
			return "", l.fail(start, "a string without end")
		default:
			l.i++
			if err := l.escape(&b); err != nil {
				return "", err
			}
		}
	}
	return "", l.fail(start, "a string without end")
}

// escape reads one of Python's escapes behind its backslash.
func (l *lexer) escape(b *strings.Builder) error {
	c := l.src[l.i]
	l.i++
	if k := strings.IndexByte(`\'"abfnrtv`, c); k >= 0 {
		b.WriteByte("\\'\"\a\b\f\n\r\t\v"[k])
		return nil
	}
	digits, base := 0, 16
	switch {
	case c == '\n':
		return nil
	case c == 'x':
		digits = 2
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case c == 'N':
		return l.named(b)
	case c >= '0' && c <= '7':
		base = 8
		l.i--
		for digits < 3 && l.i+digits < len(l.src) && l.src[l.i+digits] >= '0' && l.src[l.i+digits] <= '7' {
			digits++
		}
	default:
		b.WriteByte('\\')
		b.WriteByte(c)
		return nil
	}
	n := 0
	for k := range digits {
		if l.i+k >= len(l.src) {
			return l.fail(l.i, "a cut escape")
		}
		d := strings.IndexByte("0123456789abcdef", l.src[l.i+k]|0x20)
		if l.src[l.i+k] >= '0' && l.src[l.i+k] <= '9' {
			d = int(l.src[l.i+k] - '0')
		}
		if d < 0 || d >= base {
			return l.fail(l.i, "a broken escape")
		}
		n = n*base + d
	}
	if n > unicode.MaxRune {
		return l.fail(l.i, "a broken escape")
	}
	pyjson.WriteRune(b, rune(n))
	l.i += digits
	return nil
}

// named reads the name of a character behind \N. Python's further names (aliases, and those that are made of Hangul) are not known.
func (l *lexer) named(b *strings.Builder) error {
	name, _, ok := strings.Cut(l.src[l.i:], "}")
	if !ok || !strings.HasPrefix(name, "{") {
		return l.fail(l.i, `\N is not followed by {NAME}`)
	}
	want := strings.ToUpper(name[1:])
	r, ok := characters()[want]
	if code, han := strings.CutPrefix(want, "CJK UNIFIED IDEOGRAPH-"); han {
		n, err := strconv.ParseUint(code, 16, 21)
		r, ok = rune(n), err == nil && strings.HasPrefix(runenames.Name(rune(n)), "<CJK Ideograph")
	}
	if !ok {
		return l.fail(l.i, "there is no character %q", name[1:])
	}
	b.WriteRune(r)
	l.i += len(name) + 1
	return nil
}

// characters are the named characters of Unicode, collected when the first is asked for.
var characters = sync.OnceValue(func() map[string]rune {
	out := map[string]rune{}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if name := runenames.Name(r); name != "" && name[0] != '<' {
			out[name] = r
		}
	}
	return out
})
