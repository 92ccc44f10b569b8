package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
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
	}
	if f == nil {
		return nil
	}
	return &function{name, f}
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
		return func(*env, values) (any, error) { return splitLines(s), nil }
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
		return oneText(func(p string) any {
			if p == "" {
				return int64(utf8.RuneCountInString(s) + 1)
			}
			return int64(strings.Count(s, p))
		})
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
		return plain(strings.ToUpper(s))
	case "lower", "casefold":
		return plain(strings.ToLower(s))
	case "title":
		return plain(pyTitle(s))
	case "capitalize":
		return plain(capitalize(s))
	case "swapcase":
		return plain(strings.Map(swapCase, s))
	case "isdigit", "isnumeric", "isdecimal", "isalpha", "isalnum", "isspace", "isupper", "islower":
		return plain(isAll(s, name))
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
		for _, v := range list {
			p, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("a string or a tuple of strings is needed, not %s", typeName(v))
			}
			if has(s, p) {
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

func splitLines(s string) []any {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\v", "\n", "\f", "\n", "\x1c", "\n", "\x1d", "\n", "\x1e", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(s)
	out := []any{}
	if s == "" {
		return out
	}
	for _, l := range strings.Split(strings.TrimSuffix(s, "\n"), "\n") {
		out = append(out, l)
	}
	return out
}

func find(s, name string, a values) (any, error) {
	p, err := textArg(a, 0, "")
	if err != nil {
		return nil, err
	}
	i := strings.Index(s, p)
	if name[0] == 'r' {
		i = strings.LastIndex(s, p)
	}
	switch {
	case i >= 0:
		return int64(utf8.RuneCountInString(s[:i])), nil
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

// pyTitle is str.title: every letter behind a letter is lower, every other one a title letter.
func pyTitle(s string) string {
	before := false
	return strings.Map(func(r rune) rune {
		was := before
		before = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToTitle(r)) + strings.ToLower(s[n:])
}

func swapCase(r rune) rune {
	if unicode.IsUpper(r) {
		return unicode.ToLower(r)
	}
	return unicode.ToUpper(r)
}

func isAll(s, name string) bool {
	cased := false
	for _, r := range s {
		ok := true
		switch name {
		case "isdigit", "isdecimal":
			ok = unicode.Is(unicode.Nd, r)
		case "isnumeric":
			ok = unicode.IsNumber(r)
		case "isalpha":
			ok = unicode.IsLetter(r)
		case "isalnum":
			ok = unicode.IsLetter(r) || unicode.IsNumber(r)
		case "isspace":
			ok = isSpace(r)
		case "isupper":
			ok = !unicode.IsLower(r)
			cased = cased || unicode.IsUpper(r)
		case "islower":
			ok = !unicode.IsUpper(r)
			cased = cased || unicode.IsLower(r)
		}
		if !ok {
			return false
		}
	}
	return s != "" && (cased || name != "isupper" && name != "islower")
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

// braces is str.format for {}, {0} and {name}, without format specifications.
func braces(s string, a values) (any, error) {
	var b strings.Builder
	auto := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		if c != '{' {
			b.WriteByte(c)
			continue
		}
		k := strings.IndexByte(s[i:], '}')
		if k < 0 {
			return nil, errors.New("a single { in a format")
		}
		key := s[i+1 : i+k]
		i += k
		var v any = undefined{"the value of a format"}
		if key == "" {
			v = a.get(auto, "", v)
			auto++
		} else if n := 0; strings.Trim(key, "0123456789") == "" {
			if _, err := fmt.Sscan(key, &n); err == nil {
				v = a.get(n, "", v)
			}
		} else {
			v = a.get(-1, key, v)
		}
		if u, ok := v.(undefined); ok {
			return nil, errUndefined(u)
		}
		b.WriteString(str(v))
	}
	return b.String(), nil
}
