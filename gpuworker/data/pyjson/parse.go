package pyjson

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth bounds how deep arrays and objects may be nested; Python gives up near the same depth.
const MaxDepth = 990

// maxDigits is Python's limit of digits in an integer.
const maxDigits = 4300

// SyntaxError says what is wrong and where, in bytes from the start.
type SyntaxError struct {
	Offset int
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("cannot parse JSON: %s at byte %d", e.Reason, e.Offset)
}

// Parse reads one JSON value and nothing behind it but white space, as json.loads: NaN and Infinity are numbers, of duplicate keys the last
// value wins, control characters within strings are refused. Half surrogates are kept (HasSurrogate). The error is a *SyntaxError.
func Parse(text string) (any, error) {
	p := &parser{s: text}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.i != len(p.s) {
		return nil, p.fail("extra data")
	}
	return v, nil
}

// ParseObject is Parse for text that must be an object.
func ParseObject(text string) (*Object, error) {
	v, err := Parse(text)
	if err != nil {
		return nil, err
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, &SyntaxError{Reason: "not an object"}
	}
	return o, nil
}

type parser struct {
	s string
	i int
}

func (p *parser) fail(format string, args ...any) error {
	return &SyntaxError{Offset: p.i, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) space() {
	for p.i < len(p.s) && (p.s[p.i] == ' ' || p.s[p.i] == '\n' || p.s[p.i] == '\t' || p.s[p.i] == '\r') {
		p.i++
	}
}

func (p *parser) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, p.fail("nested deeper than %d", MaxDepth)
	}
	if p.i >= len(p.s) {
		return nil, p.fail("a value is missing")
	}
	switch p.s[p.i] {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		return p.str()
	}
	for _, w := range [...]struct {
		text  string
		value any
	}{{"null", nil}, {"true", true}, {"false", false}, {"NaN", math.NaN()}, {"Infinity", math.Inf(1)}, {"-Infinity", math.Inf(-1)}} {
		if strings.HasPrefix(p.s[p.i:], w.text) {
			p.i += len(w.text)
			return w.value, nil
		}
	}
	return p.number()
}

func (p *parser) object(depth int) (any, error) {
	o := &Object{}
	p.i++
	p.space()
	if p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		return o, nil
	}
	for {
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != '"' {
			return nil, p.fail("a key in double quotes is missing")
		}
		k, err := p.str()
		if err != nil {
			return nil, err
		}
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != ':' {
			return nil, p.fail("a colon is missing")
		}
		p.i++
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		o.Set(k, v)
		more, err := p.next('}')
		if err != nil || !more {
			return o, err
		}
	}
}

func (p *parser) array(depth int) (any, error) {
	out := []any{}
	p.i++
	p.space()
	if p.i < len(p.s) && p.s[p.i] == ']' {
		p.i++
		return out, nil
	}
	for {
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		more, err := p.next(']')
		if err != nil || !more {
			return out, err
		}
	}
}

// next reads a comma (more follows) or the end.
func (p *parser) next(end byte) (bool, error) {
	p.space()
	if p.i < len(p.s) && p.s[p.i] == ',' {
		p.i++
		return true, nil
	}
	if p.i < len(p.s) && p.s[p.i] == end {
		p.i++
		return false, nil
	}
	return false, p.fail("a comma or %q is missing", end)
}

func (p *parser) str() (string, error) {
	p.i++
	start := p.i
	for p.i < len(p.s) && p.s[p.i] != '"' && p.s[p.i] != '\\' && p.s[p.i] >= 0x20 {
		p.i++
	}
	if p.i < len(p.s) && p.s[p.i] == '"' {
		s := p.s[start:p.i]
		p.i++
		return s, nil
	}
	var b strings.Builder
	b.WriteString(p.s[start:p.i])
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return b.String(), nil
		case c < 0x20:
			return "", p.fail("a control character in a string")
		case c != '\\':
			b.WriteByte(c)
			p.i++
		default:
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			WriteRune(&b, r)
		}
	}
	return "", p.fail("a string without end")
}

func (p *parser) escape() (rune, error) {
	if p.i+1 >= len(p.s) {
		return 0, p.fail("a string without end")
	}
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	c := p.s[p.i+1]
	if k := strings.IndexByte(from, c); k >= 0 {
		p.i += 2
		return rune(to[k]), nil
	}
	if c != 'u' {
		return 0, p.fail("an unknown escape")
	}
	r, err := p.hex(p.i + 2)
	if err != nil {
		return 0, err
	}
	p.i += 6
	if utf16.IsSurrogate(r) && strings.HasPrefix(p.s[p.i:], `\u`) {
		if r2, err := p.hex(p.i + 2); err == nil {
			if full := utf16.DecodeRune(r, r2); full != utf8.RuneError {
				p.i += 6
				return full, nil
			}
		}
	}
	return r, nil
}

func (p *parser) hex(at int) (rune, error) {
	if at+4 > len(p.s) {
		return 0, p.fail(`four hexadecimal digits must follow \u`)
	}
	n, err := strconv.ParseUint(p.s[at:at+4], 16, 32)
	if err != nil || strings.ContainsAny(p.s[at:at+4], "_+-") {
		return 0, p.fail(`four hexadecimal digits must follow \u`)
	}
	return rune(n), nil
}

func (p *parser) number() (any, error) {
	start := p.i
	digits := func() int {
		n := p.i
		for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
			p.i++
		}
		return p.i - n
	}
	if p.i < len(p.s) && p.s[p.i] == '-' {
		p.i++
	}
	if p.i < len(p.s) && p.s[p.i] == '0' {
		p.i++
	} else if n := digits(); n == 0 {
		p.i = start
		return nil, p.fail("a value is missing")
	}
	whole := p.i
	if at := p.i; p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		if digits() == 0 {
			p.i = at
		}
	}
	if at := p.i; p.i < len(p.s) && (p.s[p.i] == 'e' || p.s[p.i] == 'E') {
		p.i++
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		if digits() == 0 {
			p.i = at
		}
	}
	text := p.s[start:p.i]
	if p.i > whole {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, p.fail("a number that cannot be read")
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	if len(text) > maxDigits {
		return nil, p.fail("an integer of more than %d digits", maxDigits)
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, p.fail("a number that cannot be read")
	}
	return n, nil
}
