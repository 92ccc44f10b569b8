package report

import (
	"maps"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/process"
)

// Bin is one bar of a histogram: Count sequences of From to To tokens, both included.
type Bin struct {
	From  int `json:"from"`
	To    int `json:"to"`
	Count int `json:"count"`
}

// Tokens are the counts in tokens, of the sequences that the rows make: two of a pair, one of any other row.
type Tokens struct {
	Template  string `json:"template"`
	Total     int64  `json:"total"`
	Trained   int64  `json:"trained"`
	Mean      int    `json:"mean"`
	P50       int    `json:"p50"`
	P90       int    `json:"p90"`
	P99       int    `json:"p99"`
	Max       int    `json:"max"`
	Histogram []Bin  `json:"histogram"`
	Cutoff    int    `json:"cutoff_len,omitempty"`
	// Truncated is the share of sequences over the cutoff, Lost the share of tokens that they lose.
	Truncated float64 `json:"truncated_share"`
	Lost      float64 `json:"lost_token_share"`
	// PackedSequences is the number of sequences that packing makes, PackedFill the share of their positions that hold tokens, PaddedFill the
	// same for batches of 8 rows without packing.
	PackedSequences int     `json:"packed_sequences,omitempty"`
	PackedFill      float64 `json:"packed_fill,omitempty"`
	PaddedFill      float64 `json:"padded_fill,omitempty"`
}

// paddedBatch is how many rows are padded together where nothing is packed.
const paddedBatch = 8

// tokenCount adds up the sequences of a data set, in their order. It holds how often each length occurs, so that quantiles are exact.
type tokenCount struct {
	t       Tokens
	lengths map[int]int
	n       int
	// over, lost and tokens are sequences over the cutoff, what they lose, and what all keep; padded are the positions of batches, of which the one at
	// hand has rows of at most longest.
	over, lost, tokens, padded, rows, longest int
}

// add takes the next sequence.
func (c *tokenCount) add(length int) {
	c.t.Total += int64(length)
	if length == 0 {
		return
	}
	c.n++
	c.lengths[length]++
	if c.t.Cutoff <= 0 {
		return
	}
	kept := min(length, c.t.Cutoff)
	if c.tokens += kept; length > kept {
		c.over++
		c.lost += length - kept
	}
	c.rows++
	if c.longest = max(c.longest, kept); c.rows == paddedBatch {
		c.batch()
	}
}

// batch ends a batch.
func (c *tokenCount) batch() {
	c.padded += c.rows * c.longest
	c.rows, c.longest = 0, 0
}

// end is the sum.
func (c *tokenCount) end() *Tokens {
	t := &c.t
	if c.n == 0 {
		return t
	}
	sorted := slices.Sorted(maps.Keys(c.lengths))
	// at is the length of the sequence with so many others at or below it, from 1 on.
	at := func(rank int) int {
		for _, n := range sorted {
			if rank -= c.lengths[n]; rank <= 0 {
				return n
			}
		}
		return sorted[len(sorted)-1]
	}
	quantile := func(q float64) int { return at(int(math.Ceil(q * float64(c.n)))) }
	t.Mean, t.P50, t.P90, t.P99, t.Max = int(t.Total/int64(c.n)), quantile(0.5), quantile(0.9), quantile(0.99), sorted[len(sorted)-1]
	t.Histogram = histogram(sorted, c.lengths, at(max(1, c.n*99/100)))
	if t.Cutoff <= 0 {
		return t
	}
	c.batch()
	t.Truncated, t.Lost = float64(c.over)/float64(c.n), float64(c.lost)/float64(t.Total)
	kept := map[int]int{}
	for n, k := range c.lengths {
		kept[min(n, t.Cutoff)] += k
	}
	if t.PackedSequences = process.Sacks(kept, t.Cutoff); t.PackedSequences > 0 {
		t.PackedFill = float64(c.tokens) / float64(t.PackedSequences*t.Cutoff)
	}
	t.PaddedFill = float64(c.tokens) / float64(c.padded)
	return t
}

// histogram has bars of equal width up to top, the 99th percentile, and one for the rest; it begins with the first bar that is not empty.
func histogram(sorted []int, counts map[int]int, top int) []Bin {
	const bars = 20
	width := max(1, (top+bars-1)/bars)
	var out []Bin
	for from := 1; from <= top; from += width {
		out = append(out, Bin{From: from, To: from + width - 1})
	}
	last := out[len(out)-1].To
	if m := sorted[len(sorted)-1]; m > last {
		out = append(out, Bin{From: last + 1, To: m})
	}
	for _, n := range sorted {
		out[min(len(out)-1, (n-1)/width)].Count += counts[n]
	}
	return out[slices.IndexFunc(out, func(b Bin) bool { return b.Count > 0 }):]
}
