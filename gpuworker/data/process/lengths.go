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
	var out [][]int
	for len(order) > 0 {
		var sack []int
		room := capacity
		for {
			k := sort.Search(len(order), func(j int) bool { return lengths[order[j]] > room }) - 1
			if k < 0 {
				break
			}
			sack = append(sack, order[k])
			room -= lengths[order[k]]
			order = slices.Delete(order, k, k+1)
		}
		out = append(out, sack)
	}
	return out
}
