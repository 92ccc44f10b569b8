package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// spec is how one value is formatted, by % or by str.format.
type spec struct {
	fill             string
	align, sign, typ byte
	alt, zero        bool
	width, precision int // precision -1: none
	group            string
}

// fit pads text to the width; byDefault is the alignment without one.
func (s spec) fit(text string, byDefault byte) (string, error) {
	if s.width > maxText {
		return "", errors.New("a format that is too wide")
	}
	room := s.width - utf8.RuneCountInString(text)
	if room <= 0 {
		return text, nil
	}
	fill, align := s.fill, s.align
	if fill == "" {
		fill = " "
	}
	if align == 0 {
		align = byDefault
	}
	switch align {
	case '<':
		return text + strings.Repeat(fill, room), nil
	case '^':
		return strings.Repeat(fill, room/2) + text + strings.Repeat(fill, room-room/2), nil
	}
	return strings.Repeat(fill, room) + text, nil
}

// signed puts the sign, prefix and padding before digits.
func (s spec) signed(negative bool, prefix, digits string) (string, error) {
	sign := ""
	switch {
	case negative:
		sign = "-"
	case s.sign == '+' || s.sign == ' ':
		sign = string(s.sign)
	}
	if s.group != "" {
		digits = grouped(digits, s.group)
	}
	if s.align == '=' || s.align == 0 && s.zero {
		if s.width > maxText {
			return "", errors.New("a format that is too wide")
		}
		fill := s.fill
		if fill == "" {
			fill = " "
			if s.zero {
				fill = "0"
			}
		}
		room := s.width - len(sign) - len(prefix) - len(digits)
		return sign + prefix + strings.Repeat(fill, max(room, 0)) + digits, nil
	}
	return s.fit(sign+prefix+digits, '>')
}

// grouped separates the thousands of the whole part.
func grouped(digits, sep string) string {
	n := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		n = len(digits)
	}
	var b strings.Builder
	for i := range n {
		if i > 0 && (n-i)%3 == 0 {
			b.WriteString(sep)
		}
		b.WriteByte(digits[i])
	}
	return b.String() + digits[n:]
}

func (s spec) integer(n *big.Int) (string, error) {
	base, prefix := 10, ""
	switch s.typ {
	case 'x', 'X':
		base, prefix = 16, "0"+string(s.typ)
	case 'o':
		base, prefix = 8, "0o"
	case 'b':
		base, prefix = 2, "0b"
	}
	if !s.alt {
		prefix = ""
	}
	digits := new(big.Int).Abs(n).Text(base)
	if s.typ == 'X' {
		digits = strings.ToUpper(digits)
	}
	return s.signed(n.Sign() < 0, prefix, digits)
}

func (s spec) float(f float64) (string, error) {
	precision, typ, suffix := s.precision, s.typ, ""
	if precision < 0 {
		precision = 6
	}
	if precision > 1000 {
		return "", errors.New("a format that is too precise")
	}
	abs := math.Abs(f)
	if typ == '%' {
		abs, typ, suffix = abs*100, 'f', "%"
	}
	text := ""
	switch lower := typ | 0x20; {
	case math.IsNaN(f):
		text = "nan"
	case math.IsInf(f, 0):
		text = "inf"
	case typ == 0 && s.precision < 0:
		text = pyjson.Float(abs)
	case typ == 0 || lower == 'g' || lower == 'n':
		text = general(abs, max(precision, 1), typ == 0, s.alt)
	default:
		text = strconv.FormatFloat(abs, lower, precision, 64)
		if s.alt && precision == 0 && !strings.Contains(text, ".") {
			text += "."
		}
	}
	if typ >= 'A' && typ <= 'Z' {
		text = strings.ToUpper(text)
	}
	return s.signed(math.Signbit(f) && !math.IsNaN(f), "", text+suffix)
}

// general is C's %g; repr marks a float without a type in str.format, which keeps a digit behind the point.
func general(f float64, precision int, repr, alt bool) string {
	e := strconv.FormatFloat(f, 'e', precision-1, 64)
	at := strings.IndexByte(e, 'e')
	exp, err := strconv.Atoi(e[at+1:])
	if err != nil {
		return e
	}
	trim := func(s string) string {
		if alt || !strings.Contains(s, ".") {
			return s
		}
		return strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	top := precision
	if repr {
		top = precision - 1
	}
	if exp < -4 || exp >= max(top, 1) && (!repr || exp >= top) {
		return trim(e[:at]) + e[at:]
	}
	s := trim(strconv.FormatFloat(f, 'f', max(precision-1-exp, 0), 64))
	if repr && !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// format is Python's "..." % v.
func format(f string, v any) (any, error) {
	list, ok := v.(tuple)
	if !ok {
		list = tuple{v}
	}
	lookup, _ := v.(*pyjson.Object)
	_, isList := v.([]any) // Python takes a list for a mapping here: unused, it is no error
	var b strings.Builder
	n := 0
	next := func() (any, error) {
		if n >= len(list) {
			return nil, errors.New("not enough arguments for a format")
		}
		n++
		return list[n-1], nil
	}
	for i := 0; i < len(f); {
		if f[i] != '%' {
			b.WriteByte(f[i])
			i++
			continue
		}
		p := percent{s: f, i: i + 1, next: next, lookup: lookup}
		text, err := p.one()
		if err != nil {
			return nil, err
		}
		if b.WriteString(text); b.Len() > maxText {
			return nil, fmt.Errorf("a formatted text of more than %d bytes", maxText)
		}
		i = p.i
	}
	if n < len(list) && lookup == nil && !isList {
		return nil, errors.New("not all values were formatted")
	}
	return b.String(), nil
}

// percent reads one conversion of a % format.
type percent struct {
	s      string
	i      int
	next   func() (any, error)
	lookup *pyjson.Object
}

func (p *percent) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

// count reads a number or *.
func (p *percent) count() (int, error) {
	if p.peek() == '*' {
		p.i++
		v, err := p.next()
		if err != nil {
			return 0, err
		}
		_, n, whole, ok := number(v)
		if !ok || !whole {
			return 0, errors.New("* wants an integer")
		}
		return int(min(max(n, -maxText), maxText)), nil
	}
	n := 0
	for ; p.peek() >= '0' && p.peek() <= '9'; p.i++ {
		n = min(n*10+int(p.peek()-'0'), maxText+1)
	}
	return n, nil
}

func (p *percent) one() (string, error) {
	get := p.next
	if p.peek() == '(' {
		end := strings.IndexByte(p.s[p.i:], ')')
		if end < 0 || p.lookup == nil {
			return "", errors.New("a format requires a mapping")
		}
		v, ok := p.lookup.Get(p.s[p.i+1 : p.i+end])
		if !ok {
			return "", fmt.Errorf("there is no value %q for a format", p.s[p.i+1:p.i+end])
		}
		p.i += end + 1
		get = func() (any, error) { return v, nil }
	}
	s := spec{precision: -1}
	for ; p.i < len(p.s) && strings.IndexByte("#0- +", p.s[p.i]) >= 0; p.i++ {
		switch p.s[p.i] {
		case '#':
			s.alt = true
		case '0':
			s.zero = true
		case '-':
			s.align = '<'
		case '+':
			s.sign = '+'
		default:
			if s.sign == 0 {
				s.sign = ' '
			}
		}
	}
	var err error
	if s.width, err = p.count(); err != nil {
		return "", err
	}
	if s.width < 0 {
		s.width, s.align = -s.width, '<'
	}
	if p.peek() == '.' {
		p.i++
		if s.precision, err = p.count(); err != nil {
			return "", err
		}
	}
	for ; p.peek() == 'h' || p.peek() == 'l' || p.peek() == 'L'; p.i++ {
	}
	s.typ = p.peek()
	p.i++
	if s.typ == '%' {
		return "%", nil
	}
	v, err := get()
	if err != nil {
		return "", err
	}
	return s.percent(v)
}

// percent formats a value by the conversion's letter.
func (s spec) percent(v any) (string, error) {
	switch s.typ {
	case 's', 'r', 'a':
		text := str(v)
		if s.typ != 's' {
			text = repr(v)
		}
		if r := []rune(text); s.precision >= 0 && len(r) > s.precision {
			text = string(r[:s.precision])
		}
		return s.fit(text, '>')
	case 'c':
		if t, ok := v.(string); ok && utf8.RuneCountInString(t) == 1 {
			return s.fit(t, '>')
		}
		if _, n, whole, ok := number(v); ok && whole && n >= 0 && n <= utf8.MaxRune {
			return s.fit(string(rune(n)), '>')
		}
		return "", errors.New("%c requires an integer or a character")
	case 'd', 'i', 'u', 'x', 'X', 'o':
		n := integer(v)
		if f, ok := v.(float64); ok && strings.IndexByte("diu", s.typ) >= 0 {
			t, _ := truncated(f)
			n = integer(t)
		}
		if n == nil {
			return "", fmt.Errorf("%%%c needs a number, not %s", s.typ, typeName(v))
		}
		if s.precision > 0 { // at least so many digits
			digits := spec{typ: s.typ, zero: true, width: s.precision, precision: -1}
			text, err := digits.integer(new(big.Int).Abs(n))
			if err != nil {
				return "", err
			}
			return s.signed(n.Sign() < 0, "", text)
		}
		return s.integer(n)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, _, _, ok := number(v)
		if !ok {
			return "", fmt.Errorf("%%%c needs a number, not %s", s.typ, typeName(v))
		}
		return s.float(f)
	}
	return "", fmt.Errorf("the format character %q is unknown", s.typ)
}
