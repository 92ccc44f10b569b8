// Package pyrand reproduces the random number generators that decide about the order of samples and about initial weights in Python:
// torch's on the CPU (randperm, uniform_, normal_), numpy.random.default_rng and numpy's older global generator. The same seeds give the
// same numbers as torch 2.9 and numpy 2.
package pyrand

import (
	"fmt"
	"math"
	"math/bits"
	"sort"
)

// MT is the Mersenne Twister MT19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998), seeded as torch and numpy.random.seed do: by one
// 32-bit number.
type MT struct {
	state [624]uint32
	at    int
}

// NewMT seeds a generator.
func NewMT(seed uint32) *MT {
	m := &MT{at: 624}
	m.state[0] = seed
	for i := 1; i < 624; i++ {
		m.state[i] = 1812433253*(m.state[i-1]^(m.state[i-1]>>30)) + uint32(i)
	}
	return m
}

// Uint32 is the next number.
func (m *MT) Uint32() uint32 {
	if m.at == 624 {
		m.twist()
	}
	y := m.state[m.at]
	m.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (m *MT) twist() {
	for i := range 624 {
		y := m.state[i]&0x80000000 | m.state[(i+1)%624]&0x7fffffff
		v := m.state[(i+397)%624] ^ y>>1
		if y&1 != 0 {
			v ^= 0x9908b0df
		}
		m.state[i] = v
	}
	m.at = 0
}

// Skip leaves out n numbers.
func (m *MT) Skip(n int64) {
	for n > 0 {
		if m.at == 624 {
			m.twist()
		}
		k := min(n, int64(624-m.at))
		m.at += int(k)
		n -= k
	}
}

// ShuffleSeed is what Dataset.shuffle of the datasets library seeds default_rng with when it is given no seed: the number that numpy's global
// generator stands at, which then moves on by one draw of random().
func (m *MT) ShuffleSeed() uint32 {
	seed := m.state[m.at%624]
	m.Skip(2)
	return seed
}

// maxRandperm is where torch changes to 64-bit draws.
const maxRandperm = math.MaxUint32 / 20

// Randperm is torch.randperm(n, generator=torch.Generator().manual_seed(seed)) on the CPU. n must be below 2^32/20.
func Randperm(n int, seed uint64) ([]int32, error) { return RandpermAfter(n, seed, 0) }

// RandpermAfter is Randperm of a generator that has drawn 32 bits skip times before.
func RandpermAfter(n int, seed uint64, skip int64) ([]int32, error) {
	if n < 0 || n >= maxRandperm {
		return nil, fmt.Errorf("cannot shuffle %d samples as torch does (at most %d)", n, maxRandperm-1)
	}
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	m := NewMT(uint32(seed)) // torch keeps 64 bits of the seed, but its Mersenne Twister is seeded by the low half
	m.Skip(skip)
	for i := range n - 1 {
		j := i + int(m.Uint32()%uint32(n-i))
		out[i], out[j] = out[j], out[i]
	}
	return out, nil
}

// masked draws from [0, most] as numpy does: the low bits of draws, until one fits.
func masked(next func() uint32, most uint32) uint32 {
	if most == 0 {
		return 0
	}
	mask := uint32(1)<<bits.Len32(most) - 1
	for {
		if v := next() & mask; v <= most {
			return v
		}
	}
}

func shuffled(n int, next func() uint32) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	for i := n - 1; i > 0; i-- {
		j := int(masked(next, uint32(i)))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// Permutation is numpy.random.permutation(n) after numpy.random.seed. n must be below 2^31.
func (m *MT) Permutation(n int) []int32 { return shuffled(n, m.Uint32) }

// Choice is numpy.random.choice(n, size), with replacement.
func (m *MT) Choice(n, size int) []int {
	out := make([]int, size)
	for i := range out {
		out[i] = int(masked(m.Uint32, uint32(n-1)))
	}
	return out
}

// Generator is numpy.random.default_rng(seed): PCG64 (XSL-RR 128/64, O'Neill 2014) seeded through SeedSequence.
type Generator struct {
	hi, lo       uint64
	incHi, incLo uint64
	half         uint32
	hasHalf      bool
}

// NewGenerator seeds a generator.
func NewGenerator(seed uint64) *Generator {
	s := seedSequence(seed)
	g := &Generator{incHi: s[2]<<1 | s[3]>>63, incLo: s[3]<<1 | 1}
	g.step()
	var carry uint64
	g.lo, carry = bits.Add64(g.lo, s[1], 0)
	g.hi, _ = bits.Add64(g.hi, s[0], carry)
	g.step()
	return g
}

// seedSequence is numpy's SeedSequence(seed).generate_state(4, uint64).
func seedSequence(seed uint64) [4]uint64 {
	const initA, multA, initB, multB, mixL, mixR = 0x43b0d7e5, 0x931e8875, 0x8b51f9dd, 0x58f38ded, 0xca01f9dd, 0x4973f715
	entropy := [4]uint32{uint32(seed), uint32(seed >> 32)}
	c := uint32(initA)
	hash := func(v uint32) uint32 {
		v ^= c
		c *= multA
		v *= c
		return v ^ v>>16
	}
	var pool [4]uint32
	for i := range pool {
		pool[i] = hash(entropy[i])
	}
	for src := range pool {
		for dst := range pool {
			if src != dst {
				v := mixL*pool[dst] - mixR*hash(pool[src])
				pool[dst] = v ^ v>>16
			}
		}
	}
	var words [8]uint32
	c = initB
	for i := range words {
		v := pool[i%4] ^ c
		c *= multB
		v *= c
		words[i] = v ^ v>>16
	}
	var out [4]uint64
	for i := range out {
		out[i] = uint64(words[2*i]) | uint64(words[2*i+1])<<32
	}
	return out
}

func (g *Generator) step() {
	const multHi, multLo = 0x2360ed051fc65da4, 0x4385df649fccf645
	hi, lo := bits.Mul64(g.lo, multLo)
	hi += g.hi*multLo + g.lo*multHi
	var carry uint64
	g.lo, carry = bits.Add64(lo, g.incLo, 0)
	g.hi, _ = bits.Add64(hi, g.incHi, carry)
}

// Uint64 is the next number.
func (g *Generator) Uint64() uint64 {
	g.step()
	return bits.RotateLeft64(g.hi^g.lo, -int(g.hi>>58))
}

// Uint32 gives the halves of a number, the low one first.
func (g *Generator) Uint32() uint32 {
	if g.hasHalf {
		g.hasHalf = false
		return g.half
	}
	v := g.Uint64()
	g.half, g.hasHalf = uint32(v>>32), true
	return uint32(v)
}

// Float64 is the next number in [0, 1).
func (g *Generator) Float64() float64 { return float64(g.Uint64()>>11) / (1 << 53) }

// Permutation is default_rng(seed).permutation(n). n must be below 2^31.
func (g *Generator) Permutation(n int) []int32 { return shuffled(n, g.Uint32) }

// Choice is default_rng(seed).choice(len(p), size, p=p): indices with the given probabilities, which must add up to 1.
func (g *Generator) Choice(p []float64, size int) []int {
	cdf := make([]float64, len(p))
	sum := 0.0
	for i, v := range p {
		sum += v
		cdf[i] = sum
	}
	for i := range cdf {
		cdf[i] /= sum
	}
	out := make([]int, size)
	for i := range out {
		x := g.Float64()
		out[i] = min(sort.Search(len(cdf), func(k int) bool { return cdf[k] > x }), len(cdf)-1)
	}
	return out
}

// below is a number in [0, n) by Lemire's method, as numpy bounds 32-bit numbers (arXiv:1805.10941).
func (g *Generator) below(n uint32) uint32 {
	m := uint64(g.Uint32()) * uint64(n)
	if low := uint32(m); low < n {
		for least := -n % n; low < least; low = uint32(m) {
			m = uint64(g.Uint32()) * uint64(n)
		}
	}
	return uint32(m >> 32)
}

// Integers is default_rng(seed).integers(0, n, size=size). n must be in [1, 2^31).
func (g *Generator) Integers(n, size int) []int32 {
	out := make([]int32, size)
	if n > 1 {
		for i := range out {
			out[i] = int32(g.below(uint32(n)))
		}
	}
	return out
}

// Shuffle is default_rng(seed).shuffle(x) of a Python list x.
func Shuffle[T any](g *Generator, x []T) {
	for i := len(x) - 1; i > 0; i-- {
		j := masked(g.Uint32, uint32(i))
		x[i], x[j] = x[j], x[i]
	}
}
