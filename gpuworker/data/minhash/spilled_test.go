package minhash_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

// someTexts are texts of which many are near others: copies with some words changed, exact ones, short ones, empty ones.
func someTexts(r *rand.Rand, n int) []string {
	out := make([]string, n)
	for i := range out {
		k := r.IntN(10)
		switch {
		case k == 0 || i < 10:
			out[i] = strings.Join(words(r, 1+r.IntN(60)), " ")
		case k == 1:
			out[i] = []string{"", "...", "one", "one two", "今天天气怎么样"}[r.IntN(5)]
		case k == 2:
			out[i] = out[r.IntN(i)]
		default:
			w := strings.Fields(out[r.IntN(i)])
			for j := range w {
				if r.IntN(12) == 0 {
					w[j] = words(r, 1)[0]
				}
			}
			out[i] = strings.Join(w, " ")
		}
	}
	return out
}

func spilled(t *testing.T, threshold float64, shingle int, others, texts []string, skip func(int) bool) []minhash.Match {
	t.Helper()
	s, err := minhash.NewSpilled(t.TempDir(), threshold, shingle, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.Hold(2000, 1500) // the words of most rows are read from the file, and many blocks are compared
	for _, x := range others {
		if err := s.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	if others != nil {
		if err := s.Others(); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range texts {
		if err := s.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	var out []minhash.Match
	if err := s.Each(skip, func(m minhash.Match) error {
		out = append(out, m)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(others) + len(texts); n > 2000 && s.Blocks() < 3 {
		t.Errorf("%d rows were compared in %d blocks: the bound of a block is not tested", n, s.Blocks())
	}
	return out
}

// TestSpilledFindsTheSame: matches from scratch files are those from memory, in their order, with rows left out too.
func TestSpilledFindsTheSame(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 5))
	for _, c := range []struct {
		rows, shingle int
		threshold     float64
	}{{3000, 1, 0.8}, {3000, 1, 0.5}, {9000, 2, 0.6}, {50, 1, 1}, {1, 1, 0.8}} {
		texts := someTexts(r, c.rows)
		want := minhash.Duplicates(texts, c.threshold, c.shingle, 7)
		if got := spilled(t, c.threshold, c.shingle, nil, texts, nil); !slices.Equal(got, want) || c.rows > 1000 && len(want) < 100 {
			t.Errorf("%+v: %d duplicates, not the %d found in memory", c, len(got), len(want))
		}
		held := someTexts(r, c.rows/5+1)
		held = append(held, texts[:c.rows/10]...)
		want = minhash.Overlaps(texts, held, c.threshold, c.shingle, 7)
		if got := spilled(t, c.threshold, c.shingle, held, texts, nil); !slices.Equal(got, want) || c.rows > 1000 && len(want) < 100 {
			t.Errorf("%+v: %d overlaps, not the %d found in memory", c, len(got), len(want))
		}
		var left []string
		var at []int
		for i, x := range texts {
			if i%3 != 0 {
				left, at = append(left, x), append(at, i)
			}
		}
		want = minhash.Duplicates(left, c.threshold, c.shingle, 7)
		for i := range want {
			want[i].Row, want[i].Of = at[want[i].Row], at[want[i].Of]
		}
		if got := spilled(t, c.threshold, c.shingle, nil, texts, func(i int) bool { return i%3 == 0 }); !slices.Equal(got, want) {
			t.Errorf("%+v: %d duplicates among some rows, not %d", c, len(got), len(want))
		}
	}
}
