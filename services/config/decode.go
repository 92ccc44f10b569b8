package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

var (
	rawType = reflect.TypeFor[json.RawMessage]()
	refType = reflect.TypeFor[schemas.Ref]()
)

// decoder fills Go values from the tree, strictly, and goes on after a problem. Keys are the json names of the fields.
type decoder struct {
	p *problems
	// ref handles a schemas.Ref given as text; rawFile a json.RawMessage given as the path of a JSON file.
	ref     func(n *node, path, text string, out *schemas.Ref)
	rawFile func(n *node, path, text string) json.RawMessage
}

func (d *decoder) decode(n *node, path string, out reflect.Value) {
	t := out.Type()
	switch {
	case t == rawType:
		d.raw(n, path, out)
		return
	case t == refType && !n.isMap:
		s, ok := n.scalar.(string)
		if !ok || s == "" {
			d.p.add(n, "%s is %s, expected a path or a stage:... or run:... address", path, n.kind())
			return
		}
		d.ref(n, path, s, out.Addr().Interface().(*schemas.Ref))
		return
	}
	if n.scalar == nil && !n.isMap && !n.isList {
		return // null leaves the default
	}
	switch t.Kind() {
	case reflect.Pointer:
		v := reflect.New(t.Elem())
		d.decode(n, path, v.Elem())
		out.Set(v)
	case reflect.Struct:
		d.structure(n, path, out)
	case reflect.Slice:
		if !n.isList {
			d.p.add(n, "%s is %s, expected a list", path, n.kind())
			return
		}
		v := reflect.MakeSlice(t, len(n.list), len(n.list))
		for i, e := range n.list {
			d.decode(e, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
		out.Set(v)
	case reflect.Map:
		if !n.isMap {
			d.p.add(n, "%s is %s, expected a mapping", path, n.kind())
			return
		}
		v := reflect.MakeMap(t)
		for _, k := range n.keys {
			e := reflect.New(t.Elem()).Elem()
			d.decode(n.values[k], join(path, k), e)
			v.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), e)
		}
		out.Set(v)
	default:
		d.scalar(n, path, out)
	}
}

func (d *decoder) structure(n *node, path string, out reflect.Value) {
	if !n.isMap {
		d.p.add(n, "%s is %s, expected a mapping", nonEmpty(path, "the configuration"), n.kind())
		return
	}
	fields := map[string]int{}
	var names []string
	t := out.Type()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = i
			names = append(names, name)
		}
	}
	for _, k := range n.keys {
		i, ok := fields[k]
		if !ok {
			d.p.add(n.values[k], "unknown key %q%s", join(path, k), didYouMean(k, names))
			continue
		}
		d.decode(n.values[k], join(path, k), out.Field(i))
	}
}

func (d *decoder) scalar(n *node, path string, out reflect.Value) {
	if n.isMap || n.isList {
		d.p.add(n, "%s is %s, expected one value", path, n.kind())
		return
	}
	switch out.Kind() {
	case reflect.String:
		switch n.scalar.(type) {
		case string:
			out.SetString(n.text)
		case bool:
			d.p.add(n, "%s is %s, expected text (put it in quotes)", path, n.kind())
		default:
			out.SetString(n.text)
		}
	case reflect.Bool:
		b, ok := n.scalar.(bool)
		if !ok {
			d.p.add(n, "%s is %s, expected true or false", path, n.kind())
			return
		}
		out.SetBool(b)
	case reflect.Int, reflect.Int64:
		f, ok := number(n)
		if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			d.p.add(n, "%s is %q, expected a whole number", path, n.text)
			return
		}
		out.SetInt(int64(f))
	case reflect.Uint64:
		if u, err := strconv.ParseUint(strings.ReplaceAll(n.text, "_", ""), 10, 64); err == nil {
			out.SetUint(u)
			return
		}
		d.p.add(n, "%s is %q, expected a whole number, not negative", path, n.text)
	case reflect.Float64:
		f, ok := number(n)
		if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
			d.p.add(n, "%s is %q, expected a number", path, n.text)
			return
		}
		out.SetFloat(f)
	default:
		d.p.add(n, "%s cannot be set here", path)
	}
}

// number reads a number also where YAML 1.1 sees text: "1e-4" and "5e5".
func number(n *node) (float64, bool) {
	switch v := n.scalar.(type) {
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	case string:
		f, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(v), "_", ""), 64)
		return f, err == nil
	}
	return 0, false
}

func (d *decoder) raw(n *node, path string, out reflect.Value) {
	if s, ok := n.scalar.(string); ok && d.rawFile != nil {
		out.SetBytes(d.rawFile(n, path, s))
		return
	}
	if !n.isMap {
		d.p.add(n, "%s is %s, expected a mapping or the path of a JSON file", path, n.kind())
		return
	}
	data, err := json.Marshal(plain(n))
	if err != nil {
		d.p.add(n, "%s cannot be written as JSON: %v", path, err)
		return
	}
	out.SetBytes(data)
}

// plain is the tree as JSON-able values.
func plain(n *node) any {
	switch {
	case n.isMap:
		m := make(map[string]any, len(n.keys))
		for _, k := range n.keys {
			m[k] = plain(n.values[k])
		}
		return m
	case n.isList:
		l := make([]any, len(n.list))
		for i, e := range n.list {
			l[i] = plain(e)
		}
		return l
	}
	if _, isText := n.scalar.(string); isText {
		if f, ok := number(n); ok && strings.ContainsAny(n.text, "eE") && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
	return n.scalar
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func nonEmpty(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// jsonNames lists the json names of a struct's fields.
func jsonNames(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
