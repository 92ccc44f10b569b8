package config

import (
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Nearest returns up to limit candidates that a user may have meant by word, nearest first: those within a third of its length
// (at least 2 edits), and those that begin with it.
func Nearest(word string, candidates []string, limit int) []string {
	type scored struct {
		name string
		d    int
	}
	// Distances are quadratic in length: what no candidate resembles needs none.
	if len(word) > 100 {
		return nil
	}
	w := fold(word)
	most := max(2, len(w)/3)
	var out []scored
	for _, c := range candidates {
		f := fold(c)
		d := levenshtein.ComputeDistance(w, f)
		if len(w) >= 3 && strings.HasPrefix(f, w) {
			d = min(d, 1)
		}
		if d <= most && d < max(len(w), len(f)) {
			out = append(out, scored{c, d})
		}
	}
	slices.SortStableFunc(out, func(a, b scored) int {
		if a.d != b.d {
			return a.d - b.d
		}
		return strings.Compare(a.name, b.name)
	})
	var names []string
	for _, s := range out[:min(limit, len(out))] {
		names = append(names, s.name)
	}
	return names
}

func fold(s string) string {
	return strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(s))
}

// didYouMean is "; did you mean "x"?" or nothing.
func didYouMean(word string, candidates []string) string {
	if n := Nearest(word, candidates, 1); len(n) > 0 {
		return `; did you mean "` + n[0] + `"?`
	}
	return ""
}
