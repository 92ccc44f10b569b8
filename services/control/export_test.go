package control

// Waiting returns how many accepted runs wait for an object of the index to be written next.
func (f *Front) Waiting() int {
	f.index.mu.Lock()
	defer f.index.mu.Unlock()
	n := 0
	for _, l := range f.index.pools {
		n += len(l.waiting)
	}
	return n
}
