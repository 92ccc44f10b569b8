package zero

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// slot is a stretch of device memory of the window pool.
type slot struct {
	arena *kernels.Arena
	flat  kernels.Tensor
	elems int64
	busy  bool
}

// view is the first n elements.
func (s *slot) view(n int64) kernels.Tensor { return s.flat.Slice(0, 0, n) }

// pool lends the memory that units are gathered into and that gradients pass through. What it has taken from the device it keeps until it is
// trimmed.
type pool struct {
	dev   *kernels.Device
	slots []*slot
	// most is the most bytes so far.
	most int64
}

// take lends at least n elements: the smallest free slot that fits, else a new one.
func (p *pool) take(n int64) (*slot, error) {
	var best *slot
	for _, s := range p.slots {
		if !s.busy && s.elems >= n && (best == nil || s.elems < best.elems) {
			best = s
		}
	}
	if best == nil {
		n = (n + 63) / 64 * 64 // arenas hand out multiples of 256 bytes
		arena, err := p.dev.NewArena("gather window", 4*n)
		if err != nil {
			return nil, fmt.Errorf("cannot allocate a gather window: %w", err)
		}
		flat, err := arena.New(kernels.F32, n)
		if err != nil {
			arena.Close()
			return nil, fmt.Errorf("cannot allocate a gather window: %w", err)
		}
		best = &slot{arena: arena, flat: flat, elems: n}
		p.slots = append(p.slots, best)
		p.most = max(p.most, p.held())
	}
	best.busy = true
	return best, nil
}

func (p *pool) give(s *slot) {
	if s != nil {
		s.busy = false
	}
}

// trim gives free slots from the n-th on back to the device. Nothing may be queued that uses them.
func (p *pool) trim(n int) {
	kept := p.slots[:n:n]
	for _, s := range p.slots[n:] {
		if s.busy {
			kept = append(kept, s)
			continue
		}
		s.arena.Close()
	}
	p.slots = kept
}

func (p *pool) held() int64 {
	var n int64
	for _, s := range p.slots {
		n += 4 * s.elems
	}
	return n
}

func (p *pool) close() {
	for _, s := range p.slots {
		s.arena.Close()
	}
	p.slots = nil
}
