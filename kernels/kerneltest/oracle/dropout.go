package oracle

import "math/bits"

// Philox is Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
func Philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		h0, l0 := bits.Mul32(0xD2511F53, counter[0])
		h1, l1 := bits.Mul32(0xCD9E8D57, counter[2])
		counter = [4]uint32{h1 ^ counter[1] ^ key[0], l1, h0 ^ counter[3] ^ key[1], l0}
		key[0] += 0x9E3779B9
		key[1] += 0xBB67AE85
	}
	return counter
}

// PhiloxKey is the key of a seed and a stream: SplitMix64 (Steele et al. 2014) of both.
func PhiloxKey(seed, stream uint64) [2]uint32 {
	mix := func(z uint64) uint64 {
		z += 0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return z ^ z>>31
	}
	k := mix(seed ^ mix(stream))
	return [2]uint32{uint32(k), uint32(k >> 32)}
}

// Drop says what dropout does to an element: it is a function of its row's id, of a head (0 where there is none) and of its column.
type Drop struct {
	P            float64
	Seed, Stream uint64
}

// Factor is 0 for a dropped element and 1/(1-P) for another.
func (d Drop) Factor(id int64, head, column int) float64 {
	u := Philox([4]uint32{uint32(column / 4), uint32(head), uint32(id), uint32(uint64(id) >> 32)}, PhiloxKey(d.Seed, d.Stream))
	if u[column%4] < uint32(float64(float32(d.P))*(1<<32)) {
		return 0
	}
	return 1 / (1 - d.P)
}
