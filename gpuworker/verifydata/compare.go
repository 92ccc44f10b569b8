package verifydata

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// outcome of the comparison of one row.
type outcome struct {
	// compared says that the row held something to compare with.
	compared bool
	diff     string
	// row is what --emit writes.
	row any
}

// check compares a case with its row.
func check(row any, c Case) outcome {
	if c.Doc != nil {
		return outcome{compared: true, diff: diff("", c.Doc.Value, row, c.Doc.Tolerance, c.Results...), row: c.Doc.Value}
	}
	o, ok := row.(*pyjson.Object)
	if !ok {
		return outcome{compared: true, diff: "the row is no object", row: row}
	}
	if want := o.Value("error"); want != nil {
		out := outcome{compared: true, row: place(o, c)}
		if c.Err == nil {
			out.diff = fmt.Sprintf("computed without an error, the reference has one: %v", short(want))
		}
		return out
	}
	if c.Err != nil {
		out := outcome{row: o, diff: fmt.Sprintf("cannot compute: %v", c.Err)}
		if !expects(o, c) { // a row without expected values may stand for an error, too
			out.diff, out.row = "", place(o, Case{Order: c.Order, Fields: append(slices.Clone(c.Fields), Field{Key: "error", Value: c.Err.Error()})})
			return out
		}
		out.compared = true
		return out
	}
	out := outcome{row: place(o, c)}
	for _, f := range c.Fields {
		want, ok := o.Get(f.Key)
		if !ok {
			continue
		}
		out.compared = true
		if d := diff(f.Key, f.Value, want, f.Tolerance); d != "" && out.diff == "" {
			out.diff = d
		}
	}
	return out
}

// expects reports whether the row of a failed case holds values that only a case without error has.
func expects(o *pyjson.Object, c Case) bool {
	for _, k := range c.Results {
		if v, ok := o.Get(k); ok && v != nil {
			return true
		}
	}
	return false
}

// place puts computed fields into a copy of a row: in place of the expected ones, or where Order says.
func place(row *pyjson.Object, c Case) *pyjson.Object {
	computed := map[string]any{}
	if c.Err == nil {
		for _, f := range c.Fields {
			computed[f.Key] = f.Value
		}
	}
	keys := slices.Clone(row.Keys())
	rank := map[string]int{}
	for i, k := range c.Order {
		rank[k] = i
	}
	if c.Err == nil {
		for _, f := range c.Fields {
			if slices.Contains(keys, f.Key) {
				continue
			}
			at := 0
			mine, ok := rank[f.Key]
			if !ok {
				at = len(keys)
			}
			for i, k := range keys {
				if r, has := rank[k]; ok && has && r < mine {
					at = i + 1
				}
			}
			keys = slices.Insert(keys, at, f.Key)
		}
	}
	out := &pyjson.Object{}
	for _, k := range keys {
		if v, ok := computed[k]; ok {
			out.Set(k, v)
		} else {
			out.Set(k, row.Value(k))
		}
	}
	return out
}

// diff describes the first difference between a computed and an expected value; "" when they are equal within tol. Keys of objects that are
// named as results may be missing in the expected value: a folder may come without them.
func diff(at string, got, want any, tol float64, results ...string) string {
	got, want = plain(got), plain(want)
	if a, ok := number(got); ok {
		if b, ok := number(want); ok {
			if d := math.Abs(a - b); a == b || d <= tol || math.IsNaN(a) && math.IsNaN(b) {
				return ""
			}
			return fmt.Sprintf("%s: computed %v, expected %v", at, short(got), short(want))
		}
	}
	switch g := got.(type) {
	case *pyjson.Object:
		w, ok := want.(*pyjson.Object)
		if !ok {
			break
		}
		for _, k := range w.Keys() {
			v, ok := g.Get(k)
			if !ok {
				return fmt.Sprintf("%s: expected, not computed", join(at, k))
			}
			if w.Value(k) == nil && slices.Contains(results, k) {
				continue
			}
			if d := diff(join(at, k), v, w.Value(k), tol, results...); d != "" {
				return d
			}
		}
		for _, k := range g.Keys() {
			if _, ok := w.Get(k); !ok && !slices.Contains(results, k) {
				return fmt.Sprintf("%s: computed, not expected", join(at, k))
			}
		}
		return ""
	case []any:
		w, ok := want.([]any)
		if !ok {
			break
		}
		for i := range min(len(g), len(w)) {
			if d := diff(fmt.Sprintf("%s[%d]", at, i), g[i], w[i], tol, results...); d != "" {
				return d
			}
		}
		if len(g) != len(w) {
			return fmt.Sprintf("%s: computed %d items, expected %d", at, len(g), len(w))
		}
		return ""
	case string:
		if w, ok := want.(string); ok {
			if g == w {
				return ""
			}
			i := 0
			for i < len(g) && i < len(w) && g[i] == w[i] {
				i++
			}
			for i > 0 && i < len(g) && !utf8.RuneStart(g[i]) {
				i--
			}
			return fmt.Sprintf("%s: differs from byte %d: computed %q, expected %q", at, i, cut(g[i:]), cut(w[min(i, len(w)):]))
		}
	}
	if pyjson.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("%s: computed %v, expected %v", at, short(got), short(want))
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// plain turns slices that suites may use into []any.
func plain(v any) any {
	switch x := v.(type) {
	case []string:
		return anys(x)
	case []int32:
		return anys(x)
	case []int:
		return anys(x)
	case int:
		return int64(x)
	case int32:
		return int64(x)
	}
	return v
}

func anys[T any](x []T) []any {
	out := make([]any, len(x))
	for i, v := range x {
		out[i] = plain(v)
	}
	return out
}

func number(v any) (float64, bool) {
	switch x := v.(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, true
	case *big.Int:
		f, _ := new(big.Float).SetInt(x).Float64()
		return f, true
	}
	return 0, false
}

func cut(s string) string {
	const most = 60
	for i := range s {
		if i > most {
			return s[:i] + "…"
		}
	}
	return s
}

func short(v any) string { return cut(pyjson.Dumps(v)) }
