package autograd

import (
	"slices"
	"sort"
)

// spanAlign is the granularity of every block in bytes: a cache line, and the widest vector.
const spanAlign = 64

// span is a free range of a segment.
type span struct{ off, size int64 }

// spans is a deterministic best-fit allocator with coalescing over one segment of a given size.
type spans struct {
	size int64
	free []span // by offset, never adjacent
	used int64
}

func newSpans(size int64) *spans { return &spans{size: size, free: []span{{0, size}}} }

// alloc takes n bytes (rounded up to spanAlign): the smallest free range that fits, the lowest of equals.
func (s *spans) alloc(n int64) (off int64, ok bool) {
	n = roundUp(n)
	best := -1
	for i, f := range s.free {
		if f.size >= n && (best < 0 || f.size < s.free[best].size) {
			best = i
		}
	}
	if best < 0 {
		return 0, false
	}
	off = s.free[best].off
	if s.free[best].size == n {
		s.free = append(s.free[:best], s.free[best+1:]...)
	} else {
		s.free[best].off += n
		s.free[best].size -= n
	}
	s.used += n
	return off, true
}

// reserve takes exactly [off, off+n), which is free.
func (s *spans) reserve(off, n int64) {
	n = roundUp(n)
	i := sort.Search(len(s.free), func(i int) bool { return s.free[i].off > off }) - 1
	f := s.free[i]
	var rest []span
	if f.off < off {
		rest = append(rest, span{f.off, off - f.off})
	}
	if end := off + n; end < f.off+f.size {
		rest = append(rest, span{end, f.off + f.size - end})
	}
	s.free = slices.Replace(s.free, i, i+1, rest...)
	s.used += n
}

// release gives back what alloc took.
func (s *spans) release(off, n int64) {
	n = roundUp(n)
	s.used -= n
	i := sort.Search(len(s.free), func(i int) bool { return s.free[i].off > off })
	joinsPrev := i > 0 && s.free[i-1].off+s.free[i-1].size == off
	joinsNext := i < len(s.free) && off+n == s.free[i].off
	switch {
	case joinsPrev && joinsNext:
		s.free[i-1].size += n + s.free[i].size
		s.free = append(s.free[:i], s.free[i+1:]...)
	case joinsPrev:
		s.free[i-1].size += n
	case joinsNext:
		s.free[i].off, s.free[i].size = off, s.free[i].size+n
	default:
		s.free = append(s.free, span{})
		copy(s.free[i+1:], s.free[i:])
		s.free[i] = span{off, n}
	}
}

func roundUp(n int64) int64 { return max(spanAlign, (n+spanAlign-1)/spanAlign*spanAlign) }
