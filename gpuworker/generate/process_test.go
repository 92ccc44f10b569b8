package generate

import (
	"math"
	"slices"
	"testing"
)

// Process removes the right tokens where the answer is known by hand, and ties at the k-th place stay as in transformers.
func TestProcessByHand(t *testing.T) {
	t.Parallel()
	z := []float64{math.Log(0.5), math.Log(0.25), math.Log(0.15), math.Log(0.1)}
	for name, c := range map[string]struct {
		s    Sampling
		in   []float64
		kept []bool
	}{
		"top-k 2":           {Sampling{TopK: 2}, z, []bool{true, true, false, false}},
		"top-k keeps ties":  {Sampling{TopK: 2}, []float64{1, 0, 0, -1}, []bool{true, true, true, false}},
		"top-k beyond":      {Sampling{TopK: 9}, z, []bool{true, true, true, true}},
		"top-p 0.7":         {Sampling{TopP: 0.7}, z, []bool{true, true, false, false}},
		"top-p tiny":        {Sampling{TopP: 1e-9}, z, []bool{true, false, false, false}},
		"min-p 0.4":         {Sampling{MinP: 0.4}, z, []bool{true, true, false, false}},
		"hot, then top-p":   {Sampling{Temperature: 100, TopP: 0.7}, z, []bool{true, true, true, false}},
		"top-p after top-k": {Sampling{TopK: 3, TopP: 0.75}, z, []bool{true, true, false, false}},
	} {
		got := slices.Clone(c.in)
		c.s.Process(got, nil)
		for i := range got {
			if math.IsInf(got[i], -1) == c.kept[i] {
				t.Errorf("%s: token %d has %v, kept should be %v", name, i, got[i], c.kept[i])
			}
		}
	}
	p := []float64{2, -2, 1}
	Sampling{RepetitionPenalty: 2}.Process(p, []int32{0, 1, 0})
	if !slices.Equal(p, []float64{1, -4, 1}) {
		t.Errorf("repetition penalty gave %v", p)
	}
}

// draw gives each index its share, and never one without probability.
func TestDrawFollowsTheProbabilities(t *testing.T) {
	t.Parallel()
	p := []float64{0.2, 0, 0.5, 0.3, 0}
	counts := make([]float64, len(p))
	const n = 1000
	for i := range n {
		counts[draw(p, (float64(i)+0.5)/n)]++
	}
	for i := range p {
		if math.Abs(counts[i]/n-p[i]) > 1e-3 {
			t.Errorf("index %d came %g of the times, want %g", i, counts[i]/n, p[i])
		}
	}
	if draw(p, math.Nextafter(1, 0)) != 3 {
		t.Error("the last of the interval is not the last index that has a probability")
	}
}

func TestSamplingReportsAllProblems(t *testing.T) {
	t.Parallel()
	if err := (Sampling{Temperature: -1, TopK: -1, TopP: 2, MinP: 2, RepetitionPenalty: -1}).Validate(); err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 5 {
		t.Errorf("got %v", err)
	}
}
