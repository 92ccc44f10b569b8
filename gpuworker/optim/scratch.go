package optim

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// scratch is device memory of optimizers whose arithmetic runs there. It keeps the size of the largest request.
type scratch struct {
	arena *kernels.Arena
}

// reserve sees to it that arena has so many bytes; it is nil as long as none were asked for.
func (s *scratch) reserve(q *kernels.Queue, bytes int64) error {
	if bytes == 0 || s.arena != nil && s.arena.Size() >= bytes {
		return nil
	}
	if err := q.Sync(); err != nil {
		return err
	}
	s.Close()
	arena, err := q.Device().NewArena("optimizer scratch", bytes)
	if err != nil {
		return fmt.Errorf("cannot allocate the optimizer's scratch memory: %w", err)
	}
	s.arena = arena
	return nil
}

// Close frees the memory.
func (s *scratch) Close() {
	if s.arena != nil {
		s.arena.Close()
		s.arena = nil
	}
}
