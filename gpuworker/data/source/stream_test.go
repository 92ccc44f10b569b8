package source

import (
	"bufio"
	"cmp"
	"encoding/json"
	"os"
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
			Buffer, Rows int
			Seed         uint64
			Mix          string
			Probs        []float64
			Order        [][2]int32
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		o, err := Stream(c.Lengths, c.Buffer, cmp.Or(c.Mix, "concat"), c.Probs, c.Seed)
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
	if _, err := Stream([]int{3}, 0, "concat", nil, 1); err == nil {
		t.Error("a buffer of nothing is accepted")
	}
	if _, err := Stream([]int{3, 4}, 2, "interleave_once", nil, 1); err == nil {
		t.Error("a strategy that streams do not have is accepted")
	}
	if _, err := Stream([]int{3, 4}, 2, "interleave_over", []float64{1, 0}, 1); err == nil {
		t.Error("a set that never has its turn is waited for")
	}
}
