package minhash_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

func words(r *rand.Rand, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "w" + strconv.Itoa(r.IntN(50_000))
	}
	return out
}

// distinct makes n different words that begin with a prefix.
func distinct(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + strconv.Itoa(i)
	}
	return out
}

// TestRecall makes pairs of a known Jaccard similarity: shared words and words of one side only.
func TestRecall(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 3))
	for _, c := range []struct {
		shared, own int
		dup         bool
	}{{80, 10, true}, {160, 20, true}, {24, 3, true}, {90, 5, true}, {8, 1, true}, {60, 20, false}, {50, 25, false}, {0, 40, false}} {
		const pairs = 400
		var first, second []string
		for i := range pairs {
			p := strconv.Itoa(i) + "x" + strconv.Itoa(c.shared)
			mk := func(side string) string {
				w := append(distinct("s"+p+"n", c.shared), distinct(side+p+"n", c.own)...)
				r.Shuffle(len(w), func(i, j int) { w[i], w[j] = w[j], w[i] })
				return strings.Join(w, " ")
			}
			first, second = append(first, mk("a")), append(second, mk("b"))
		}
		got := minhash.Duplicates(append(first, second...), 0.8, 1, 1)
		right := 0
		for _, m := range got {
			if m.Row-m.Of == pairs && math.Abs(m.Similarity-float64(c.shared)/float64(c.shared+2*c.own)) < 1e-9 {
				right++
			}
		}
		recall := float64(right) / pairs
		t.Logf("Jaccard %.2f: recall %.4f", float64(c.shared)/float64(c.shared+2*c.own), recall)
		if c.dup && recall < 0.95 || !c.dup && len(got) > 0 || len(got) != right {
			t.Errorf("shared %d, own %d: %d found, %d right", c.shared, c.own, len(got), right)
		}
	}
}

func TestEstimateIsUnbiased(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 5))
	sum, n := 0.0, 200
	for i := range n {
		h := minhash.NewHasher(1, uint64(i))
		w := words(r, 120)
		a, b := h.Set(strings.Join(w[:90], " ")), h.Set(strings.Join(w[30:], " "))
		sum += minhash.Estimate(h.Sign(a), h.Sign(b)) - minhash.Jaccard(a, b)
	}
	// The mean of n estimates of 0.5 has a standard deviation of sqrt(0.25/128/n).
	if bias := sum / float64(n); math.Abs(bias) > 4*math.Sqrt(0.25/128/float64(n)) {
		t.Errorf("the estimate is off by %.4f in the mean", bias)
	}
}

func TestSets(t *testing.T) {
	t.Parallel()
	h := minhash.NewHasher(1, 0)
	for _, c := range []struct {
		a, b string
		want float64
	}{
		{"The cat, sat.", "sat THE cat cat", 1}, {"", "", 1}, {"a b", "", 0}, {"今天天气很好", "今天天气很差", 4.0 / 6}, {"用Go语言", "用 go 语言", 1}, {"é", "É", 1},
	} {
		if got := minhash.Jaccard(h.Set(c.a), h.Set(c.b)); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%q, %q: %v, want %v", c.a, c.b, got, c.want)
		}
	}
	two := minhash.NewHasher(2, 0)
	if got := minhash.Jaccard(two.Set("a b c"), two.Set("c b a")); got != 0 {
		t.Errorf("pairs of words ignore the order: %v", got)
	}
	if m := minhash.Duplicates([]string{"", "", "x", "x y", "X!"}, 0.8, 1, 0); len(m) != 1 || m[0].Row != 4 || m[0].Of != 2 {
		t.Errorf("%v", m)
	}
	if m := minhash.Overlaps([]string{"one two three", "four"}, []string{"zero", "three two one"}, 0.9, 1, 0); len(m) != 1 || m[0].Row != 0 || m[0].Of != 1 {
		t.Errorf("%v", m)
	}
}

// TestSketchesTellTemplatesApart: of pairs that share half of their words hardly any is looked at word by word, of pairs at the threshold
// nearly all are.
func TestSketchesTellTemplatesApart(t *testing.T) {
	t.Parallel()
	const pairs = 2000
	for _, c := range []struct {
		shared, own int
		threshold   float64
		least, most float64
	}{{80, 10, 0.8, 0.999, 1}, {50, 25, 0.8, 0, 0.02}, {60, 20, 0.8, 0, 0.5}, {50, 25, 0.5, 0.999, 1}, {20, 40, 0.5, 0, 0.2}, {100, 0, 1, 1, 1}, {99, 1, 1, 0, 0.5}} {
		h, alike := minhash.NewHasher(1, 9), 0
		for i := range pairs {
			p := strconv.Itoa(i)
			text := func(side string) string {
				return strings.Join(append(distinct("s"+p+"n", c.shared), distinct(side+p+"n", c.own)...), " ")
			}
			if minhash.Alike(h.Sign(h.Set(text("a"))), h.Sign(h.Set(text("b"))), c.threshold) {
				alike++
			}
		}
		share := float64(alike) / pairs
		t.Logf("%d of %d words shared, threshold %.2f: %.4f", c.shared, c.shared+2*c.own, c.threshold, share)
		if share < c.least || share > c.most {
			t.Errorf("%d of %d words shared, threshold %.2f: %.4f of the pairs are looked at", c.shared, c.shared+2*c.own, c.threshold, share)
		}
	}
}

// BenchmarkTemplated measures rows of one template: half of the words of any two are the same.
func BenchmarkTemplated(b *testing.B) {
	r := rand.New(rand.NewPCG(2, 2))
	frame := strings.Join(words(r, 67), " ")
	texts := make([]string, 20_000)
	for i := range texts {
		texts[i] = frame + " " + strings.Join(words(r, 33), " ")
	}
	for b.Loop() {
		minhash.Duplicates(texts, 0.8, 1, 1)
	}
	b.ReportMetric(float64(len(texts)*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkDuplicates measures rows of 100 words, in memory and through scratch files as cleaning does it; rows/s is printed.
func BenchmarkDuplicates(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	texts := make([]string, 50_000)
	for i := range texts {
		texts[i] = strings.Join(words(r, 100), " ")
	}
	measure := func(b *testing.B, find func() (int, error)) {
		before := cpuSeconds(b)
		for b.Loop() {
			if n, err := find(); n > 0 || err != nil {
				b.Fatalf("%d duplicates among random rows, %v", n, err)
			}
		}
		rows := float64(len(texts) * b.N)
		b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
		// On a machine that does other things too, the CPU time tells what the wall clock does not.
		b.ReportMetric(rows/(cpuSeconds(b)-before), "rows/cpu-s")
	}
	b.Run("memory", func(b *testing.B) {
		measure(b, func() (int, error) { return len(minhash.Duplicates(texts, 0.8, 1, 1)), nil })
	})
	b.Run("spilled", func(b *testing.B) {
		dir := b.TempDir()
		measure(b, func() (found int, err error) {
			s, err := minhash.NewSpilled(dir, 0.8, 1, 1)
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			for _, t := range texts {
				if err := s.Add(t); err != nil {
					return 0, err
				}
			}
			err = s.Each(nil, func(minhash.Match) error { found++; return nil })
			return found, err
		})
	})
}

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
