package source

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
)

// Pick is one row of one of several data sets.
type Pick struct{ Set, Row int32 }

// choiceBatch is how many draws Hugging Face's interleave_datasets makes at once; it does not change the order.
const choiceBatch = 1000

// Order is a sequence of rows of data sets.
type Order interface {
	// Len is the number of rows.
	Len() int
	// At is row i of the sequence.
	At(i int) Pick
	// Sequential reports whether the rows of every data set come in their order, so that reading them by ranges pays.
	Sequential() bool
}

// Picks are rows [from, to) of an order.
func Picks(o Order, from, to int) []Pick {
	out := make([]Pick, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, o.At(i))
	}
	return out
}

// concat is one data set after the other; ends are where they end.
type concat struct{ ends []int }

// Len implements Order.
func (c concat) Len() int { return c.ends[len(c.ends)-1] }

// At implements Order.
func (c concat) At(i int) Pick {
	from := 0
	for s, end := range c.ends {
		if i < end {
			return Pick{int32(s), int32(i - from)}
		}
		from = end
	}
	return Pick{}
}

// Sequential implements Order.
func (concat) Sequential() bool { return true }

// list is an order that is written down.
type list []Pick

// Len implements Order.
func (l list) Len() int { return len(l) }

// At implements Order.
func (l list) At(i int) Pick { return l[i] }

// Sequential implements Order.
func (list) Sequential() bool { return true }

// listed is an order of any kind that is written down.
type listed struct{ list }

// Listed is the order of the given rows, which may go back and forth.
func Listed(picks []Pick) Order { return listed{picks} }

// Sequential implements Order.
func (listed) Sequential() bool { return false }

// chosen are rows of another order.
type chosen struct {
	from Order
	idx  []int32
}

// Choose is the order of some rows of another one.
func Choose(o Order, idx []int32) Order { return chosen{o, idx} }

// Len implements Order.
func (c chosen) Len() int { return len(c.idx) }

// At implements Order.
func (c chosen) At(i int) Pick { return c.from.At(int(c.idx[i])) }

// Sequential implements Order.
func (chosen) Sequential() bool { return false }

// shifted numbers data sets from another one on.
type shifted struct {
	Order
	first int32
}

// Shift numbers the data sets of an order from first on.
func Shift(o Order, first int) Order {
	if first == 0 {
		return o
	}
	return shifted{o, int32(first)}
}

// At implements Order.
func (s shifted) At(i int) Pick {
	p := s.Order.At(i)
	p.Set += s.first
	return p
}

// Mix orders the rows of data sets of the given lengths as Hugging Face's datasets does: concat (one after the other), interleave_under
// (until the first is used up), interleave_over (until all are, beginning again those that are), interleave_once (until all are, each row
// once). With probs sets are drawn by numpy's default_rng(seed), without they take turns.
func Mix(lengths []int, strategy string, probs []float64, seed uint64) (Order, error) {
	for i, n := range lengths {
		if n < 1 || n > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "", "data set %d has %d rows", i, n)
		}
	}
	switch {
	case strategy == "concat" || len(lengths) == 1:
		var c concat
		end := 0
		for _, n := range lengths {
			end += n
			c.ends = append(c.ends, end)
		}
		if end > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "", "the data sets have %d rows, more than %d", end, math.MaxInt32)
		}
		return c, nil
	case len(probs) > 0:
		out, err := mixDrawn(lengths, strategy, probs, seed)
		return list(out), err
	}
	return list(mixTurns(lengths, strategy)), nil
}

// mixTurns takes a row of each set in turn.
func mixTurns(lengths []int, strategy string) []Pick {
	shortest, longest := lengths[0], 0
	for _, n := range lengths {
		shortest, longest = min(shortest, n), max(longest, n)
	}
	rounds := longest
	if strategy == "interleave_under" {
		rounds = shortest
	}
	var out []Pick
	for r := range rounds {
		for s, n := range lengths {
			if strategy == "interleave_once" && r >= n {
				continue
			}
			out = append(out, Pick{int32(s), int32(r % n)})
		}
	}
	return out
}

// mixDrawn draws the set of each row.
func mixDrawn(lengths []int, strategy string, probs []float64, seed uint64) ([]Pick, error) {
	sum, drawn := 0.0, false
	for i, p := range probs {
		if p < 0 || math.IsNaN(p) {
			return nil, schemas.Errorf(schemas.CodeInvalid, "interleave_probs", "%g is no share", p)
		}
		sum += p
		drawn = drawn || p > 0
		if p == 0 && strategy != "interleave_under" {
			return nil, schemas.Errorf(schemas.CodeInvalid, "interleave_probs", "the share of data set %d is 0: it would never be used up", i)
		}
	}
	if len(probs) != len(lengths) || math.Abs(sum-1) > 1e-8 || !drawn {
		return nil, schemas.Errorf(schemas.CodeInvalid, "interleave_probs", "must be %d shares that add up to 1, not %v", len(lengths), probs)
	}
	g := pyrand.NewGenerator(seed)
	next, done := make([]int, len(lengths)), make([]bool, len(lengths))
	left := len(lengths)
	if strategy == "interleave_under" {
		left = 1
	}
	var out []Pick
	for {
		for _, s := range g.Choice(probs, choiceBatch) {
			if left == 0 {
				return out, nil
			}
			if strategy == "interleave_once" && done[s] {
				continue
			}
			out = append(out, Pick{int32(s), int32(next[s])})
			if len(out) > math.MaxInt32 {
				return nil, schemas.Errorf(schemas.CodeInvalid, "interleave_probs", "the mixture has more than %d rows", math.MaxInt32)
			}
			if next[s]++; next[s] == lengths[s] {
				next[s] = 0
				if !done[s] {
					done[s] = true
					left--
				}
			}
		}
	}
}

// Split cuts n rows as Hugging Face's train_test_split(test_size=size, seed=seed) does: numpy's permutation, whose first part is held out.
// size below 1 is a share (rounded up), above it a number. The rows that are trained on are permuted, too.
func Split(n int, size float64, seed uint64) (train, held []int32, err error) {
	if size == 0 {
		train = make([]int32, n)
		for i := range train {
			train[i] = int32(i)
		}
		return train, nil, nil
	}
	k := int(size)
	if size < 1 {
		k = int(math.Ceil(size * float64(n)))
	}
	if k < 1 || k >= n || n > math.MaxInt32 {
		return nil, nil, schemas.Errorf(schemas.CodeInvalid, "val_size", "%g holds out %d of %d rows: some must be left on both sides", size, k, n)
	}
	p := pyrand.NewGenerator(seed).Permutation(n)
	return p[k:], p[:k], nil
}

// Sampler draws rows for num_samples from numpy's global generator, as LLaMA-Factory does after seeding it: one Sampler for all data sets
// of a run, in their order.
type Sampler struct{ m *pyrand.MT }

// NewSampler seeds the generator.
func NewSampler(seed uint64) *Sampler { return &Sampler{pyrand.NewMT(uint32(seed))} }

// Rows chooses want of n rows: all in a random order first, and, when more are wanted, further ones with repetition.
func (s *Sampler) Rows(n, want int) []int32 {
	out := s.m.Permutation(n)
	if want <= n {
		return out[:want]
	}
	for _, i := range s.m.Choice(n, want-n) {
		out = append(out, int32(i))
	}
	return out
}

// Batches are the ranges [from, to) of rows that Hugging Face's map with batched=True hands out together: rows are cut into contiguous
// shares of the workers (the first n%workers get one more), and each share into batches.
func Batches(n, workers, batch int) [][2]int {
	workers = max(1, min(workers, n))
	var out [][2]int
	at := 0
	for w := range workers {
		share := n / workers
		if w < n%workers {
			share++
		}
		for from := at; from < at+share; from += batch {
			out = append(out, [2]int{from, min(from+batch, at+share)})
		}
		at += share
	}
	return out
}
