package process

import (
	"cmp"
	"maps"
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
	// Items of one length are a group, from which the last is taken first.
	var values, counts, ends []int
	for i, item := range order {
		if i == 0 || lengths[item] != values[len(values)-1] {
			values, counts, ends = append(values, lengths[item]), append(counts, 0), append(ends, i)
		}
		counts[len(counts)-1]++
		ends[len(ends)-1] = i + 1
	}
	var out [][]int
	var sack []int
	pack(values, counts, capacity, func(g int) {
		ends[g]--
		sack = append(sack, order[ends[g]])
	}, func() { out, sack = append(out, sack), nil })
	return out
}

// Sacks is how many sacks Knapsack makes of so many items of each length, in memory for the lengths only.
func Sacks(counts map[int]int, capacity int) int {
	var values, left []int
	for _, n := range slices.Sorted(maps.Keys(counts)) {
		if n <= capacity && counts[n] > 0 {
			values, left = append(values, n), append(left, counts[n])
		}
	}
	sacks := 0
	pack(values, left, capacity, func(int) {}, func() { sacks++ })
	return sacks
}

// pack fills sacks from groups of items, left[g] of the length values[g] (ascending): take is told the group of every item, end that a sack is full.
func pack(values, left []int, capacity int, take func(g int), end func()) {
	// below leads from a group to the largest one not above it that has items left; in below groups count from 1, 0 is none.
	below := make([]int, len(values)+1)
	total := 0
	for g, n := range left {
		below[g+1] = g + 1
		total += n
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
	for total > 0 {
		room := capacity
		for {
			g := find(sort.Search(len(values), func(j int) bool { return values[j] > room }))
			if g == 0 {
				break
			}
			take(g - 1)
			room -= values[g-1]
			total--
			if left[g-1]--; left[g-1] == 0 {
				below[g] = g - 1
			}
		}
		end()
	}
}
