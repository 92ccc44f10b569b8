package source

import (
	"iter"
	"math"
	"sort"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
)

// streamDraws is how many numbers Hugging Face's shuffle buffer draws at once.
const streamDraws = 1000

// maxRepeats bounds how much longer interleave_over makes the stream.
const maxRepeats = 100

// Streamed is the size of a streamed data set: its rows, and, where each of its files is a shard of its own, the rows of each of them.
type Streamed struct {
	Rows   int
	Shards []int
}

// Stream orders the rows of streamed data sets as the first pass of Hugging Face's shuffle(buffer, seed) over IterableDatasets: shards of a set
// in a drawn order, sets merged by a strategy of Mixes, through a buffer from which a drawn row leaves for every one that comes. "concat" takes
// the sets one after the other in a drawn order; the others take turns, or, with probs (one share a set, nil: none), draw whose turn it is.
func Stream(sets []Streamed, buffer int, mix string, probs []float64, seed uint64) (Order, error) {
	if buffer < 1 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "buffer_size", "is %d, expected 1 or more", buffer)
	}
	if mix != "concat" && mix != "interleave_under" && mix != "interleave_over" {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "mix_strategy", "%s with streaming is not built", mix).WithHint("interleave_under, interleave_over or concat")
	}
	total := 0
	ways := make([]shardOrder, len(sets))
	for i, s := range sets {
		if s.Rows < 1 || s.Rows > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "", "data set %d has %d rows", i, s.Rows)
		}
		total += s.Rows
		var err error
		if ways[i], err = orderShards(s, seed); err != nil {
			return nil, err
		}
	}
	if total > math.MaxInt32 {
		return nil, schemas.Errorf(schemas.CodeData, "", "the data sets have %d rows, more than %d", total, math.MaxInt32)
	}
	rows := oneByOne(sets, seed)
	if mix != "concat" {
		rows = inTurns(sets, mix == "interleave_over", probs, seed)
	}
	g := pyrand.NewGenerator(seed)
	out, held := make(list, 0, total), make([]Pick, 0, min(buffer, total))
	var draws []int32
	for p := range rows {
		p.Row = ways[p.Set].at(p.Row)
		if len(held) < buffer {
			held = append(held, p)
			continue
		}
		if len(draws) == 0 {
			draws = g.Integers(buffer, streamDraws)
		}
		out = append(out, held[draws[0]])
		held[draws[0]], draws = p, draws[1:]
		if len(out) > maxRepeats*total {
			return nil, schemas.Errorf(schemas.CodeData, "interleave_probs", "a data set's share is so small that the others would be repeated more than %d times", maxRepeats)
		}
	}
	pyrand.Shuffle(g, held)
	return append(out, held...), nil
}

// PassSeed is the seed that orders a later pass over a stream as Stream orders the first, which is pass 0 (IterableDataset.set_epoch).
func PassSeed(seed uint64, pass int) uint64 {
	if pass == 0 {
		return seed
	}
	s := int64(pyrand.NewGenerator(seed).Uint64()>>1) - int64(pass)
	if s < 0 {
		s += math.MaxInt64
		s++
	}
	return uint64(s)
}

// shardOrder finds the rows of a set whose shards come in a drawn order; nil: they come as they are.
type shardOrder []shardPart

// shardPart is a shard: it begins at place at of the order, its first row is the set's row first.
type shardPart struct{ at, first int32 }

// orderShards draws the order of a set's shards (_shuffle_gen_kwargs).
func orderShards(s Streamed, seed uint64) (shardOrder, error) {
	if len(s.Shards) < 2 {
		return nil, nil
	}
	order, firsts := make([]int32, len(s.Shards)), make([]int32, len(s.Shards))
	n := 0
	for i, rows := range s.Shards {
		order[i], firsts[i] = int32(i), int32(n)
		n += rows
	}
	if n != s.Rows {
		return nil, schemas.Errorf(schemas.CodeInternal, "", "shards of %d rows make a data set of %d", n, s.Rows)
	}
	pyrand.Shuffle(pyrand.NewGenerator(seed), order)
	out := make(shardOrder, 0, len(order))
	at := int32(0)
	for _, i := range order {
		if s.Shards[i] > 0 {
			out = append(out, shardPart{at, firsts[i]})
			at += int32(s.Shards[i])
		}
	}
	return out, nil
}

// at is the row at a place.
func (o shardOrder) at(i int32) int32 {
	if o == nil {
		return i
	}
	k := sort.Search(len(o), func(k int) bool { return o[k].at > i }) - 1
	return o[k].first + i - o[k].at
}

// oneByOne is the rows of all sets, the sets in a drawn order.
func oneByOne(lengths []Streamed, seed uint64) iter.Seq[Pick] {
	sets := make([]int32, len(lengths))
	for i := range sets {
		sets[i] = int32(i)
	}
	pyrand.Shuffle(pyrand.NewGenerator(seed), sets)
	return func(yield func(Pick) bool) {
		for _, s := range sets {
			for row := range lengths[s].Rows {
				if !yield(Pick{s, int32(row)}) {
					return
				}
			}
		}
	}
}

// inTurns is what interleave_datasets gives: until the first set has no more rows, or until all have been gone through, those that end before
// beginning again.
func inTurns(lengths []Streamed, all bool, probs []float64, seed uint64) iter.Seq[Pick] {
	return func(yield func(Pick) bool) {
		g := pyrand.NewGenerator(seed)
		next, ended := make([]int, len(lengths)), make([]bool, len(lengths))
		left := len(lengths)
		var draws []int
		for turn := 0; left > 0 && (all || left == len(lengths)); turn++ {
			set := turn % len(lengths)
			if probs != nil {
				if len(draws) == 0 {
					draws = g.Choice(probs, streamDraws)
				}
				set, draws = draws[0], draws[1:]
			}
			p := Pick{int32(set), int32(next[set])}
			if next[set]++; next[set] == lengths[set].Rows {
				next[set] = 0
				if !ended[set] {
					ended[set] = true
					left--
				}
			}
			if !yield(p) {
				return
			}
		}
	}
}
