package minhash

import (
	"math"
	"math/bits"
)

// sketch holds two bits of every place of a signature. Texts that were made from one template share half of their words, and with them a band
// of the signature, for a good part of all pairs; sketches tell nearly all of those apart without a look at the words.
type sketch [Permutations * 2 / 64]uint64

// sketchOf takes the two bits from all bits of a place: the upper ones of a minimum are mostly zero.
func sketchOf(sig *Signature) (out sketch) {
	for i, v := range sig {
		out[i/32] |= v * 0x9e3779b97f4a7c15 >> 62 << (i % 32 * 2)
	}
	return out
}

// alike is the number of places where two sketches are equal.
func (a *sketch) alike(b *sketch) int {
	n := Permutations
	for i := range a {
		x := a[i] ^ b[i]
		n -= bits.OnesCount64((x | x>>1) & 0x5555555555555555)
	}
	return n
}

// missed is the share of pairs, of exactly the threshold's similarity, whose sketches are too different.
const missed = 1e-4

// leastAlike is the most places in which the sketches of a pair of the threshold's similarity are equal but for a share missed of such pairs. A
// place is equal when the signatures' are, and by chance in a quarter of the other cases.
func leastAlike(threshold float64) int {
	p := threshold + (1-threshold)/4
	sum := 0.0
	for k := range Permutations {
		if sum += binomial(Permutations, k, p); sum > missed {
			return k
		}
	}
	return Permutations
}

// binomial is the probability of k successes of n.
func binomial(n, k int, p float64) float64 {
	if p >= 1 {
		return 0 // k < n
	}
	lgamma := func(x int) float64 {
		v, _ := math.Lgamma(float64(x + 1))
		return v
	}
	return math.Exp(lgamma(n) - lgamma(k) - lgamma(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
}
