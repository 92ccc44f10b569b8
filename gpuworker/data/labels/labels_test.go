package labels_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
)

func TestKappas(t *testing.T) {
	t.Parallel()
	// Cohen's kappa of the textbook table 20, 5, 10, 15: observed 0.7, by chance 0.5.
	sum := labels.NewAgreement()
	for _, c := range []struct {
		x, y string
		n    int
	}{{"yes", "yes", 20}, {"yes", "no", 5}, {"no", "yes", 10}, {"no", "no", 15}, {"", "no", 3}} {
		for range c.n {
			sum.Add([]string{c.x, c.y})
		}
	}
	if k, ok := sum.CohenKappa(); !ok || math.Abs(k-0.4) > 1e-12 {
		t.Errorf("Cohen's kappa is %v", k)
	}
	one := labels.NewAgreement()
	one.Add([]string{"x", "x"})
	if _, ok := one.CohenKappa(); ok {
		t.Error("agreement on one label only says nothing")
	}
	// The example of Fleiss 1971 as Wikipedia gives it: 10 subjects, 14 raters, 5 categories, kappa 0.210.
	table := [][]int{{0, 0, 0, 0, 14}, {0, 2, 6, 4, 2}, {0, 0, 3, 5, 6}, {0, 3, 9, 2, 0}, {2, 2, 8, 1, 1}, {7, 7, 0, 0, 0}, {3, 2, 6, 3, 0}, {2, 5, 3, 2, 2}, {6, 5, 2, 1, 0}, {0, 2, 2, 3, 7}}
	sum = labels.NewAgreement()
	for _, row := range table {
		var r []string
		for c, n := range row {
			for range n {
				r = append(r, fmt.Sprint(c))
			}
		}
		sum.Add(r)
	}
	sum.Add([]string{"0"})
	if k, ok := sum.FleissKappa(); !ok || math.Abs(k-0.20993) > 1e-4 {
		t.Errorf("Fleiss' kappa is %v", k)
	}
	one = labels.NewAgreement()
	one.Add([]string{"a"})
	if _, ok := one.FleissKappa(); ok {
		t.Error("one rater cannot agree")
	}
}

func TestConflictsAndReview(t *testing.T) {
	t.Parallel()
	rows := []data.Row{{Text: "Pay the rent!", Label: "payment"}, {Text: "pay THE rent", Label: "payment"}, {Text: "pay the rent.", Label: "notice"}, {Text: "something else", Label: "notice"},
		{Text: "open or shut", Label: "a"}, {Text: "Open or shut?", Label: "b"}, {Text: "pay the rent", Label: ""}}
	f, err := labels.NewFinder(t.TempDir(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range rows {
		if err := f.Add(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	var c []labels.Conflict
	var r []clean.ReviewEntry
	if err := f.Each(func(one *labels.Conflict, review []clean.ReviewEntry) error {
		c, r = append(c, *one), append(r, review...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(c) != 2 || c[0].Majority != "payment" || len(c[0].Rows) != 3 || c[1].Majority != "" || c[1].Rows[0] != 4 {
		t.Fatalf("%+v", c)
	}
	if len(r) != 3 || c[0].Size != 3 || c[0].Text != rows[0].Text || c[0].Votes["payment"] != 2 || r[1].Text != rows[4].Text || r[0].Label != "notice" || r[0].Suggested != "payment" {
		t.Errorf("%+v", r)
	}
}

func TestSampleAndBalance(t *testing.T) {
	t.Parallel()
	var rows []data.Row
	for i := range 750 {
		l := "common"
		if i%10 == 0 {
			l = "rare"
		}
		if i == 5 {
			l = "single"
		}
		rows = append(rows, data.Row{Text: fmt.Sprint("row ", i), Label: l})
	}
	choose := func(rows []data.Row, n int, mode string) (kept []data.Row, repeated []data.Row) {
		c := labels.NewChoice(1)
		for i := range rows {
			c.Add(&rows[i])
		}
		c.Sample(n)
		for _, i := range c.Balance(mode) {
			repeated = append(repeated, rows[i])
		}
		for i := range rows {
			if c.Keeps(i) {
				kept = append(kept, rows[i])
			}
		}
		return kept, repeated
	}
	count := func(rows []data.Row) map[string]int {
		out := map[string]int{}
		for _, r := range rows {
			out[r.Label]++
		}
		return out
	}
	for _, n := range []int{3, 40, 100, 101} {
		kept, _ := choose(rows, n, "")
		c := count(kept)
		if len(kept) != n || c["single"] != 1 || n >= 40 && math.Abs(float64(c["rare"])-float64(n)*75/750) > 2 {
			t.Errorf("a sample of %d has %v", n, c)
		}
		turned := slices.Clone(rows)
		slices.Reverse(turned)
		if other, _ := choose(turned, n, ""); !slices.EqualFunc(kept, reversed(other), func(a, b data.Row) bool { return a.Text == b.Text }) {
			t.Errorf("a sample of %d depends on the order of the rows", n)
		}
	}
	if kept, _ := choose(rows, 5000, ""); len(kept) != len(rows) {
		t.Errorf("%d of %d rows are left", len(kept), len(rows))
	}
	if kept, repeated := choose(rows, 0, "undersample"); len(kept) != 3 || len(count(kept)) != 3 || repeated != nil {
		t.Errorf("%v, %v", count(kept), repeated)
	}
	kept, repeated := choose(rows, 300, "oversample")
	c := count(append(slices.Clone(kept), repeated...))
	if len(kept) != 300 || c["common"] != c["rare"] || c["rare"] != c["single"] {
		t.Errorf("%v", c)
	}
	for _, r := range repeated {
		if !slices.ContainsFunc(kept, func(k data.Row) bool { return k.Text == r.Text }) {
			t.Fatalf("%+v was not chosen, and is repeated", r)
		}
	}
}

func reversed(rows []data.Row) []data.Row {
	out := slices.Clone(rows)
	slices.Reverse(out)
	return out
}
