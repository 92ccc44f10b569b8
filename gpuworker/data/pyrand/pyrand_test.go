package pyrand

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
)

// TestTheSameNumbersAsPython compares with testdata/golden.json, which golden.py writes.
func TestTheSameNumbersAsPython(t *testing.T) {
	raw, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Kind string
		N    int
		Size int
		Seed uint64
		P    []float64
		Out  []int
	}
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, r := range rows {
		t.Run(fmt.Sprintf("%s %d seed %d", r.Kind, r.N, r.Seed), func(t *testing.T) {
			var got []int
			switch r.Kind {
			case "randperm":
				p, err := Randperm(r.N, r.Seed)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range p {
					got = append(got, int(v))
				}
			case "permutation":
				got = NewGenerator(r.Seed).Permutation(r.N)[:len(r.Out)]
			case "choice":
				got = NewGenerator(r.Seed).Choice(r.P, r.N)
			case "legacy":
				m := NewMT(uint32(r.Seed))
				got = append(m.Permutation(r.N), m.Choice(r.N, r.Size)...)
			}
			if !slices.Equal(got, r.Out) {
				t.Fatalf("got %v, want %v", got[:min(20, len(got))], r.Out[:min(20, len(r.Out))])
			}
		})
		kinds[r.Kind]++
	}
	if len(kinds) != 4 || len(rows) < 15 {
		t.Fatalf("the golden file holds only %v", kinds)
	}
}

func TestTooManySamplesAreRefused(t *testing.T) {
	if _, err := Randperm(maxRandperm, 1); err == nil {
		t.Fatal("no error")
	}
}
