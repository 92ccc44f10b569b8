package minhash

// Hold bounds how many words of kept rows stay in memory.
func (s *Spilled) Hold(words int) { s.held = words }
