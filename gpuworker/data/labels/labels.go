// Package labels looks after the labels of a data set: rows that say the same under different labels, agreement of annotators (Cohen's and
// Fleiss' kappa), class balance, and stratified samples.
package labels

import (
	"maps"
	"slices"
)

// Agreement adds up what annotators said, row by row.
type Agreement struct {
	// Of two annotators: rows that both labelled, those that they agree on, and how often each gave a label.
	n, same     int
	left, right map[string]int
	// byCount is the sum over the rows with so many labels, rows how many rows have them (none and one, too).
	byCount map[int]*agreed
	rows    map[int]int
	// labels are all that were given.
	labels map[string]bool
}

type agreed struct {
	share     map[string]int
	agreement float64
}

// NewAgreement makes a sum over no rows.
func NewAgreement() *Agreement {
	return &Agreement{left: map[string]int{}, right: map[string]int{}, byCount: map[int]*agreed{}, rows: map[int]int{}, labels: map[string]bool{}}
}

// Labels is how many different labels were given.
func (a *Agreement) Labels() int { return len(a.labels) }

// Add takes the labels of a row, one of each annotator; "" is none.
func (a *Agreement) Add(given []string) {
	if len(given) == 2 && given[0] != "" && given[1] != "" {
		a.n++
		a.left[given[0]]++
		a.right[given[1]]++
		if given[0] == given[1] {
			a.same++
		}
	}
	counts, k := map[string]int{}, 0
	for _, l := range given {
		if l != "" {
			counts[l]++
			a.labels[l] = true
			k++
		}
	}
	a.rows[k]++
	if k < 2 {
		return
	}
	x := a.byCount[k]
	if x == nil {
		x = &agreed{share: map[string]int{}}
		a.byCount[k] = x
	}
	pairs := 0
	for l, n := range counts {
		pairs += n * (n - 1)
		x.share[l] += n
	}
	x.agreement += float64(pairs) / float64(k*(k-1))
}

// CohenKappa is the agreement of two annotators beyond chance (Cohen 1960): 1 full, 0 as by chance. Rows that one of them left empty do not
// count. ok is false when no row is left, or chance alone would always agree.
func (a *Agreement) CohenKappa() (kappa float64, ok bool) {
	if a.n == 0 {
		return 0, false
	}
	n := float64(a.n)
	chance := 0.0
	for _, l := range slices.Sorted(maps.Keys(a.left)) {
		chance += float64(a.left[l]) * float64(a.right[l]) / n / n
	}
	if chance >= 1 {
		return 0, false
	}
	return (float64(a.same)/n - chance) / (1 - chance), true
}

// FleissKappa is the agreement of any number of annotators (Fleiss 1971). Rows with another number of labels than most rows do not count. ok is
// false when fewer than two labels a row are left.
func (a *Agreement) FleissKappa() (kappa float64, ok bool) {
	raters := 0
	for k := range a.byCount {
		if n := a.rows[k]; n > a.rows[raters] || raters < 2 || n == a.rows[raters] && k > raters {
			raters = k
		}
	}
	if raters < 2 {
		return 0, false
	}
	x, total := a.byCount[raters], float64(a.rows[raters])
	chance := 0.0
	for _, l := range slices.Sorted(maps.Keys(x.share)) {
		p := float64(x.share[l]) / (total * float64(raters))
		chance += p * p
	}
	if chance >= 1 {
		return 0, false
	}
	return (x.agreement/total - chance) / (1 - chance), true
}
