package jinja

import (
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

type (
	// undefined is the value of a name or an attribute that is not there.
	undefined struct{ what string }
	// tuple is a Python tuple.
	tuple []any
	// namespace is an object whose attributes templates may set.
	namespace struct{ vars *pyjson.Object }
	// markup is text that the filters safe and escape made: what is added to it is escaped.
	markup string
	// generator is what filters such as map and select give: it can be gone through once, and is nothing else.
	generator struct {
		list []any
		used bool
	}
	// view is what a dict's keys, values and items give: it can be gone through, but has no places.
	view struct {
		name string
		list []any
	}
	// span is what range gives: its numbers, but printed as range(from, to).
	span struct {
		from, to, step int64
		list           []any
	}
	// groupTuple is an item of groupby: a tuple whose parts have names.
	groupTuple struct {
		grouper any
		list    []any
	}
	// function is something to call; vars are its attributes, where it has some.
	function struct {
		name string
		call func(e *env, a values) (any, error)
		vars *pyjson.Object
	}
	// values are evaluated arguments.
	values struct {
		pos   []any
		names []string
		named []any
	}
)

// errUndefined is the error of using what is not there.
func errUndefined(u undefined) error { return fmt.Errorf("%s is undefined", u.what) }

// unmarked is a value with markup as plain text, and what is a list or tuple of its own kind as a plain one.
func unmarked(v any) any {
	switch x := v.(type) {
	case markup:
		return string(x)
	case span:
		return x.list
	case groupTuple:
		return tuple{x.grouper, x.list}
	}
	return v
}

// escaped is text with the characters of HTML escaped, as markupsafe does.
func escaped(s string) string {
	return strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}

// get returns a positional or named argument, def when it is absent.
func (a values) get(i int, name string, def any) any {
	if i >= 0 && i < len(a.pos) {
		return a.pos[i]
	}
	for k, n := range a.names {
		if n == name {
			return a.named[k]
		}
	}
	return def
}

func truthy(v any) bool {
	switch x := v.(type) {
	case undefined:
		return false
	case tuple:
		return len(x) > 0
	case view:
		return len(x.list) > 0
	case markup:
		return x != ""
	case span:
		return len(x.list) > 0
	}
	return pyjson.Truthy(v)
}

// str is Python's str.
func str(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case markup:
		return string(x)
	case undefined:
		return ""
	}
	return repr(v)
}

func repr(v any) string {
	switch x := v.(type) {
	case tuple:
		parts := make([]string, len(x))
		for i, e := range x {
			parts[i] = repr(e)
		}
		if len(x) == 1 {
			return "(" + parts[0] + ",)"
		}
		return "(" + strings.Join(parts, ", ") + ")"
	case []any:
		parts := make([]string, len(x))
		for i, e := range x {
			parts[i] = repr(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *pyjson.Object:
		parts := make([]string, 0, x.Len())
		for _, k := range x.Keys() {
			parts = append(parts, pyjson.Repr(k)+": "+repr(x.Value(k)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case undefined:
		return "Undefined"
	case markup:
		return "Markup(" + pyjson.Repr(string(x)) + ")"
	case view:
		return x.name + "(" + repr(x.list) + ")"
	case span:
		if x.step != 1 {
			return fmt.Sprintf("range(%d, %d, %d)", x.from, x.to, x.step)
		}
		return fmt.Sprintf("range(%d, %d)", x.from, x.to)
	case groupTuple:
		return repr(unmarked(x))
	case *generator:
		return "<generator object>"
	case *loop:
		return fmt.Sprintf("<LoopContext %d/%d>", x.at+1, len(x.list))
	case *namespace:
		return "<Namespace " + repr(x.vars) + ">"
	case *function:
		return "<function " + x.name + ">"
	}
	return pyjson.Repr(v)
}

// typeName is the name of a value's type in Python, for messages.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string, markup:
		return "str"
	case []any:
		return "list"
	case tuple, groupTuple:
		return "tuple"
	case span:
		return "range"
	case *pyjson.Object:
		return "dict"
	case undefined:
		return "Undefined"
	case *generator:
		return "generator"
	case view:
		return "view of a dict"
	}
	return "object"
}

// number is a value as a float and, when it is a whole number, as an integer.
func number(v any) (f float64, i int64, whole, ok bool) {
	switch x := v.(type) {
	case bool:
		if x {
			return 1, 1, true, true
		}
		return 0, 0, true, true
	case int64:
		return float64(x), x, true, true
	case float64:
		return x, 0, false, true
	case *big.Int:
		f, _ := new(big.Float).SetInt(x).Float64()
		return f, 0, false, true
	}
	return 0, 0, false, false
}

// equal is Python's ==.
func equal(a, b any) bool {
	a, b = unmarked(a), unmarked(b)
	if fa, ia, wa, ok := number(a); ok {
		fb, ib, wb, ok := number(b)
		if wa && wb {
			return ok && ia == ib
		}
		if x, y := integer(a), integer(b); x != nil && y != nil {
			return x.Cmp(y) == 0
		}
		return ok && fa == fb
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case undefined:
		_, ok := b.(undefined)
		return ok
	case tuple:
		y, ok := b.(tuple)
		return ok && sameItems(x, y)
	case []any:
		y, ok := b.([]any)
		return ok && sameItems(x, y)
	case *pyjson.Object:
		y, ok := b.(*pyjson.Object)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for _, k := range x.Keys() {
			v, ok := y.Get(k)
			if !ok || !equal(x.Value(k), v) {
				return false
			}
		}
		return true
	case *namespace:
		y, ok := b.(*namespace)
		return ok && x == y
	case *function:
		y, ok := b.(*function)
		return ok && x == y
	}
	return false
}

func sameItems(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// order compares two values: -1, 0 or 1.
func order(a, b any) (int, error) {
	a, b = unmarked(a), unmarked(b)
	if fa, ia, wa, ok := number(a); ok {
		if fb, ib, wb, ok := number(b); ok {
			whole := wa && wb
			if x, y := integer(a), integer(b); !whole && x != nil && y != nil {
				return x.Cmp(y), nil
			}
			switch {
			case whole && ia < ib, !whole && fa < fb:
				return -1, nil
			case whole && ia > ib, !whole && fa > fb:
				return 1, nil
			}
			return 0, nil
		}
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	}
	x, okx := items(a)
	y, oky := items(b)
	if okx && oky && typeName(a) == typeName(b) {
		for i := range min(len(x), len(y)) {
			if equal(x[i], y[i]) {
				continue
			}
			return order(x[i], y[i])
		}
		return len(x) - len(y), nil
	}
	return 0, fmt.Errorf("cannot order %s and %s", typeName(a), typeName(b))
}

// items are the items of a list or tuple.
func items(v any) ([]any, bool) {
	switch x := v.(type) {
	case []any:
		return x, true
	case tuple:
		return x, true
	case groupTuple:
		return tuple{x.grouper, x.list}, true
	case span:
		return x.list, true
	}
	return nil, false
}

// iterate are the values that a loop over v goes through.
func iterate(v any) ([]any, error) {
	switch x := unmarked(v).(type) {
	case []any:
		return x, nil
	case tuple:
		return x, nil
	case string:
		out := make([]any, 0, len(x))
		for _, r := range x {
			out = append(out, string(r))
		}
		return out, nil
	case *pyjson.Object:
		out := make([]any, 0, x.Len())
		for _, k := range x.Keys() {
			out = append(out, k)
		}
		return out, nil
	case *generator:
		if x.used {
			return nil, nil
		}
		x.used = true
		return x.list, nil
	case view:
		return x.list, nil
	case undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("%s is not iterable", typeName(v))
}

func length(v any) (int, error) {
	switch x := unmarked(v).(type) {
	case string:
		return utf8.RuneCountInString(x), nil
	case []any:
		return len(x), nil
	case tuple:
		return len(x), nil
	case *pyjson.Object:
		return x.Len(), nil
	case view:
		return len(x.list), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("%s has no length", typeName(v))
}

// contains is Python's v in box.
func contains(box, v any) (bool, error) {
	box, v = unmarked(box), unmarked(v)
	switch x := box.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			return false, fmt.Errorf("cannot look for %s in a string", typeName(v))
		}
		return strings.Contains(x, s), nil
	case *pyjson.Object:
		s, ok := v.(string)
		_, has := x.Get(s)
		return ok && has, nil
	}
	all, err := iterate(box)
	if err != nil {
		return false, err
	}
	for _, e := range all {
		if equal(e, v) {
			return true, nil
		}
	}
	return false, nil
}

func arith(op string, a, b any) (any, error) {
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok {
			return nil, errUndefined(u)
		}
	}
	fa, ia, wa, oka := number(a)
	fb, ib, wb, okb := number(b)
	if oka && okb {
		if x, y := integer(a), integer(b); x != nil && y != nil {
			return intArith(op, x, y)
		}
		return floatArith(op, fa, fb)
	}
	if _, ok := a.(span); ok {
		return nil, fmt.Errorf("cannot compute %s %s %s", typeName(a), op, typeName(b))
	}
	if _, ok := b.(span); ok {
		return nil, fmt.Errorf("cannot compute %s %s %s", typeName(a), op, typeName(b))
	}
	if m, ok := addMarkup(op, a, b); ok {
		return m, nil
	}
	a, b = unmarked(a), unmarked(b)
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok && op == "+" {
			return x + y, nil
		}
		if op == "*" && wb {
			return repeat(x, ib)
		}
		if op == "%" {
			return format(x, b)
		}
	case []any:
		if y, ok := b.([]any); ok && op == "+" {
			return append(append(make([]any, 0, len(x)+len(y)), x...), y...), nil
		}
	case tuple:
		if y, ok := b.(tuple); ok && op == "+" {
			return append(append(make(tuple, 0, len(x)+len(y)), x...), y...), nil
		}
	}
	if op == "*" && wa {
		a, b, ib, wb = b, a, ia, wa
	}
	if list, ok := items(a); ok && op == "*" && wb {
		return repeatItems(a, list, ib)
	}
	if y, ok := a.(string); ok && op == "*" && wb {
		return repeat(y, ib)
	}
	return nil, fmt.Errorf("cannot compute %s %s %s", typeName(a), op, typeName(b))
}

// addMarkup adds text to markup: the plain side is escaped. False when this is no such addition.
func addMarkup(op string, a, b any) (any, bool) {
	ma, oka := a.(markup)
	mb, okb := b.(markup)
	sa, texta := a.(string)
	sb, textb := b.(string)
	switch {
	case op != "+" || !oka && !okb || !oka && !texta || !okb && !textb:
		return nil, false
	case !oka:
		ma = markup(escaped(sa))
	case !okb:
		mb = markup(escaped(sb))
	}
	return ma + mb, true
}

// repeatItems is a list or tuple n times over.
func repeatItems(of any, list []any, n int64) (any, error) {
	n = max(n, 0)
	if n > 0 && int64(len(list)) > maxText/64/n {
		return nil, fmt.Errorf("cannot repeat a list to more than %d items", maxText/64)
	}
	out := make([]any, 0, len(list)*int(n))
	for range n {
		out = append(out, list...)
	}
	if _, ok := of.(tuple); ok {
		return tuple(out), nil
	}
	return out, nil
}

// maxText bounds a string that is made by repetition or padding.
const maxText = 1 << 24

func repeat(s string, n int64) (any, error) {
	if n > 0 && int64(len(s)) > maxText/n {
		return nil, fmt.Errorf("cannot repeat a string to more than %d bytes", maxText)
	}
	return strings.Repeat(s, int(max(n, 0))), nil
}
