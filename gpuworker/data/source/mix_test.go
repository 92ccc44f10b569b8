package source

import (
	"fmt"
	"strings"
	"testing"
)

func picks(t *testing.T, lengths []int, strategy string, probs []float64, seed uint64) string {
	t.Helper()
	out, err := Mix(lengths, strategy, probs, seed)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range Picks(out, 0, out.Len()) {
		fmt.Fprintf(&b, "%c%d ", 'a'+p.Set, p.Row)
	}
	return strings.TrimSpace(b.String())
}

// TestMix holds what datasets 4.0's concatenate_datasets and interleave_datasets give.
func TestMix(t *testing.T) {
	for _, c := range []struct {
		strategy string
		probs    []float64
		want     string
	}{
		{"concat", nil, "a0 a1 a2 b0 b1"},
		{"interleave_under", nil, "a0 b0 a1 b1"},
		{"interleave_over", nil, "a0 b0 a1 b1 a2 b0"},
		{"interleave_once", nil, "a0 b0 a1 b1 a2"},
		// default_rng(42).random() is .774 .439 .859 .697 .094 .976 .761 .786 .128 .450 .371 .927
		{"interleave_under", []float64{0.5, 0.5}, "b0 a0 b1"},
		{"interleave_over", []float64{0.5, 0.5}, "b0 a0 b1 b0 a1 b1 b0 b1 a2"},
		{"interleave_once", []float64{0.5, 0.5}, "b0 a0 b1 a1 a2"},
	} {
		if got := picks(t, []int{3, 2}, c.strategy, c.probs, 42); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.strategy, c.probs, got, c.want)
		}
	}
	for _, probs := range [][]float64{{0.5}, {0.5, 0.6}, {1, 0}, {-1, 2}} {
		if _, err := Mix([]int{3, 2}, "interleave_over", probs, 1); err == nil {
			t.Errorf("shares %v are accepted", probs)
		}
	}
	if _, err := Mix([]int{0}, "concat", nil, 1); err == nil {
		t.Error("an empty set is accepted")
	}
}

func TestSplitAndSample(t *testing.T) {
	// default_rng(42).permutation(10) is 5 6 0 7 3 2 4 9 1 8.
	train, held, err := Split(10, 0.15, 42)
	if err != nil || fmt.Sprint(held) != "[5 6]" || fmt.Sprint(train) != "[0 7 3 2 4 9 1 8]" {
		t.Fatal(train, held, err)
	}
	if _, held, err = Split(10, 3, 42); err != nil || fmt.Sprint(held) != "[5 6 0]" {
		t.Fatal(held, err)
	}
	if train, held, err = Split(3, 0, 42); err != nil || held != nil || len(train) != 3 {
		t.Fatal(train, held, err)
	}
	for _, size := range []float64{10, 0.95, 12} {
		if _, _, err := Split(10, size, 1); err == nil {
			t.Errorf("size %g of 10 is accepted", size)
		}
	}
	if got := len(NewSampler(1).Rows(5, 12)); got != 12 {
		t.Error(got)
	}
	s := NewSampler(42)
	if a, b := s.Rows(5, 3), s.Rows(5, 3); fmt.Sprint(a) == fmt.Sprint(b) {
		t.Errorf("two sets get the same draw %v", a)
	}
	if got := fmt.Sprint(Batches(10, 3, 2)); got != "[[0 2] [2 4] [4 6] [6 7] [7 9] [9 10]]" {
		t.Error(got)
	}
	if got := fmt.Sprint(Batches(2, 8, 1000)); got != "[[0 1] [1 2]]" {
		t.Error(got)
	}
}
