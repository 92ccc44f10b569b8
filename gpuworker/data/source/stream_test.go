package source

import (
	"bufio"
	"cmp"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// TestStreamAsDatasets compares with datasets 4.0.0 (testdata/stream.py).
func TestStreamAsDatasets(t *testing.T) {
	f, err := os.Open("testdata/stream.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	n := 0
	for ; sc.Scan(); n++ {
		var c struct {
			Lengths      []int
			Shards       [][]int
			Buffer, Rows int
			Pass         int
			Seed         uint64
			Mix          string
			Probs        []float64
			Order        [][2]int32
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		o, err := Stream(streamed(c.Lengths, c.Shards), c.Buffer, cmp.Or(c.Mix, "concat"), c.Probs, PassSeed(c.Seed, c.Pass))
		if err != nil || o.Len() != c.Rows {
			t.Fatalf("%v %d %d: %v, %d rows of %d", c.Lengths, c.Buffer, c.Seed, err, o.Len(), c.Rows)
		}
		for i, want := range c.Order {
			if got := o.At(i); got != (Pick{want[0], want[1]}) {
				t.Errorf("%v, buffer %d, seed %d: row %d is %v, datasets has %v", c.Lengths, c.Buffer, c.Seed, i, got, want)
				break
			}
		}
	}
	if n < 60 {
		t.Errorf("%d cases", n)
	}
	if _, err := Stream(streamed([]int{3}, nil), 0, "concat", nil, 1); err == nil {
		t.Error("a buffer of nothing is accepted")
	}
	if _, err := Stream(streamed([]int{3, 4}, nil), 2, "interleave_once", nil, 1); err == nil {
		t.Error("a strategy that streams do not have is accepted")
	}
	if _, err := Stream(streamed([]int{3, 4}, nil), 2, "interleave_over", []float64{1, 0}, 1); err == nil {
		t.Error("a set that never has its turn is waited for")
	}
}

// streamed makes sets of so many rows, in so many shards where they are given.
func streamed(lengths []int, shards [][]int) []Streamed {
	out := make([]Streamed, len(lengths))
	for i, n := range lengths {
		out[i].Rows = n
		if i < len(shards) {
			out[i].Shards = shards[i]
		}
	}
	return out
}

// TestLaterPassesOverAStream compares with datasets 4.0.0: shuffle(buffer_size=4, seed=7), then set_epoch, over 11 and 7 rows.
func TestLaterPassesOverAStream(t *testing.T) {
	for _, c := range []struct {
		mix     string
		probs   []float64
		lengths []int
		want    [][]int
	}{
		{"concat", nil, []int{11}, [][]int{{3, 2, 5, 4, 6, 7, 9, 8, 1, 10, 0}, {1, 0, 2, 4, 7, 5, 3, 9, 8, 6, 10}, {2, 4, 1, 5, 7, 0, 3, 8, 6, 10, 9}}},
		{"concat", nil, []int{11, 7}, [][]int{{3, 2, 5, 4, 6, 7, 9, 0, 100, 1, 102, 10, 104, 101, 8, 103, 105, 106},
			{101, 100, 102, 104, 0, 105, 103, 3, 106, 4, 2, 1, 8, 6, 7, 9, 5, 10}, {102, 104, 101, 105, 0, 100, 103, 2, 106, 3, 1, 4, 6, 5, 7, 10, 9, 8}}},
		{"interleave_under", []float64{0.6, 0.4}, []int{11, 7}, [][]int{{0, 102, 103, 1, 2, 104, 3, 100, 5, 101, 7, 4, 9, 105, 8, 106, 6},
			{1, 0, 2, 101, 4, 3, 100, 103, 102, 104, 6, 5, 105, 9, 10, 7, 8}, {1, 101, 100, 3, 102, 0, 2, 5, 4, 6, 103, 104, 105, 8, 7, 10, 9}}},
		{"interleave_over", []float64{0.6, 0.4}, []int{11, 7}, [][]int{{0, 102, 103, 1, 2, 104, 3, 100, 5, 101, 7, 4, 9, 6, 8, 106, 100, 105, 101, 102, 10},
			{1, 0, 2, 101, 4, 3, 100, 103, 102, 104, 6, 5, 105, 8, 7, 10, 0, 9, 106, 2, 1, 3}, {1, 101, 100, 3, 102, 0, 2, 5, 4, 6, 103, 104, 105, 7, 8, 106, 10, 9}}},
	} {
		for pass, want := range c.want {
			o, err := Stream(streamed(c.lengths, nil), 4, c.mix, c.probs, PassSeed(7, pass))
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for i := range o.Len() {
				p := o.At(i)
				got = append(got, 100*int(p.Set)+int(p.Row))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s over %v, pass %d: %v, datasets has %v", c.mix, c.lengths, pass, got, want)
			}
		}
	}
}
