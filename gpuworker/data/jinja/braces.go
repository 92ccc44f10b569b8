package jinja

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// braces is str.format.
func braces(s string, a values) (any, error) {
	f := &formatter{a: a}
	out, err := f.expand(s, 2)
	return out, err
}

// formatter expands replacement fields; auto counts those without a name, -1 after one with a number.
type formatter struct {
	a       values
	auto    int
	written int
}

func (f *formatter) expand(s string, depth int) (string, error) {
	if depth == 0 {
		return "", errors.New("replacement fields are nested too deep")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '{' && c != '}' {
			b.WriteByte(c)
			continue
		}
		if depth == 2 && i+1 < len(s) && s[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		end := fieldEnd(s, i)
		if c == '}' || end < 0 {
			return "", fmt.Errorf("a single %q in a format", c)
		}
		text, err := f.field(s[i+1:end], depth)
		if err != nil {
			return "", err
		}
		b.WriteString(text)
		if f.written += len(text); f.written > maxText {
			return "", fmt.Errorf("a formatted text of more than %d bytes", maxText)
		}
		i = end
	}
	return b.String(), nil
}

// fieldEnd is where the brace that opens at i is closed, -1 when it is not.
func fieldEnd(s string, i int) int {
	open := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '{':
			open++
		case '}':
			if open--; open == 0 {
				return i
			}
		}
	}
	return -1
}

// field formats "name!conversion:spec".
func (f *formatter) field(s string, depth int) (string, error) {
	name, how := s, ""
	conversion := byte(0)
	if k := strings.IndexAny(s, "!:"); k >= 0 {
		name = s[:k]
		if s[k] == '!' {
			if k+1 >= len(s) || k+2 < len(s) && s[k+2] != ':' {
				return "", errors.New("a broken conversion in a format")
			}
			conversion = s[k+1]
			k += 2
		}
		if k < len(s) {
			how = s[k+1:]
		}
	}
	v, err := f.value(name)
	if err != nil {
		return "", err
	}
	switch conversion {
	case 0:
	case 's':
		v = str(v)
	case 'r', 'a':
		v = repr(v)
	default:
		return "", fmt.Errorf("the conversion %q is unknown", conversion)
	}
	if strings.Contains(how, "{") {
		if how, err = f.expand(how, depth-1); err != nil {
			return "", err
		}
	}
	return formatValue(v, how)
}

// value follows a field's name: 0, name, or nothing, and then .attribute and [item].
func (f *formatter) value(name string) (any, error) {
	rest := ""
	if k := strings.IndexAny(name, ".["); k >= 0 {
		name, rest = name[:k], name[k:]
	}
	missing := undefined{"the value of a format"}
	var v any
	n, err := strconv.Atoi(name)
	switch {
	case name == "":
		if f.auto < 0 {
			return nil, errors.New("fields with and without numbers are mixed")
		}
		v = f.a.get(f.auto, "", missing)
		f.auto++
	case err == nil:
		if f.auto > 0 {
			return nil, errors.New("fields with and without numbers are mixed")
		}
		f.auto = -1
		v = f.a.get(n, "", missing)
	default:
		v = f.a.get(-1, name, missing)
	}
	if v == any(missing) {
		return nil, errUndefined(missing)
	}
	for rest != "" {
		end := len(rest)
		if rest[0] == '[' {
			if end = strings.IndexByte(rest, ']'); end < 0 {
				return nil, errors.New("a missing ] in a format")
			}
			var key any = rest[1:end]
			if i, err := strconv.ParseInt(rest[1:end], 10, 64); err == nil {
				key = i
			}
			v, err = getitem(v, key)
			end++
		} else {
			if k := strings.IndexAny(rest[1:], ".["); k >= 0 {
				end = k + 1
			}
			v, err = getattr(v, rest[1:end])
		}
		if err != nil {
			return nil, err
		}
		rest = rest[end:]
	}
	return v, nil
}

// parseSpec reads Python's format mini-language.
func parseSpec(how string) (spec, error) {
	s := spec{precision: -1}
	rest := how
	if r, n := utf8.DecodeRuneInString(rest); n > 0 && n < len(rest) && strings.IndexByte("<>=^", rest[n]) >= 0 {
		s.fill, s.align, rest = string(r), rest[n], rest[n+1:]
	} else if rest != "" && strings.IndexByte("<>=^", rest[0]) >= 0 {
		s.align, rest = rest[0], rest[1:]
	}
	take := func(chars string) byte {
		if rest != "" && strings.IndexByte(chars, rest[0]) >= 0 {
			c := rest[0]
			rest = rest[1:]
			return c
		}
		return 0
	}
	digits := func() int {
		n := 0
		for c := take("0123456789"); c != 0; c = take("0123456789") {
			n = min(n*10+int(c-'0'), maxText+1)
		}
		return n
	}
	s.sign = take("+- ")
	s.alt = take("#") != 0
	if take("0") != 0 {
		if s.zero = true; s.fill == "" {
			s.fill = "0"
		}
	}
	s.width = digits()
	if c := take(",_"); c != 0 {
		s.group = string(c)
	}
	if take(".") != 0 {
		n := len(rest)
		if s.precision = digits(); n == len(rest) {
			return s, errors.New("a format without its precision")
		}
	}
	s.typ = take("bcdeEfFgGnosxX%")
	if rest != "" {
		return s, fmt.Errorf("the format %q is invalid", how)
	}
	return s, nil
}

// formatValue is Python's format(v, how).
func formatValue(v any, how string) (string, error) {
	if how == "" {
		return str(v), nil
	}
	s, err := parseSpec(how)
	if err != nil {
		return "", err
	}
	refuse := fmt.Errorf("the format %q does not fit %s", how, typeName(v))
	switch x := unmarked(v).(type) {
	case string:
		if s.typ != 0 && s.typ != 's' || s.sign != 0 || s.alt || s.group != "" || s.align == '=' {
			return "", refuse
		}
		if r := []rune(x); s.precision >= 0 && len(r) > s.precision {
			x = string(r[:s.precision])
		}
		return s.fit(x, '<')
	case bool, int64, *big.Int, float64:
		f, _, _, _ := number(x)
		n := integer(x)
		switch {
		case s.typ == 's':
			return "", refuse
		case n == nil || strings.IndexByte("eEfFgG%", s.typ) >= 0 && s.typ != 0:
			if s.typ != 0 && strings.IndexByte("eEfFgGn%", s.typ) < 0 {
				return "", refuse
			}
			return s.float(f)
		case s.precision >= 0:
			return "", refuse
		case s.typ == 'c':
			if !n.IsInt64() || n.Int64() < 0 || n.Int64() > utf8.MaxRune || s.sign != 0 {
				return "", refuse
			}
			return s.fit(string(rune(n.Int64())), '<')
		case s.group == "," && s.typ != 0 && s.typ != 'd':
			return "", refuse
		}
		return s.integer(n)
	}
	return "", refuse
}
