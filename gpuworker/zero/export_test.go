package zero

// SetStaging sets the bytes of a slot that snapshots go through, before the first of them; 0 is the default.
func (e *Engine) SetStaging(bytes int64) { e.copies.size = bytes }
