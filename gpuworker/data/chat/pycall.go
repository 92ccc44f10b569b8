package chat

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

var (
	// errSyntax says that a text is no list of calls with literal arguments.
	errSyntax = errors.New("not a Python call")
	// errNoJSON says that an argument is a Python value that JSON does not have.
	errNoJSON = errors.New("an argument has no JSON form")
)

// maxPythonDepth bounds nesting.
const maxPythonDepth = 90

// parsePythonCalls reads "f(a=1)" or "[f(a=1), g(b='x')]": calls of plain names whose keyword arguments are literals (or true, false, null).
// Positional arguments are read and left out.
func parsePythonCalls(s string) ([]Call, error) {
	p := &pyParser{s: s}
	p.space()
	var out []Call
	if p.take('[') {
		for p.space(); !p.take(']'); p.space() {
			c, err := p.call()
			if err != nil {
				return nil, err
			}
			out = append(out, c)
			if p.space(); !p.take(',') {
				if !p.take(']') {
					return nil, errSyntax
				}
				break
			}
		}
	} else {
		c, err := p.call()
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if p.space(); p.i != len(p.s) {
		return nil, errSyntax
	}
	return out, nil
}

type pyParser struct {
	s string
	i int
}

func runeAt(s string, i int) (rune, int) { return utf8.DecodeRuneInString(s[i:]) }

func (p *pyParser) space() {
	for p.i < len(p.s) && strings.IndexByte(" \t\n\r\f", p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *pyParser) take(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *pyParser) name() string {
	start := p.i
	for p.i < len(p.s) {
		r, n := runeAt(p.s, p.i)
		if r != '_' && !unicode.IsLetter(r) && (p.i == start || !unicode.IsDigit(r)) {
			break
		}
		p.i += n
	}
	return p.s[start:p.i]
}

func (p *pyParser) call() (Call, error) {
	name := p.name()
	p.space()
	if name == "" || !p.take('(') {
		return Call{}, errSyntax
	}
	args := &pyjson.Object{}
	for p.space(); !p.take(')'); p.space() {
		at := p.i
		key := p.name()
		p.space()
		keyword := key != "" && p.take('=') && (p.i >= len(p.s) || p.s[p.i] != '=')
		if !keyword {
			p.i = at
		}
		p.space()
		v, err := p.value(0)
		if err != nil {
			return Call{}, err
		}
		if keyword {
			if _, ok := args.Get(key); ok {
				return Call{}, errSyntax // Python refuses a keyword given twice
			}
			args.Set(key, v)
		}
		if p.space(); !p.take(',') {
			if p.space(); !p.take(')') {
				return Call{}, errSyntax
			}
			break
		}
	}
	return call(name, args), nil
}

func (p *pyParser) value(depth int) (any, error) {
	if depth > maxPythonDepth || p.i >= len(p.s) {
		return nil, errSyntax
	}
	switch c := p.s[p.i]; {
	case c == '"' || c == '\'':
		return p.strings()
	case c == '[':
		p.i++
		return p.items(']', depth)
	case c == '(':
		p.i++
		return p.tuple(depth)
	case c == '{':
		p.i++
		return p.dict(depth)
	case c == '-' || c == '+':
		p.i++
		p.space()
		v, err := p.number()
		if err != nil || c == '+' {
			return v, err
		}
		switch x := v.(type) {
		case int64:
			return -x, nil
		case float64:
			return -x, nil
		case *big.Int:
			return new(big.Int).Neg(x), nil
		}
		return nil, errSyntax
	case c >= '0' && c <= '9' || c == '.':
		return p.number()
	}
	switch p.name() {
	case "True", "true":
		return true, nil
	case "False", "false":
		return false, nil
	case "None", "null":
		return nil, nil
	}
	return nil, errSyntax
}

func (p *pyParser) items(end byte, depth int) ([]any, error) {
	out := []any{}
	for p.space(); !p.take(end); p.space() {
		v, err := p.inner(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if p.space(); !p.take(',') {
			if !p.take(end) {
				return nil, errSyntax
			}
			break
		}
	}
	return out, nil
}

// inner is a value within a literal: there the words are Python's alone, since the whole literal is evaluated.
func (p *pyParser) inner(depth int) (any, error) {
	at := p.i
	switch w := p.name(); w {
	case "true", "false", "null":
		return nil, errSyntax
	}
	p.i = at
	return p.value(depth)
}

// tuple is a value in parentheses, or a tuple, which JSON writes as a list.
func (p *pyParser) tuple(depth int) (any, error) {
	start := p.i
	list, err := p.items(')', depth)
	if err != nil {
		return nil, err
	}
	if inside := strings.TrimRight(p.s[start:p.i-1], " \t\n\r\f"); len(list) == 1 && !strings.HasSuffix(inside, ",") {
		return list[0], nil
	}
	return list, nil
}

func (p *pyParser) dict(depth int) (any, error) {
	out := &pyjson.Object{}
	set := false
	for p.space(); !p.take('}'); p.space() {
		k, err := p.inner(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.space(); !p.take(':') {
			set = true
		} else {
			p.space()
			v, err := p.inner(depth + 1)
			if err != nil {
				return nil, err
			}
			switch x := k.(type) {
			case string:
				out.Set(x, v)
			case nil, bool, int64, *big.Int, float64:
				out.Set(dumps(x), v)
			default:
				return nil, errSyntax
			}
		}
		if p.space(); !p.take(',') {
			if !p.take('}') {
				return nil, errSyntax
			}
			break
		}
	}
	if set {
		return nil, errNoJSON
	}
	return out, nil
}

func (p *pyParser) number() (any, error) {
	start := p.i
	for p.i < len(p.s) {
		c := p.s[p.i]
		exp := (c == '+' || c == '-') && p.i > start && (p.s[p.i-1] == 'e' || p.s[p.i-1] == 'E') && !strings.HasPrefix(p.s[start:], "0x")
		letter := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !exp && !letter && c != '.' && c != '_' {
			break
		}
		p.i++
	}
	t := p.s[start:p.i]
	if strings.ContainsAny(t, "jJ") {
		return nil, errNoJSON
	}
	if strings.Trim(t, "0123456789_") != "" && !strings.ContainsAny(t[:min(2, len(t))], "xXoObB") {
		f, err := strconv.ParseFloat(strings.ReplaceAll(t, "_", ""), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) || strings.ContainsAny(t, "nNiI") {
			return nil, errSyntax
		}
		return f, nil
	}
	if strings.Trim(t, "0_") == "" && strings.HasPrefix(t, "0") {
		return int64(0), nil
	}
	if len(t) > 1 && t[0] == '0' && t[1] >= '0' && t[1] <= '9' {
		return nil, errSyntax // Python refuses leading zeros
	}
	n, ok := new(big.Int).SetString(t, 0)
	switch {
	case !ok:
		return nil, errSyntax
	case n.IsInt64():
		return n.Int64(), nil
	}
	return n, nil
}

// strings reads string literals that follow each other.
func (p *pyParser) strings() (any, error) {
	var b strings.Builder
	for p.i < len(p.s) && (p.s[p.i] == '"' || p.s[p.i] == '\'') {
		if err := p.str(&b); err != nil {
			return nil, err
		}
		p.space()
	}
	return b.String(), nil
}

func (p *pyParser) str(b *strings.Builder) error {
	quote := p.s[p.i : p.i+1]
	long := strings.HasPrefix(p.s[p.i:], strings.Repeat(quote, 3))
	if long {
		quote = strings.Repeat(quote, 3)
	}
	p.i += len(quote)
	for p.i < len(p.s) {
		switch {
		case strings.HasPrefix(p.s[p.i:], quote):
			p.i += len(quote)
			return nil
		case p.s[p.i] == '\n' && !long:
			return errSyntax
		case p.s[p.i] != '\\':
			b.WriteByte(p.s[p.i])
			p.i++
		case p.i+1 >= len(p.s):
			return errSyntax
		default:
			if err := p.escape(b); err != nil {
				return err
			}
		}
	}
	return errSyntax
}

func (p *pyParser) escape(b *strings.Builder) error {
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
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case c >= '0' && c <= '7':
		base, at = 8, p.i+1
		for digits < 3 && at+digits < len(p.s) && p.s[at+digits] >= '0' && p.s[at+digits] <= '7' {
			digits++
		}
	case c == 'N':
		return errSyntax
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
	b.WriteRune(rune(n))
	p.i = at + digits
	return nil
}
