package process

import (
	"cmp"
	"slices"
	"sort"
)

// InferLengths shares cutoff tokens between a source and a target of the given lengths (infer_seqlen): the side shorter than half of cutoff is
// kept, else both are cut in proportion.
func InferLengths(source, target, cutoff int) (newSource, newTarget int) {
	most := cutoff
	switch {
	case target*2 < cutoff:
	case source*2 < cutoff:
		most = cutoff - source
	default:
		most = int(float64(cutoff) * (float64(target) / float64(source+target)))
	}
	newTarget = min(most, target)
	return min(max(cutoff-newTarget, 0), source), newTarget
}

// Knapsack packs items of the given lengths into sacks greedily (greedy_knapsack): the longest that still fits goes in next, of equal ones the
// last first. Items over capacity, which the reference cannot pack, are left out. It returns indices.
func Knapsack(lengths []int, capacity int) [][]int {
	order := make([]int, 0, len(lengths))
	for i, n := range lengths {
		if n <= capacity {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lengths[a], lengths[b]) })
	// Items of one length are a group, from which the last is taken first. below leads from a group to the largest one not above it that has
	// items left; groups count from 1, 0 is none.
	values, ends, below := []int{0}, []int{0}, []int{0}
	for i, item := range order {
		if i == 0 || lengths[item] != values[len(values)-1] {
			below = append(below, len(values))
			values, ends = append(values, lengths[item]), append(ends, i)
		}
		ends[len(ends)-1] = i + 1
	}
	starts := slices.Clone(ends)
	for g := 1; g < len(starts); g++ {
		starts[g] = ends[g-1]
	}
	find := func(g int) int {
		root := g
		for below[root] != root {
			root = below[root]
		}
		for g != root {
			g, below[g] = below[g], root
		}
		return root
	}
	var out [][]int
	for left := len(order); left > 0; {
		var sack []int
		room := capacity
		for {
			g := find(sort.Search(len(values)-1, func(j int) bool { return values[j+1] > room }))
			if g == 0 {
				break
			}
			ends[g]--
			sack = append(sack, order[ends[g]])
			room -= values[g]
			if left--; ends[g] == starts[g] {
				below[g] = g - 1
			}
		}
		out = append(out, sack)
	}
	return out
}
