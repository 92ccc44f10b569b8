package minhash

// Hold bounds how many words of kept rows stay in memory, and the keys of a block.
func (s *Spilled) Hold(words, links int) { s.held, s.links = words, links }

// Blocks is how many blocks Each compared.
func (s *Spilled) Blocks() int { return s.blocks }

// Alike reports whether the words of two texts would be looked at, had they a band in common.
func Alike(a, b *Signature, threshold float64) bool {
	x, y := sketchOf(a), sketchOf(b)
	return x.alike(&y) >= leastAlike(threshold)
}
