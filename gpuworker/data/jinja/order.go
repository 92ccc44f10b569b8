package jinja

import (
	"errors"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

// folded is what values are ordered by: strings without their case.
func folded(v any, sensitive bool) any {
	if s, ok := v.(string); ok && !sensitive {
		return pytext.Lower(s)
	}
	return v
}

// sorted sorts by keys, stably.
func sorted(list, keys []any, reverse bool) ([]any, error) {
	idx := make([]int, len(list))
	for i := range idx {
		idx[i] = i
	}
	var bad error
	slices.SortStableFunc(idx, func(i, j int) int {
		n, err := order(keys[i], keys[j])
		if err != nil {
			bad = err
		}
		if reverse {
			return -n
		}
		return n
	})
	out := make([]any, len(list))
	for k, i := range idx {
		out[k] = list[i]
	}
	return out, bad
}

func ordered(name string, v any, a values) (any, error) {
	list, err := iterate(v)
	if err != nil {
		return nil, err
	}
	at := map[string][2]int{"sort": {2, 1}, "unique": {1, 0}, "min": {1, 0}, "max": {1, 0}, "groupby": {0, 2}}[name]
	sensitive := truthy(a.get(at[1], "case_sensitive", false))
	keys, err := sortKeys(name, list, a.get(at[0], "attribute", nil), sensitive)
	if err != nil {
		return nil, err
	}
	shown := slices.Clone(keys)
	for i := range keys {
		if _, u := keys[i].(undefined); u && name == "groupby" {
			keys[i] = a.get(1, "default", keys[i])
			shown[i] = keys[i]
		}
		keys[i] = folded(keys[i], sensitive)
	}
	switch name {
	case "sort":
		return sorted(list, keys, truthy(a.get(0, "reverse", false)))
	case "unique":
		out := []any{}
		var seen []any
		for i, k := range keys {
			if !slices.ContainsFunc(seen, func(s any) bool { return equal(s, k) }) {
				seen, out = append(seen, k), append(out, list[i])
			}
		}
		return &generator{list: out}, nil
	case "groupby":
		return groupBy(list, keys, shown)
	}
	if len(list) == 0 {
		return undefined{"there is no item, it"}, nil
	}
	best := 0
	for i := 1; i < len(list); i++ {
		n, err := order(keys[i], keys[best])
		if err != nil {
			return nil, err
		}
		if n < 0 && name == "min" || n > 0 && name == "max" {
			best = i
		}
	}
	return list[best], nil
}

// sortKeys are the values by which items are ordered: of several attributes, with commas between, for the filter sort.
func sortKeys(name string, list []any, attribute any, sensitive bool) ([]any, error) {
	path, ok := attribute.(string)
	if name != "sort" || !ok || !strings.Contains(path, ",") {
		keys, err := attributes(list, attribute)
		return slices.Clone(keys), err
	}
	out := make([]any, len(list))
	for _, p := range strings.Split(path, ",") {
		keys, err := attributes(list, p)
		if err != nil {
			return nil, err
		}
		for i, k := range keys {
			so, _ := out[i].(tuple)
			out[i] = append(so, folded(k, sensitive))
		}
	}
	return out, nil
}

// groupBy groups items by keys; shown are the keys before case was taken off.
func groupBy(list, keys, shown []any) (any, error) {
	places := make([]any, len(list))
	for i := range list {
		places[i] = int64(i)
	}
	places, err := sorted(places, keys, false)
	if err != nil {
		return nil, err
	}
	out := []any{}
	var last any
	for _, p := range places {
		i, _ := p.(int64)
		if n := len(out); n > 0 && equal(last, keys[i]) {
			g, _ := out[n-1].(groupTuple)
			out[n-1] = groupTuple{g.grouper, append(g.list, list[i])}
			continue
		}
		last = keys[i]
		out = append(out, groupTuple{shown[i], []any{list[i]}})
	}
	return out, nil
}

func dictSort(_ *env, v any, a values) (any, error) {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return nil, errors.New("dictsort needs a dict")
	}
	by := a.get(1, "by", "key")
	if by != "key" && by != "value" {
		return nil, errors.New(`dictsort sorts by either "key" or "value"`)
	}
	list := pairs(o)
	keys := make([]any, len(list))
	for i, k := range o.Keys() {
		keys[i] = k
		if by == "value" {
			keys[i] = o.Value(k)
		}
		keys[i] = folded(keys[i], truthy(a.get(0, "case_sensitive", false)))
	}
	return sorted(list, keys, truthy(a.get(2, "reverse", false)))
}
