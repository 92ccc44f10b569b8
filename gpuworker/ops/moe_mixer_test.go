package ops

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Without random numbers the greatest is chosen, of those that are left the second time, and weighs its share of those near it.
func TestMixerChoosesTheGreatest(t *testing.T) {
	x, s := []float32{1, -2, 3, 2.9, 0.1}, make([]float32, 5)
	c := MixerConfig{Experts: 5, Eps: 0.1}
	near := func(a, b float64) float32 { return float32(1 / (1 + math.Exp(b-a))) }
	if m := c.choose(x, s, -1, nil); m.id != 2 || math.Abs(float64(m.weight-near(3, 2.9))) > 1e-6 || s[0] != 0 || s[3] == 0 {
		t.Errorf("the first is %+v of %v", m, s)
	}
	if m := c.choose(x, s, 2, nil); m.id != 3 || m.weight != 1 || s[2] != 0 {
		t.Errorf("the second is %+v of %v: 1 is too far from 2.9", m, s)
	}
	c.Eps = 0
	if m := c.choose(x, s, -1, nil); m.id != 2 || m.weight != 1 {
		t.Errorf("without room for others %+v was chosen", m)
	}
	nan := float32(math.NaN())
	if m := c.choose([]float32{nan, nan}, s[:2], -1, nil); m.id < 0 || m.id > 1 {
		t.Errorf("of what is no number %+v was chosen", m)
	}
}

// Drawn choices have the frequencies of the softmax; one that is not the greatest counts a third in three of four cases.
func TestMixerDrawsByShare(t *testing.T) {
	x, s := []float32{1.1, 0.3, 1, -5, 0.9}, make([]float32, 5)
	c := MixerConfig{Experts: 5, Eps: 0.4}
	r := rand.New(rand.NewPCG(1, 2))
	const draws = 40000
	counts, whole, others := make([]float64, 5), 0.0, 0.0
	for range draws {
		m := c.choose(x, s, -1, r)
		counts[m.id]++
		if m.id != 0 {
			others++
			if m.weight == s[m.id] {
				whole++
			} else if m.weight != 0.3333*s[m.id] {
				t.Fatalf("weight %v of share %v", m.weight, s[m.id])
			}
		} else if m.weight != s[0] {
			t.Fatalf("the greatest weighs %v of %v", m.weight, s[0])
		}
	}
	for i, n := range counts {
		if math.Abs(n/draws-float64(s[i])) > 0.01 {
			t.Errorf("expert %d was drawn in %.3f of all cases, its share is %.3f", i, n/draws, s[i])
		}
	}
	if math.Abs(whole/others-0.25) > 0.02 {
		t.Errorf("%.3f of the others weigh all of their share, 0.25 was expected", whole/others)
	}
}
