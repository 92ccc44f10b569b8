package minhash

// Hold bounds how many words of kept rows stay in memory.
func (s *Spilled) Hold(words int) { s.held = words }

// Alike reports whether the words of two texts would be looked at, had they a band in common.
func Alike(a, b *Signature, threshold float64) bool {
	x, y := sketchOf(a), sketchOf(b)
	return x.alike(&y) >= leastAlike(threshold)
}
