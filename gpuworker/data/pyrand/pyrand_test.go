package pyrand

import (
	"encoding/json"
	"fmt"
	"math"
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
		// Floats are two tensors of N elements, one drawn after the other.
		Floats []float32
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
				got = whole(p)
			case "permutation":
				got = whole(NewGenerator(r.Seed).Permutation(r.N))[:len(r.Out)]
			case "choice":
				got = NewGenerator(r.Seed).Choice(r.P, r.N)
			case "legacy":
				m := NewMT(uint32(r.Seed))
				got = append(whole(m.Permutation(r.N)), m.Choice(r.N, r.Size)...)
			case "uniform", "normal":
				compareDraws(t, r.Kind, r.Seed, r.P, r.Floats)
			}
			if !slices.Equal(got, r.Out) {
				t.Fatalf("got %v, want %v", got[:min(20, len(got))], r.Out[:min(20, len(r.Out))])
			}
		})
		kinds[r.Kind]++
	}
	if len(kinds) != 6 || len(rows) < 15 {
		t.Fatalf("the golden file holds only %v", kinds)
	}
}

func whole(v []int32) []int {
	out := make([]int, len(v))
	for i, x := range v {
		out[i] = int(x)
	}
	return out
}

// compareDraws draws two tensors and then the second one alone: uniform numbers are the same bits, normal ones the same to rounding.
func compareDraws(t *testing.T, kind string, seed uint64, p []float64, want []float32) {
	t.Helper()
	n := len(want) / 2
	draw := func(g *Torch, dst []float32) {
		if kind == "uniform" {
			g.Uniform(dst, p[0], p[1])
			return
		}
		g.Normal(dst, p[0], p[1])
	}
	same := func(got, want []float32) {
		for i, v := range got {
			if v != want[i] && (kind == "uniform" || math.Abs(float64(v-want[i])) > 2e-6*p[1]) {
				t.Fatalf("element %d is %g, want %g", i, v, want[i])
			}
		}
	}
	g := NewTorch(seed)
	got := make([]float32, 2*n)
	draw(g, got[:n])
	again := g.Clone()
	draw(g, got[n:])
	same(got, want)
	draw(again, got[:n])
	same(got[:n], want[n:])
	skipping := NewTorch(seed)
	if kind == "uniform" {
		skipping.SkipUniform(int64(n))
	} else {
		skipping.SkipNormal(int64(n))
	}
	draw(skipping, got[:n])
	same(got[:n], want[n:])
}

func TestTooManySamplesAreRefused(t *testing.T) {
	if _, err := Randperm(maxRandperm, 1); err == nil {
		t.Fatal("no error")
	}
}
