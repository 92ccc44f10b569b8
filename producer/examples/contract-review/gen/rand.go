package main

import (
	"math/bits"
	"math/rand/v2"
)

// source draws from PCG with bounds of its own, so that the data does not change with the standard library's way of bounding.
type source struct{ pcg *rand.PCG }

func newSource(seed, stream uint64) *source { return &source{rand.NewPCG(seed, stream)} }

// intn is a number in [0, n).
func (s *source) intn(n int) int {
	hi, _ := bits.Mul64(s.pcg.Uint64(), uint64(n))
	return int(hi)
}

// chance is true with probability per/1000.
func (s *source) chance(per int) bool { return s.intn(1000) < per }

func pick[T any](s *source, from []T) T { return from[s.intn(len(from))] }

// shuffle permutes in place.
func shuffle[T any](s *source, v []T) {
	for i := len(v) - 1; i > 0; i-- {
		j := s.intn(i + 1)
		v[i], v[j] = v[j], v[i]
	}
}

// sample is k different elements.
func sample[T any](s *source, from []T, k int) []T {
	v := append([]T(nil), from...)
	shuffle(s, v)
	return v[:min(k, len(v))]
}
