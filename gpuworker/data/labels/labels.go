// Package labels looks after the labels of a data set: rows that say the same under different labels, agreement of annotators (Cohen's and
// Fleiss' kappa), class balance, and stratified samples.
package labels

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

// Conflict is a group of rows that say the same, or nearly, and have different labels.
type Conflict struct {
	// Rows are places in the data set, ascending.
	Rows []int `json:"rows"`
	// Votes counts the rows of each label.
	Votes map[string]int `json:"votes"`
	// Majority is the label of more than half of the rows, "" when there is none.
	Majority string `json:"majority,omitempty"`
	Text     string `json:"text"`
}

// Conflicts finds groups of rows of at least a Jaccard similarity (1: equal but for case, white space and punctuation) that disagree. Rows
// without a label do not count.
func Conflicts(rows []data.Row, similarity float64, seed uint64) []Conflict {
	texts := make([]string, len(rows))
	for i := range rows {
		if rows[i].Label != "" {
			texts[i] = rows[i].User()
		}
	}
	parent := map[int]int{}
	for _, m := range minhash.Duplicates(texts, similarity, 1, seed) {
		parent[m.Row] = m.Of
	}
	groups := map[int][]int{}
	for i := range rows {
		if of, ok := parent[i]; ok {
			groups[of] = append(groups[of], i)
		}
	}
	var out []Conflict
	for first, rest := range groups {
		c := Conflict{Rows: append([]int{first}, rest...), Votes: map[string]int{}, Text: rows[first].User()}
		for _, i := range c.Rows {
			c.Votes[rows[i].Label]++
		}
		if len(c.Votes) < 2 {
			continue
		}
		for l, n := range c.Votes {
			if 2*n > len(c.Rows) {
				c.Majority = l
			}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return cmp.Compare(a.Rows[0], b.Rows[0]) })
	return out
}

// Review makes the entries of a review file from conflicts: every row of a group without majority, else the rows that differ from it.
func Review(rows []data.Row, conflicts []Conflict) []clean.ReviewEntry {
	var out []clean.ReviewEntry
	seen := map[string]bool{}
	for _, c := range conflicts {
		var votes []string
		for l, n := range c.Votes {
			votes = append(votes, fmt.Sprintf("%s: %d", l, n))
		}
		slices.Sort(votes)
		for _, i := range c.Rows {
			id := clean.RowID(&rows[i])
			if rows[i].Label == c.Majority || seen[id] {
				continue
			}
			seen[id] = true
			out = append(out, clean.ReviewEntry{ID: id, Text: rows[i].User(), Label: rows[i].Label, Suggested: c.Majority,
				Reason: "rows that say the same have the labels " + strings.Join(votes, ", ")})
		}
	}
	return out
}

// CohenKappa is the agreement of two annotators beyond chance (Cohen 1960): 1 full, 0 as by chance. Rows that one of them left empty do not
// count. ok is false when no row is left, or chance alone would always agree.
func CohenKappa(a, b []string) (kappa float64, ok bool) {
	n, same := 0, 0
	left, right := map[string]int{}, map[string]int{}
	for i := range min(len(a), len(b)) {
		if a[i] == "" || b[i] == "" {
			continue
		}
		n++
		left[a[i]]++
		right[b[i]]++
		if a[i] == b[i] {
			same++
		}
	}
	if n == 0 {
		return 0, false
	}
	chance := 0.0
	for l, k := range left {
		chance += float64(k) * float64(right[l]) / float64(n) / float64(n)
	}
	if chance >= 1 {
		return 0, false
	}
	return (float64(same)/float64(n) - chance) / (1 - chance), true
}

// FleissKappa is the agreement of any number of annotators (Fleiss 1971): ratings[row] are the labels that were given to a row. Rows with
// another number of labels than most rows do not count. ok is false when fewer than two labels a row are left.
func FleissKappa(ratings [][]string) (kappa float64, ok bool) {
	sizes := map[int]int{}
	given := make([][]string, len(ratings))
	for i, r := range ratings {
		given[i] = slices.DeleteFunc(slices.Clone(r), func(l string) bool { return l == "" })
		sizes[len(given[i])]++
	}
	raters := 0
	for k, n := range sizes {
		if k >= 2 && (n > sizes[raters] || raters < 2 || n == sizes[raters] && k > raters) {
			raters = k
		}
	}
	if raters < 2 {
		return 0, false
	}
	total, agreement := 0, 0.0
	share := map[string]int{}
	for _, r := range given {
		if len(r) != raters {
			continue
		}
		total++
		counts := map[string]int{}
		for _, l := range r {
			counts[l]++
			share[l]++
		}
		pairs := 0
		for _, n := range counts {
			pairs += n * (n - 1)
		}
		agreement += float64(pairs) / float64(raters*(raters-1))
	}
	chance := 0.0
	for _, n := range share {
		p := float64(n) / float64(total*raters)
		chance += p * p
	}
	if total == 0 || chance >= 1 {
		return 0, false
	}
	return (agreement/float64(total) - chance) / (1 - chance), true
}
