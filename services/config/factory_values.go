package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// factoryValues reads the keys of a LLaMA-Factory configuration by their table.
type factoryValues struct {
	root *node
	p    *problems
	keys map[string]factoryKey
}

func newFactoryValues(root *node, p *problems) *factoryValues {
	v := &factoryValues{root: root, p: p, keys: map[string]factoryKey{}}
	for _, k := range factoryKeys() {
		v.keys[k.name] = k
	}
	return v
}

// check refuses unknown keys, wrong types and values that this build cannot honour.
func (v *factoryValues) check() {
	names := make([]string, 0, len(v.keys))
	for n := range v.keys {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range v.root.keys {
		k, ok := v.keys[n]
		at := v.root.values[n]
		switch {
		case !ok:
			v.p.add(at, "unknown key %q%s", n, didYouMean(n, names))
		case !v.given(n):
		case !v.fits(k, at):
			v.p.add(at, "%s is %q, expected %s", n, written(at), k.kind.describe())
		case k.status == refused && !v.isDefault(k, at):
			v.p.add(at, "%s: %s", n, k.note)
		}
	}
}

// describe names what a key's value must be.
func (k keyKind) describe() string {
	return map[keyKind]string{kText: "text", kWhole: "a whole number", kNumber: "a number", kTruth: "true or false", kList: "names with commas between them",
		kNumbers: "numbers with commas between them", kTextOrMap: "text or a mapping", kAnything: "a value"}[k]
}

func written(n *node) string {
	if n.isMap || n.isList {
		return n.kind()
	}
	return n.text
}

// given reports whether a key has a value; null and nothing are none.
func (v *factoryValues) given(name string) bool {
	n := v.root.values[name]
	return n != nil && (n.isMap || n.isList || n.scalar != nil && (n.text != "" || n.scalar != ""))
}

func (v *factoryValues) fits(k factoryKey, n *node) bool {
	switch k.kind {
	case kText:
		return !n.isMap && !n.isList
	case kWhole:
		f, ok := number64(n)
		return ok && f == math.Trunc(f) && math.Abs(f) <= 1<<53
	case kNumber:
		_, ok := number64(n)
		return ok
	case kTruth:
		_, ok := truthOf(n)
		return ok || k.name == "enable_thinking" && n.text == "null"
	case kList:
		_, ok := listOf(n)
		return ok
	case kNumbers:
		l, ok := listOf(n)
		return ok && !slices.ContainsFunc(l, func(s string) bool {
			f, err := strconv.ParseFloat(s, 64)
			return err != nil || math.IsNaN(f) || math.IsInf(f, 0)
		})
	case kTextOrMap:
		return !n.isList
	}
	return true
}

// isDefault reports whether a value is the key's default, which changes nothing.
func (v *factoryValues) isDefault(k factoryKey, n *node) bool {
	switch k.kind {
	case kTruth:
		b, _ := truthOf(n)
		return strconv.FormatBool(b) == k.def || k.def == "" && !b
	case kWhole, kNumber:
		f, _ := number64(n)
		d, err := strconv.ParseFloat(k.def, 64)
		return err == nil && f == d
	case kList:
		l, _ := listOf(n)
		return strings.Join(l, ",") == k.def
	}
	return n.text == k.def && !n.isMap && !n.isList || n.text == "none" && k.def == ""
}

func number64(n *node) (float64, bool) {
	if n == nil || n.isMap || n.isList {
		return 0, false
	}
	f, ok := number(n)
	return f, ok && !math.IsNaN(f) && !math.IsInf(f, 0)
}

// truthOf also takes what YAML 1.1 calls truth values, which is what upstream reads.
func truthOf(n *node) (value, ok bool) {
	if b, is := n.scalar.(bool); is {
		return b, true
	}
	switch strings.ToLower(n.text) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

// listOf reads "a,b" and [a, b].
func listOf(n *node) ([]string, bool) {
	var out []string
	switch {
	case n == nil:
		return nil, true
	case n.isMap:
		return nil, false
	case n.isList:
		for _, e := range n.list {
			if e.isMap || e.isList {
				return nil, false
			}
			out = append(out, e.text)
		}
		return out, true
	}
	for s := range strings.SplitSeq(n.text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out, true
}

// node is where a problem with a key is shown.
func (v *factoryValues) node(name string) *node { return v.root.values[name] }

// text is a key's value as text, its default when it has none.
func (v *factoryValues) text(name string) string {
	if !v.given(name) {
		return v.keys[name].def
	}
	return v.root.values[name].text
}

// number is a key's value, its default when it has none; 0 without either.
func (v *factoryValues) number(name string) float64 {
	if v.given(name) {
		f, _ := number64(v.root.values[name])
		return f
	}
	f, err := strconv.ParseFloat(v.keys[name].def, 64)
	if err != nil {
		return 0
	}
	return f
}

func (v *factoryValues) whole(name string) int { return int(v.number(name)) }

func (v *factoryValues) truth(name string) bool {
	if v.given(name) {
		b, _ := truthOf(v.root.values[name])
		return b
	}
	return v.keys[name].def == "true"
}

func (v *factoryValues) list(name string) []string {
	if v.given(name) {
		l, _ := listOf(v.root.values[name])
		return l
	}
	if d := v.keys[name].def; d != "" {
		return strings.Split(d, ",")
	}
	return nil
}

// system is default_system, nil when it is not given; an empty text is none at all.
func (v *factoryValues) system() *string {
	if n := v.node("default_system"); !v.given("default_system") && (n == nil || n.scalar != "") {
		return nil
	}
	s := v.text("default_system")
	return &s
}

// thinking is enable_thinking, nil for neither.
func (v *factoryValues) thinking() *bool {
	if n := v.node("enable_thinking"); n != nil && (n.scalar == nil || n.text == "null") {
		return nil
	}
	t := v.truth("enable_thinking")
	return &t
}

// bad adds a problem with a key.
func (v *factoryValues) bad(name, format string, args ...any) {
	v.p.add(v.node(name), "%s", name+" "+fmt.Sprintf(format, args...))
}
