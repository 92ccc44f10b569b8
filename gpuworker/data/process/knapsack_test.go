package process

import (
	"cmp"
	"slices"
	"sort"
	"testing"

	"pgregory.net/rapid"
)

// slowKnapsack is greedy_knapsack as it is written in the reference: a sorted list that items are taken out of.
func slowKnapsack(lengths []int, capacity int) [][]int {
	var order []int
	for i, n := range lengths {
		if n <= capacity {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lengths[a], lengths[b]) })
	var out [][]int
	for len(order) > 0 {
		var sack []int
		for room := capacity; ; {
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

func TestKnapsackIsTheSlowOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		lengths := rapid.SliceOf(rapid.IntRange(0, 40)).Draw(rt, "lengths")
		capacity := rapid.IntRange(0, 60).Draw(rt, "capacity")
		got, want := Knapsack(lengths, capacity), slowKnapsack(lengths, capacity)
		if !slices.EqualFunc(got, want, slices.Equal) {
			rt.Fatalf("%v, want %v", got, want)
		}
		counts := map[int]int{}
		for _, n := range lengths {
			counts[n]++
		}
		if n := Sacks(counts, capacity); n != len(want) {
			rt.Fatalf("%d sacks, want %d", n, len(want))
		}
	})
}

// BenchmarkKnapsack packs as many samples as a large part has; taking each out of a list took time by their square.
func BenchmarkKnapsack(b *testing.B) {
	lengths := make([]int, 1_000_000)
	for i := range lengths {
		lengths[i] = 20 + i*7919%1500
	}
	for b.Loop() {
		Knapsack(lengths, 2048)
	}
}
