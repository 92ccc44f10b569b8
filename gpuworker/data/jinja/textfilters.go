package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// textFilter are the built-in filters that are seldom used.
func textFilter(name string) filterFunc {
	switch name {
	case "truncate":
		return truncate
	case "wordwrap":
		return wordWrap
	case "striptags":
		return text(func(s string) any { return stripTags(s) })
	case "filesizeformat":
		return fileSize
	case "xmlattr":
		return xmlAttributes
	case "pprint":
		return func(_ *env, v any, _ values) (any, error) { return prettyPrint(v) }
	}
	return nil
}

// convert is abs, round, int and float.
func convert(name string, v any, a values) (any, error) {
	if u, ok := v.(undefined); ok {
		return nil, errUndefined(u)
	}
	n := integer(v)
	f, _, _, ok := number(v)
	switch name {
	case "abs":
		switch {
		case n != nil:
			return small(new(big.Int).Abs(n)), nil
		case ok:
			return math.Abs(f), nil
		}
		return nil, fmt.Errorf("bad operand for abs: %s", typeName(v))
	case "round":
		return roundFilter(v, a)
	}
	s, isText := unmarked(v).(string)
	s = strings.Trim(s, whitespace)
	if name == "float" {
		if isText {
			if x, ok := parseFloat(s); ok {
				return x, nil
			}
		} else if ok {
			return f, nil
		}
		return a.get(0, "default", 0.0), nil
	}
	if isText {
		_, base, _, _ := number(a.get(1, "base", int64(10)))
		if x, ok := parseInteger(s, int(base)); ok {
			return small(x), nil
		}
		if f, ok = parseFloat(s); !ok {
			return a.get(0, "default", int64(0)), nil
		}
	}
	if n != nil {
		return small(n), nil
	}
	if ok {
		if x, ok := truncated(f); ok {
			return x, nil
		}
		if math.IsInf(f, 0) && !isText {
			return nil, errors.New("cannot convert float infinity to integer")
		}
	}
	return a.get(0, "default", int64(0)), nil
}

func roundFilter(v any, a values) (any, error) {
	f, _, _, ok := number(v)
	_, digits, whole, isNumber := number(a.get(0, "precision", int64(0)))
	if !ok || !isNumber || !whole {
		return nil, fmt.Errorf("cannot round %s", typeName(v))
	}
	scale := math.Pow(10, float64(digits))
	switch a.get(1, "method", "common") {
	case "common":
		return round(v, digits)
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	}
	return nil, errors.New("the method of round is common, ceil or floor")
}

// underscores are right only between digits.
var (
	wrongUnderscore = regexp.MustCompile(`(?:^|[^0-9a-zA-Z])_|_(?:$|[^0-9a-zA-Z])`)
	decimalFloat    = regexp.MustCompile(`^[+-]?(?:[0-9_]*\.?[0-9_]+(?:[eE][+-]?[0-9_]+)?|[0-9_]+\.(?:[eE][+-]?[0-9_]+)?|(?i:inf|infinity|nan))$`)
)

// parseFloat is Python's float of a string.
func parseFloat(s string) (float64, bool) {
	if !decimalFloat.MatchString(s) || wrongUnderscore.MatchString(s) {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

// parseInteger is Python's int of a string.
func parseInteger(s string, base int) (*big.Int, bool) {
	if base != 0 && (base < 2 || base > 36) || len(s) > maxDigits {
		return nil, false
	}
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	prefixes := map[string]int{"0x": 16, "0o": 8, "0b": 2}
	if len(s) > 2 {
		if b := prefixes[strings.ToLower(s[:2])]; b != 0 && (base == b || base == 0) {
			s, base = strings.TrimPrefix(s[2:], "_"), b
		}
	}
	if base == 0 {
		base = 10
	}
	if s == "" || s[0] == '+' || s[0] == '-' || wrongUnderscore.MatchString(s) {
		return nil, false
	}
	n, ok := new(big.Int).SetString(strings.ReplaceAll(s, "_", ""), base)
	if ok && negative {
		n.Neg(n)
	}
	return n, ok
}

func urlEncode(_ *env, v any, _ values) (any, error) {
	quoted := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	if s, ok := unmarked(v).(string); ok {
		return strings.ReplaceAll(quoted(s), "%2F", "/"), nil
	}
	var list []any
	if o, ok := v.(*pyjson.Object); ok {
		list = pairs(o)
	} else if l, err := iterate(v); err == nil {
		list = l
	} else {
		return strings.ReplaceAll(quoted(str(v)), "%2F", "/"), nil
	}
	out := make([]string, len(list))
	for i, x := range list {
		p, ok := items(x)
		if !ok || len(p) != 2 {
			return nil, errors.New("urlencode needs pairs")
		}
		out[i] = url.QueryEscape(str(p[0])) + "=" + url.QueryEscape(str(p[1]))
	}
	return strings.Join(out, "&"), nil
}

var (
	htmlComment = regexp.MustCompile(`(?s)<!--.*?-->`)
	htmlTag     = regexp.MustCompile(`<[^>]*>`)
)

func stripTags(s string) string {
	s = htmlTag.ReplaceAllString(htmlComment.ReplaceAllString(s, ""), "")
	s = strings.Join(strings.FieldsFunc(s, isSpace), " ")
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&quot;", `"`, "&#34;", `"`, "&#39;", "'", "&amp;", "&").Replace(s)
}

func fileSize(_ *env, v any, a values) (any, error) {
	f, _, _, ok := number(v)
	if s, isText := unmarked(v).(string); isText {
		f, ok = parseFloat(strings.Trim(s, whitespace))
	}
	if !ok {
		return nil, fmt.Errorf("cannot tell a size from %s", typeName(v))
	}
	base, names := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if truthy(a.get(0, "binary", false)) {
		base, names = 1024.0, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	switch {
	case f == 1:
		return "1 Byte", nil
	case f < base:
		return fmt.Sprintf("%d Bytes", int64(f)), nil
	}
	unit := base
	for i, name := range names {
		if unit *= base; f < unit || i == len(names)-1 {
			return strconv.FormatFloat(base*f/unit, 'f', 1, 64) + " " + name, nil
		}
	}
	return "", nil
}

func xmlAttributes(_ *env, v any, a values) (any, error) {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return nil, errors.New("xmlattr needs a dict")
	}
	var out []string
	for _, k := range o.Keys() {
		if strings.ContainsAny(k, " \t\n\r\f\v/>=") {
			return nil, fmt.Errorf("invalid character in the attribute name %q", k)
		}
		x := o.Value(k)
		if _, u := x.(undefined); u || x == nil {
			continue
		}
		value := escaped(str(x))
		if m, ok := x.(markup); ok {
			value = string(m)
		}
		out = append(out, escaped(k)+`="`+value+`"`)
	}
	s := strings.Join(out, " ")
	if s != "" && truthy(a.get(0, "autospace", true)) {
		s = " " + s
	}
	return s, nil
}

// prettyPrint is pprint of what fits on a line: keys are sorted.
func prettyPrint(v any) (any, error) {
	s := repr(bySortedKeys(v))
	if utf8.RuneCountInString(s) > 80 {
		return nil, errors.New("pprint of more than a line is not built")
	}
	return s, nil
}

func bySortedKeys(v any) any {
	switch x := v.(type) {
	case *pyjson.Object:
		keys := append([]string{}, x.Keys()...)
		slices.Sort(keys)
		o := &pyjson.Object{}
		for _, k := range keys {
			o.Set(k, bySortedKeys(x.Value(k)))
		}
		return o
	case []any:
		out := make([]any, len(x))
		for i, y := range x {
			out[i] = bySortedKeys(y)
		}
		return out
	case tuple:
		out := make(tuple, len(x))
		for i, y := range x {
			out[i] = bySortedKeys(y)
		}
		return out
	}
	return v
}

// wordWrap is the filter wordwrap, as Python's textwrap breaks lines without touching white space within them.
func wordWrap(_ *env, v any, a values) (any, error) {
	_, width, whole, ok := number(a.get(0, "width", int64(79)))
	if !ok || !whole || width < 1 {
		return nil, errors.New("a width must be a positive whole number")
	}
	long, hyphens := truthy(a.get(1, "break_long_words", true)), truthy(a.get(3, "break_on_hyphens", true))
	with := "\n"
	if s, ok := a.get(2, "wrapstring", nil).(string); ok {
		with = s
	}
	var out []string
	for _, l := range splitLines(str(v), false) {
		out = append(out, strings.Join(wrapLine(str(l), int(width), long, hyphens), with))
	}
	return strings.Join(out, with), nil
}

// wrapLine breaks one line: chunks are words and runs of white space; white space at the ends of lines is dropped, but for the first line's beginning.
func wrapLine(s string, width int, long, hyphens bool) []string {
	chunks := wrapChunks(s, hyphens)
	var lines []string
	for len(chunks) > 0 {
		if len(lines) > 0 && strings.Trim(chunks[0], whitespace) == "" {
			chunks = chunks[1:]
		}
		var line []string
		n := 0
		for len(chunks) > 0 && n+utf8.RuneCountInString(chunks[0]) <= width {
			n += utf8.RuneCountInString(chunks[0])
			line, chunks = append(line, chunks[0]), chunks[1:]
		}
		if len(chunks) > 0 && utf8.RuneCountInString(chunks[0]) > width {
			switch r := []rune(chunks[0]); {
			case long:
				room := width - n
				if hyphens && len(r) > room {
					if k := strings.LastIndexByte(string(r[:room]), '-'); k > 0 && strings.Trim(string(r[:room])[:k], "-") != "" {
						room = utf8.RuneCountInString(string(r[:room])[:k]) + 1
					}
				}
				line, chunks[0] = append(line, string(r[:room])), string(r[room:])
			case len(line) == 0:
				line, chunks = append(line, chunks[0]), chunks[1:]
			}
		}
		if len(line) > 0 && strings.Trim(line[len(line)-1], whitespace) == "" {
			line = line[:len(line)-1]
		}
		if len(line) > 0 {
			lines = append(lines, strings.Join(line, ""))
		}
	}
	return lines
}

// wrapChunks cuts a line where it may be broken: around white space, and behind hyphens between letters.
func wrapChunks(s string, hyphens bool) []string {
	var out []string
	r := []rune(s)
	letter := func(i int) bool {
		return i >= 0 && i < len(r) && (r[i] >= 0x80 || r[i] >= 'a' && r[i] <= 'z' || r[i] >= 'A' && r[i] <= 'Z' || r[i] == '_')
	}
	blank := func(i int) bool { return strings.ContainsRune("\t\n\v\f\r ", r[i]) }
	from := 0
	for i := 1; i <= len(r); i++ {
		cut := i == len(r) || blank(i) != blank(i-1)
		if !cut && hyphens && r[i-1] == '-' && letter(i-2) && letter(i-3) && letter(i) && (letter(i+1) || i+1 < len(r) && r[i+1] == '-') {
			cut = true
		}
		if cut {
			out = append(out, string(r[from:i]))
			from = i
		}
	}
	return out
}

func truncate(_ *env, v any, a values) (any, error) {
	s := str(v)
	_, n, _, _ := number(a.get(0, "length", int64(255)))
	end := str(a.get(2, "end", "..."))
	_, leeway, _, ok := number(a.get(3, "leeway", int64(5)))
	if !ok {
		leeway = 5
	}
	room := int(n) - utf8.RuneCountInString(end)
	if utf8.RuneCountInString(s) <= int(n+leeway) {
		return s, nil
	}
	if room < 0 {
		return nil, errors.New("the end is longer than the length")
	}
	short := string([]rune(s)[:room])
	if !truthy(a.get(1, "killwords", false)) {
		if k := strings.LastIndexByte(short, ' '); k >= 0 {
			short = short[:k]
		}
	}
	return short + end, nil
}
