package pyjson

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Style says how Dump writes. The zero value is json.dumps(v, ensure_ascii=False).
type Style struct {
	// Indent is the number of spaces a level, 0 for one line. With an indent the item separator has no space behind it, as in Python.
	Indent int
	// Lines breaks lines also where Indent is 0; Lead, when not empty, indents in place of Indent spaces.
	Lines bool
	Lead  string
	// Item and Pair replace the separators ", " and ": " when not empty.
	Item, Pair string
	// Sort orders keys by code point.
	Sort bool
	// ASCII escapes everything beyond ASCII.
	ASCII bool
	// HTML escapes < > & ' as Jinja's built-in tojson does.
	HTML bool
}

// Dumps is json.dumps(v, ensure_ascii=False).
func Dumps(v any) string { return Dump(v, Style{}) }

// Dump writes a value. Types other than those of the package doc are written as their quoted fmt text; ints of every size are accepted.
func Dump(v any, s Style) string {
	if s.Item == "" {
		s.Item = ", "
		if s.Indent > 0 || s.Lines {
			s.Item = ","
		}
	}
	if s.Pair == "" {
		s.Pair = ": "
	}
	w := &writer{style: s}
	w.value(v, 1)
	out := w.b.String()
	if s.HTML {
		out = strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`, "'", `\u0027`).Replace(out)
	}
	return out
}

type writer struct {
	b     strings.Builder
	style Style
}

func (w *writer) line(level int) {
	if w.style.Indent > 0 || w.style.Lines {
		w.b.WriteByte('\n')
		lead := w.style.Lead
		if lead == "" {
			lead = strings.Repeat(" ", w.style.Indent)
		}
		w.b.WriteString(strings.Repeat(lead, level))
	}
}

func (w *writer) value(v any, level int) {
	switch x := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(x))
	case int:
		w.b.WriteString(strconv.Itoa(x))
	case int32:
		w.b.WriteString(strconv.Itoa(int(x)))
	case int64:
		w.b.WriteString(strconv.FormatInt(x, 10))
	case *big.Int:
		w.b.WriteString(x.String())
	case float64:
		w.b.WriteString(Float(x))
	case string:
		w.str(x)
	case *Object:
		keys := x.Keys()
		if w.style.Sort {
			keys = slices.Sorted(slices.Values(keys))
		}
		w.list("{", "}", len(keys), level, func(i int) {
			w.str(keys[i])
			w.b.WriteString(w.style.Pair)
			w.value(x.Value(keys[i]), level+1)
		})
	case []any:
		w.list("[", "]", len(x), level, func(i int) { w.value(x[i], level+1) })
	case []string:
		w.list("[", "]", len(x), level, func(i int) { w.str(x[i]) })
	case []int32:
		w.list("[", "]", len(x), level, func(i int) { w.value(x[i], level+1) })
	case []int:
		w.list("[", "]", len(x), level, func(i int) { w.value(x[i], level+1) })
	default:
		w.str(fmt.Sprint(v))
	}
}

func (w *writer) list(open, end string, n, level int, item func(i int)) {
	w.b.WriteString(open)
	for i := range n {
		if i > 0 {
			w.b.WriteString(w.style.Item)
		}
		w.line(level)
		item(i)
	}
	if n > 0 {
		w.line(level - 1)
	}
	w.b.WriteString(end)
}

func (w *writer) str(s string) {
	w.b.WriteByte('"')
	for r := range runes(s) {
		switch {
		case r == '"' || r == '\\':
			w.b.WriteByte('\\')
			w.b.WriteRune(r)
		case r == '\n':
			w.b.WriteString(`\n`)
		case r == '\r':
			w.b.WriteString(`\r`)
		case r == '\t':
			w.b.WriteString(`\t`)
		case r == '\f':
			w.b.WriteString(`\f`)
		case r == '\b':
			w.b.WriteString(`\b`)
		case r < 0x20, w.style.ASCII && r == 0x7f, w.style.ASCII && r > 0x7f && r < 0x10000:
			if r == 0x7f {
				w.b.WriteRune(r)
				continue
			}
			fmt.Fprintf(&w.b, `\u%04x`, r)
		case w.style.ASCII && r >= 0x10000:
			fmt.Fprintf(&w.b, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			WriteRune(&w.b, r)
		}
	}
	w.b.WriteByte('"')
}

// Float writes a float as json.dumps does: float.__repr__, with NaN, Infinity and -Infinity.
func Float(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	e := strings.IndexByte(s, 'e')
	exp, err := strconv.Atoi(s[e+1:])
	if err != nil || exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
