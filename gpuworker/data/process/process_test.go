package process

import (
	"slices"
	"testing"
)

func TestInferLengths(t *testing.T) {
	for _, c := range [][5]int{{3000, 2000, 1000, 600, 400}, {5, 10, 7, 3, 4}, {1, 1, 1, 1, 0}, {500, 100, 1000, 500, 100}, {100, 3000, 1000, 100, 900}, {3000, 100, 1000, 900, 100}} {
		if s, d := InferLengths(c[0], c[1], c[2]); s != c[3] || d != c[4] {
			t.Errorf("%v: got %d, %d", c, s, d)
		}
	}
}

func TestKnapsackTakesTheLastOfEqualOnes(t *testing.T) {
	got := Knapsack([]int{10, 20, 30, 40, 50, 60, 200, 20}, 100)
	want := [][]int{{5, 3}, {4, 2, 7}, {1, 0}}
	if !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPackAndMask(t *testing.T) {
	samples := []Sample{{[]int32{1, 2}, []int32{Ignore, 2}}, {[]int32{3, 4, 5}, []int32{Ignore, 4, 5}}}
	p := Pack(samples, 5, true, 9)
	if len(p) != 1 {
		t.Fatalf("%d sequences", len(p))
	}
	for name, x := range map[string][2][]int32{
		"ids": {p[0].IDs, {3, 4, 5, 1, 2, 9}}, "labels": {p[0].Labels, {Ignore, 4, 5, Ignore, 2, Ignore}}, "attention": {p[0].Attention, {1, 1, 1, 2, 2, 0}},
		"positions": {p[0].Positions, {0, 1, 2, 0, 1, 0}}, "bounds": {p[0].Bounds, {0, 3, 5, 6}},
	} {
		if !slices.Equal(x[0], x[1]) {
			t.Errorf("%s: got %v, want %v", name, x[0], x[1])
		}
	}
	m := MayAttend(p[0].Attention)
	for q, row := range []string{"o.....", "oo....", "ooo...", "...o..", "...oo.", "......"} {
		for k := range row {
			if m[q][k] != (row[k] == 'o') {
				t.Errorf("position %d to %d: %t", q, k, m[q][k])
			}
		}
	}
}

func TestCollatePadsLeft(t *testing.T) {
	b := CollateSamples([]Sample{{[]int32{1}, []int32{1}}, {[]int32{2, 3, 4}, []int32{Ignore, 3, 4}}}, 7, 4, true)
	if !slices.Equal(b.IDs[0], []int32{7, 7, 7, 1}) || !slices.Equal(b.Attention[1], []int32{0, 1, 1, 1}) || !slices.Equal(b.Labels[1], []int32{Ignore, Ignore, 3, 4}) {
		t.Errorf("got %+v", b)
	}
}
