package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

type filterFunc func(e *env, v any, a values) (any, error)

// text makes a filter of a function on strings.
func text(f func(s string) any) filterFunc {
	return func(_ *env, v any, _ values) (any, error) { return f(str(v)), nil }
}

// filterByName is a built-in filter, nil when there is none.
func filterByName(name string) filterFunc {
	switch name {
	case "tojson":
		return toJSON
	case "length", "count":
		return func(_ *env, v any, _ values) (any, error) {
			n, err := length(v)
			return int64(n), err
		}
	case "trim":
		return func(_ *env, v any, a values) (any, error) {
			chars := whitespace
			if c, ok := a.get(0, "chars", nil).(string); ok {
				chars = c
			}
			return strings.Trim(str(v), chars), nil
		}
	case "upper":
		return text(func(s string) any { return pytext.Upper(s) })
	case "lower":
		return text(func(s string) any { return pytext.Lower(s) })
	case "capitalize":
		return text(func(s string) any { return pytext.Capitalize(s) })
	case "title":
		return text(func(s string) any { return wordTitle(s) })
	case "string":
		return text(func(s string) any { return s })
	case "safe":
		return text(func(s string) any { return markup(s) })
	case "escape", "e", "forceescape":
		return func(_ *env, v any, _ values) (any, error) {
			if m, ok := v.(markup); ok && name != "forceescape" {
				return m, nil
			}
			return markup(escaped(str(v))), nil
		}
	case "wordcount":
		return text(func(s string) any {
			return int64(len(strings.FieldsFunc(s, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) })))
		})
	case "urlencode":
		return urlEncode
	case "default", "d":
		return func(_ *env, v any, a values) (any, error) {
			if _, u := v.(undefined); u || truthy(a.get(1, "boolean", false)) && !truthy(v) {
				return a.get(0, "default_value", ""), nil
			}
			return v, nil
		}
	case "replace":
		return func(_ *env, v any, a values) (any, error) { return replace(str(v), a) }
	case "format":
		return func(_ *env, v any, a values) (any, error) {
			switch {
			case len(a.names) == 0:
				return format(str(v), tuple(a.pos))
			case len(a.pos) > 0:
				return nil, errors.New("format takes positional or keyword arguments, not both")
			}
			o := &pyjson.Object{}
			for i, n := range a.names {
				o.Set(n, a.named[i])
			}
			return format(str(v), o)
		}
	case "indent":
		return indent
	case "center":
		return func(_ *env, v any, a values) (any, error) {
			_, n, whole, ok := number(a.get(0, "width", int64(80)))
			if !ok || !whole || n > maxText {
				return nil, errors.New("a width must be a whole number")
			}
			return pad(str(v), "center", values{pos: []any{n}})
		}
	case "int", "float", "abs", "round":
		return func(_ *env, v any, a values) (any, error) { return convert(name, v, a) }
	case "attr":
		return func(_ *env, v any, a values) (any, error) {
			n := str(a.get(0, "name", nil))
			if m := method(v, n); m != nil && !strings.HasPrefix(n, "_") {
				return m, nil
			}
			return undefined{"the attribute " + n}, nil
		}
	}
	return listFilter(name)
}

func toJSON(_ *env, v any, a values) (any, error) {
	if err := serializable(v); err != nil {
		return nil, err
	}
	s := pyjson.Style{Sort: truthy(a.get(3, "sort_keys", false)), ASCII: truthy(a.get(0, "ensure_ascii", false))}
	switch x := a.get(1, "indent", nil).(type) {
	case int64:
		s.Indent, s.Lines = int(min(max(x, 0), 32)), true
	case string:
		if s.Lead, s.Lines = x, true; len(x) > 32 {
			return nil, errors.New("an indentation of more than 32 bytes")
		}
	case bool:
		if s.Lines = true; x {
			s.Indent = 1
		}
	case float64:
		return nil, errors.New("an indentation must be a whole number or a string")
	}
	if sep, ok := items(a.get(2, "separators", nil)); ok && len(sep) == 2 {
		s.Item, s.Pair = str(sep[0]), str(sep[1])
	}
	return pyjson.Dump(jsonValue(v), s), nil
}

func serializable(v any) error {
	switch x := v.(type) {
	case undefined, *namespace, *function, *loop, *generator, view, span:
		return fmt.Errorf("an object of type %s is not JSON serializable", typeName(v))
	case *pyjson.Object:
		for _, k := range x.Keys() {
			if err := serializable(x.Value(k)); err != nil {
				return err
			}
		}
	}
	list, _ := items(v)
	for _, e := range list {
		if err := serializable(e); err != nil {
			return err
		}
	}
	return nil
}

// jsonValue turns tuples into lists.
func jsonValue(v any) any {
	switch x := unmarked(v).(type) {
	case string:
		return x
	case tuple, []any:
		list, _ := items(x)
		out := make([]any, len(list))
		for i, e := range list {
			out[i] = jsonValue(e)
		}
		return out
	case *pyjson.Object:
		o := &pyjson.Object{}
		for _, k := range x.Keys() {
			o.Set(k, jsonValue(x.Value(k)))
		}
		return o
	}
	return v
}

// wordTitle is Jinja's title filter: words begin behind white space, dashes and opening brackets; a run of these is a word of its own.
func wordTitle(s string) string {
	var b strings.Builder
	r := []rune(s)
	between := func(c rune) bool { return isSpace(c) || strings.ContainsRune("-({[<", c) }
	for i := 0; i < len(r); {
		k := i + 1
		for k < len(r) && between(r[k]) == between(r[i]) {
			k++
		}
		b.WriteString(pytext.Upper(string(r[i])) + pytext.Lower(string(r[i+1:k])))
		i = k
	}
	return b.String()
}

func indent(_ *env, v any, a values) (any, error) {
	with, ok := a.get(0, "width", int64(4)).(string)
	if !ok {
		_, n, whole, ok := number(a.get(0, "width", int64(4)))
		if !ok || !whole || n > 1000 {
			return nil, errors.New("a width must be a whole number")
		}
		with = strings.Repeat(" ", int(max(n, 0)))
	}
	first, blank := truthy(a.get(1, "first", false)), truthy(a.get(2, "blank", false))
	lines := strings.Split(str(v)+"\n", "\n")
	lines = lines[:len(lines)-1]
	if len(lines)*len(with) > maxText {
		return nil, errors.New("an indentation of too many lines")
	}
	for i, l := range lines {
		if i > 0 && (blank || l != "") || i == 0 && first {
			lines[i] = with + l
		}
	}
	return strings.Join(lines, "\n"), nil
}

func listFilter(name string) filterFunc {
	switch name {
	case "join":
		return func(_ *env, v any, a values) (any, error) {
			list, err := attributes(v, a.get(1, "attribute", nil))
			if err != nil {
				return nil, err
			}
			out := make([]string, len(list))
			for i, x := range list {
				out[i] = str(x)
			}
			return strings.Join(out, str(a.get(0, "d", ""))), nil
		}
	case "first", "last":
		return func(_ *env, v any, _ values) (any, error) {
			list, err := iterate(v)
			switch {
			case err != nil:
				return nil, err
			case len(list) == 0:
				return undefined{"there is no " + name + " item, it"}, nil
			case name == "first":
				return list[0], nil
			}
			return list[len(list)-1], nil
		}
	case "list":
		return func(_ *env, v any, _ values) (any, error) {
			list, err := iterate(v)
			return append([]any{}, list...), err
		}
	case "items":
		return func(_ *env, v any, _ values) (any, error) {
			switch x := v.(type) {
			case undefined:
				return &generator{}, nil
			case *pyjson.Object:
				return &generator{list: pairs(x)}, nil
			}
			return nil, errors.New("can only get item pairs from a mapping")
		}
	case "reverse":
		return func(_ *env, v any, _ values) (any, error) {
			list, err := iterate(v)
			list = slices.Clone(list)
			slices.Reverse(list)
			if _, ok := v.(string); ok {
				var b strings.Builder
				for _, x := range list {
					b.WriteString(str(x))
				}
				return b.String(), err
			}
			return &generator{list: list}, err
		}
	case "map":
		return mapFilter
	case "select", "reject", "selectattr", "rejectattr":
		return func(e *env, v any, a values) (any, error) { return selectFilter(e, name, v, a) }
	case "sort", "unique", "min", "max", "groupby":
		return func(_ *env, v any, a values) (any, error) { return ordered(name, v, a) }
	case "dictsort":
		return dictSort
	case "sum":
		return func(_ *env, v any, a values) (any, error) {
			list, err := attributes(v, a.get(0, "attribute", nil))
			sum := a.get(1, "start", int64(0))
			if _, ok := sum.(string); ok {
				return nil, errors.New("sum cannot add strings")
			}
			for _, x := range list {
				if err == nil {
					sum, err = arith("+", sum, x)
				}
			}
			return sum, err
		}
	case "batch", "slice":
		return func(_ *env, v any, a values) (any, error) { return chunks(name, v, a) }
	}
	return textFilter(name)
}

// attribute follows a path such as "a.b.0".
func attribute(v, path any) (any, error) {
	if path == nil {
		return v, nil
	}
	for _, p := range strings.Split(str(path), ".") {
		var key any = p
		if n, err := strconv.ParseInt(p, 10, 64); err == nil {
			key = n
		}
		var err error
		if v, err = getitem(v, key); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func attributes(v, path any) ([]any, error) {
	list, err := iterate(v)
	if err != nil || path == nil {
		return list, err
	}
	out := make([]any, len(list))
	for i, x := range list {
		if out[i], err = attribute(x, path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func mapFilter(e *env, v any, a values) (any, error) {
	if !truthy(v) { // before it is looked at, as upstream
		return &generator{}, nil
	}
	list, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := []any{}
	path := a.get(-1, "attribute", nil)
	for _, x := range list {
		var y any
		if path != nil {
			y, err = attribute(x, path)
			if _, u := y.(undefined); u {
				y = a.get(-1, "default", y)
			}
		} else {
			if len(a.pos) == 0 {
				return nil, errors.New("map requires a filter argument")
			}
			y, err = e.filter(str(a.pos[0]), x, values{a.pos[1:], a.names, a.named})
		}
		if err != nil {
			return nil, err
		}
		out = append(out, y)
	}
	return &generator{list: out}, nil
}

func selectFilter(e *env, name string, v any, a values) (any, error) {
	if !truthy(v) {
		return &generator{}, nil
	}
	list, err := iterate(v)
	if err != nil {
		return nil, err
	}
	keep := strings.HasPrefix(name, "select")
	var path any
	pos := a.pos
	if strings.HasSuffix(name, "attr") {
		if len(pos) == 0 {
			return nil, errors.New("an attribute is missing")
		}
		path, pos = pos[0], pos[1:]
	}
	out := []any{}
	for _, x := range list {
		y, err := attribute(x, path)
		if err != nil {
			return nil, err
		}
		ok := truthy(y)
		if len(pos) > 0 {
			if ok, err = e.test(str(pos[0]), y, values{pos: pos[1:]}); err != nil {
				return nil, err
			}
		}
		if ok == keep {
			out = append(out, x)
		}
	}
	return &generator{list: out}, nil
}

func chunks(name string, v any, a values) (any, error) {
	list, err := iterate(v)
	if err != nil {
		return nil, err
	}
	_, n, whole, ok := number(a.get(0, "linecount", nil))
	if !ok || !whole || n < 1 || n > maxRange {
		return nil, errors.New("a positive number of items is needed")
	}
	fill := a.get(1, "fill_with", nil)
	out := []any{}
	if name == "batch" {
		for c := range slices.Chunk(list, int(n)) {
			c = slices.Clone(c)
			for fill != nil && len(c) < int(n) {
				c = append(c, fill)
			}
			out = append(out, c)
		}
		return &generator{list: out}, nil
	}
	per, extra, at := len(list)/int(n), len(list)%int(n), 0
	for i := range int(n) {
		size := per
		if i < extra {
			size++
		}
		c := append([]any{}, list[at:at+size]...)
		at += size
		if fill != nil && i >= extra {
			c = append(c, fill)
		}
		out = append(out, c)
	}
	return &generator{list: out}, nil
}
