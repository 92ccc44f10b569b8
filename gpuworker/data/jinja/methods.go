package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

// whitespace are the characters that Python's str.strip removes.
const whitespace = " \t\n\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

func isSpace(r rune) bool { return strings.ContainsRune(whitespace, r) }

// method is a method of a string, list, tuple or dict; nil when it has none of that name, or none that a sandbox without changes allows.
func method(v any, name string) *function {
	var f func(e *env, a values) (any, error)
	switch x := v.(type) {
	case string:
		f = stringMethod(x, name)
	case *pyjson.Object:
		f = dictMethod(x, name)
	case []any:
		f = listMethod(x, name)
	case tuple:
		f = listMethod(x, name)
	case bool, int64, float64, *big.Int:
		f = numberMethod(x, name)
	}
	if f == nil {
		return nil
	}
	return &function{name: name, call: f}
}

func numberMethod(v any, name string) func(*env, values) (any, error) {
	n := integer(v)
	f, isFloat := v.(float64)
	switch {
	case name == "bit_length" && n != nil:
		return plain(int64(n.BitLen()))
	case name == "is_integer" && isFloat:
		return plain(f == math.Trunc(f) && !math.IsInf(f, 0))
	case name == "conjugate":
		return plain(v)
	}
	return nil
}

func dictMethod(o *pyjson.Object, name string) func(*env, values) (any, error) {
	switch name {
	case "keys":
		return func(*env, values) (any, error) {
			keys, err := iterate(o)
			return view{"dict_keys", keys}, err
		}
	case "values":
		return func(*env, values) (any, error) {
			out := []any{}
			for _, k := range o.Keys() {
				out = append(out, o.Value(k))
			}
			return view{"dict_values", out}, nil
		}
	case "items":
		return func(*env, values) (any, error) { return view{"dict_items", pairs(o)}, nil }
	case "get":
		return func(_ *env, a values) (any, error) {
			if k, ok := a.get(0, "key", nil).(string); ok {
				if v, ok := o.Get(k); ok {
					return v, nil
				}
			}
			return a.get(1, "default", nil), nil
		}
	case "copy":
		return func(*env, values) (any, error) { return o.Clone(), nil }
	case "pop", "update", "setdefault", "clear", "popitem":
		return refused(name)
	}
	return nil
}

func pairs(o *pyjson.Object) []any {
	out := []any{}
	for _, k := range o.Keys() {
		out = append(out, tuple{k, o.Value(k)})
	}
	return out
}

func refused(name string) func(*env, values) (any, error) {
	return func(*env, values) (any, error) {
		return nil, fmt.Errorf("access to %q is unsafe: it changes its object", name)
	}
}

func listMethod(list []any, name string) func(*env, values) (any, error) {
	switch name {
	case "index":
		return func(_ *env, a values) (any, error) {
			for i, v := range list {
				if equal(v, a.get(0, "", nil)) {
					return int64(i), nil
				}
			}
			return nil, errors.New("the value is not in the list")
		}
	case "count":
		return func(_ *env, a values) (any, error) {
			n := int64(0)
			for _, v := range list {
				if equal(v, a.get(0, "", nil)) {
					n++
				}
			}
			return n, nil
		}
	case "copy":
		return func(*env, values) (any, error) { return append([]any{}, list...), nil }
	case "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse":
		return refused(name)
	}
	return nil
}

// textArg is a string argument, an error when it is something else.
func textArg(a values, i int, def string) (string, error) {
	s, ok := a.get(i, "", def).(string)
	if !ok {
		return "", fmt.Errorf("argument %d must be a string, not %s", i+1, typeName(a.get(i, "", nil)))
	}
	return s, nil
}

// oneText is a method with one string argument.
func oneText(f func(arg string) any) func(*env, values) (any, error) {
	return func(_ *env, a values) (any, error) {
		if len(a.pos) == 0 {
			return nil, errors.New("an argument is missing")
		}
		s, err := textArg(a, 0, "")
		if err != nil {
			return nil, err
		}
		return f(s), nil
	}
}

func plain(v any) func(*env, values) (any, error) {
	return func(*env, values) (any, error) { return v, nil }
}

func stringMethod(s, name string) func(*env, values) (any, error) {
	switch name {
	case "strip", "lstrip", "rstrip":
		return func(_ *env, a values) (any, error) {
			chars := whitespace
			if v := a.get(0, "", nil); v != nil {
				var err error
				if chars, err = textArg(a, 0, ""); err != nil {
					return nil, err
				}
			}
			return strip(s, name, chars), nil
		}
	case "split", "rsplit":
		return func(_ *env, a values) (any, error) { return split(s, name == "rsplit", a) }
	case "splitlines":
		return func(_ *env, a values) (any, error) { return splitLines(s, truthy(a.get(0, "keepends", false))), nil }
	case "startswith":
		return affix(s, strings.HasPrefix)
	case "endswith":
		return affix(s, strings.HasSuffix)
	case "removeprefix":
		return oneText(func(p string) any { return strings.TrimPrefix(s, p) })
	case "removesuffix":
		return oneText(func(p string) any { return strings.TrimSuffix(s, p) })
	case "find", "index", "rfind", "rindex":
		return func(_ *env, a values) (any, error) { return find(s, name, a) }
	case "count":
		return func(_ *env, a values) (any, error) {
			p, err := textArg(a, 0, "")
			if len(a.pos) == 0 || err != nil {
				return nil, errors.New("count needs a string")
			}
			s, _, ok, err := part(s, a)
			if !ok {
				return int64(0), err
			}
			return int64(strings.Count(s, p)), nil
		}
	case "replace":
		return func(_ *env, a values) (any, error) { return replace(s, a) }
	case "join":
		return func(_ *env, a values) (any, error) {
			list, err := iterate(a.get(0, "", nil))
			if err != nil {
				return nil, err
			}
			out := make([]string, len(list))
			for i, v := range list {
				var ok bool
				if out[i], ok = v.(string); !ok {
					return nil, fmt.Errorf("cannot join %s", typeName(v))
				}
			}
			return strings.Join(out, s), nil
		}
	case "upper":
		return plain(pytext.Upper(s))
	case "lower":
		return plain(pytext.Lower(s))
	case "casefold":
		return plain(pytext.Fold(s))
	case "title":
		return plain(pytext.Title(s))
	case "capitalize":
		return plain(pytext.Capitalize(s))
	case "swapcase":
		return plain(pytext.SwapCase(s))
	case "isdigit", "isnumeric", "isdecimal", "isalpha", "isalnum", "isspace", "isupper", "islower", "isascii", "istitle", "isidentifier", "isprintable":
		return plain(pytext.Is(name, s))
	case "expandtabs":
		return func(_ *env, a values) (any, error) { return expandTabs(s, a) }
	case "format":
		return func(_ *env, a values) (any, error) { return braces(s, a) }
	case "ljust", "rjust", "center", "zfill":
		return func(_ *env, a values) (any, error) { return pad(s, name, a) }
	case "partition", "rpartition":
		return oneText(func(sep string) any { return partition(s, sep, name) })
	}
	return nil
}

func strip(s, name, chars string) string {
	if name != "rstrip" {
		s = strings.TrimLeft(s, chars)
	}
	if name != "lstrip" {
		s = strings.TrimRight(s, chars)
	}
	return s
}

func affix(s string, has func(s, p string) bool) func(*env, values) (any, error) {
	return func(_ *env, a values) (any, error) {
		list, ok := a.get(0, "", nil).(tuple)
		if !ok {
			list = tuple{a.get(0, "", nil)}
		}
		s, _, within, err := part(s, a)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			p, ok := unmarked(v).(string)
			if !ok {
				return nil, fmt.Errorf("a string or a tuple of strings is needed, not %s", typeName(v))
			}
			if within && has(s, p) {
				return true, nil
			}
		}
		return false, nil
	}
}

func split(s string, right bool, a values) (any, error) {
	most := -1
	if _, n, whole, ok := number(a.get(1, "maxsplit", nil)); ok && whole {
		most = int(n)
	}
	sep := a.get(0, "sep", nil)
	var parts []string
	switch x := sep.(type) {
	case nil:
		parts = splitSpace(s, most, right)
	case string:
		if x == "" {
			return nil, errors.New("empty separator")
		}
		parts = strings.Split(s, x)
		if most >= 0 && len(parts) > most+1 {
			if right {
				k := len(parts) - most
				parts = append([]string{strings.Join(parts[:k], x)}, parts[k:]...)
			} else {
				parts = strings.SplitN(s, x, most+1)
			}
		}
	default:
		return nil, fmt.Errorf("a separator must be a string, not %s", typeName(sep))
	}
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out, nil
}

// splitSpace splits at runs of white space.
func splitSpace(s string, most int, right bool) []string {
	all := strings.FieldsFunc(s, isSpace)
	if most < 0 || len(all) <= most {
		return all
	}
	if right {
		rest := strings.TrimRight(s, whitespace)
		for i := range most {
			rest = strings.TrimRight(strings.TrimSuffix(rest, all[len(all)-1-i]), whitespace)
		}
		return append([]string{strings.TrimLeft(rest, whitespace)}, all[len(all)-most:]...)
	}
	rest := strings.TrimLeft(s, whitespace)
	for i := range most {
		rest = strings.TrimLeft(strings.TrimPrefix(rest, all[i]), whitespace)
	}
	return append(append([]string{}, all[:most]...), strings.TrimRight(rest, ""))
}

// splitLines is str.splitlines.
func splitLines(s string, keep bool) []any {
	out := []any{}
	for start := 0; start < len(s); {
		n := strings.IndexAny(s[start:], "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if n < 0 {
			return append(out, s[start:])
		}
		end := start + n
		_, size := utf8.DecodeRuneInString(s[end:])
		if strings.HasPrefix(s[end:], "\r\n") {
			size = 2
		}
		line := s[start:end]
		if keep {
			line = s[start : end+size]
		}
		out = append(out, line)
		start = end + size
	}
	return out
}

// expandTabs is str.expandtabs.
func expandTabs(s string, a values) (any, error) {
	_, n, whole, ok := number(a.get(0, "tabsize", int64(8)))
	if !ok || !whole || n > 1000 {
		return nil, errors.New("a tab size must be a whole number")
	}
	var b strings.Builder
	column := 0
	for _, r := range s {
		if r == '\t' {
			if n > 0 {
				room := int(n) - column%int(n)
				column += room
				b.WriteString(strings.Repeat(" ", room))
			}
		} else {
			column++
			if r == '\n' || r == '\r' {
				column = 0
			}
			b.WriteRune(r)
		}
		if b.Len() > maxText {
			return nil, fmt.Errorf("a text of more than %d bytes", maxText)
		}
	}
	return b.String(), nil
}

// part is s[from:to] of a search, in characters; false when from lies behind the end, where not even "" is found.
func part(s string, a values) (within string, before int, ok bool, err error) {
	from, to := a.get(1, "", nil), a.get(2, "", nil)
	if from == nil && to == nil {
		return s, 0, true, nil
	}
	r := []rune(s)
	at := [2]int64{0, int64(len(r))}
	for i, v := range []any{from, to} {
		if v == nil {
			continue
		}
		_, n, whole, isNumber := number(v)
		if !isNumber || !whole {
			return "", 0, false, errors.New("the bounds of a search must be whole numbers")
		}
		if n < 0 {
			n = max(n+int64(len(r)), 0)
		}
		at[i] = n
	}
	at[1] = min(at[1], int64(len(r)))
	if at[0] > at[1] {
		return "", 0, false, nil
	}
	return string(r[at[0]:at[1]]), int(at[0]), true, nil
}

func find(s, name string, a values) (any, error) {
	p, err := textArg(a, 0, "")
	if err != nil {
		return nil, err
	}
	s, before, ok, err := part(s, a)
	if err != nil {
		return nil, err
	}
	i := strings.Index(s, p)
	if name[0] == 'r' {
		i = strings.LastIndex(s, p)
	}
	switch {
	case i >= 0 && ok:
		return int64(before + utf8.RuneCountInString(s[:i])), nil
	case strings.HasSuffix(name, "index"):
		return nil, errors.New("substring not found")
	}
	return int64(-1), nil
}

func replace(s string, a values) (any, error) {
	old, err := textArg(a, 0, "")
	if err != nil {
		return nil, err
	}
	to, err := textArg(a, 1, "")
	if err != nil {
		return nil, err
	}
	n := -1
	if _, k, whole, ok := number(a.get(2, "count", nil)); ok && whole {
		n = int(k)
	}
	if c := strings.Count(s, old) * len(to); c > maxText {
		return nil, fmt.Errorf("a replacement of more than %d bytes", maxText)
	}
	return strings.Replace(s, old, to, n), nil
}

func pad(s, name string, a values) (any, error) {
	_, n, whole, ok := number(a.get(0, "width", nil))
	if !ok || !whole || n > maxText {
		return nil, errors.New("a width must be a whole number")
	}
	fill, err := textArg(a, 1, " ")
	if err != nil || utf8.RuneCountInString(fill) != 1 {
		return nil, errors.New("the fill must be one character")
	}
	room := int(n) - utf8.RuneCountInString(s)
	if room <= 0 {
		return s, nil
	}
	switch name {
	case "ljust":
		return s + strings.Repeat(fill, room), nil
	case "rjust":
		return strings.Repeat(fill, room) + s, nil
	case "zfill":
		if s != "" && (s[0] == '-' || s[0] == '+') {
			return s[:1] + strings.Repeat("0", room) + s[1:], nil
		}
		return strings.Repeat("0", room) + s, nil
	}
	left := room/2 + room&int(n)&1 // as CPython centers
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, room-left), nil
}

func partition(s, sep, name string) any {
	i := strings.Index(s, sep)
	if name == "rpartition" {
		if i = strings.LastIndex(s, sep); i < 0 {
			return tuple{"", "", s}
		}
	}
	if i < 0 {
		return tuple{s, "", ""}
	}
	return tuple{s[:i], sep, s[i+len(sep):]}
}
