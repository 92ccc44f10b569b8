package zero

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// borrows reports whether gradients may lie in the tape's memory: with one rank, as long as no step has had several leaves.
func (e *Engine) borrows() bool { return e.cfg.Scratch != nil && e.plan.world == 1 && e.accs == nil }

// accumulators allocates places for gradients that must outlive a leaf, when a step of several leaves comes for the first time.
func (e *Engine) accumulators(leaves int) error {
	if !e.borrows() || leaves == 1 {
		return nil
	}
	const align = 256
	total := int64(0)
	for _, b := range e.plan.buckets {
		total += (4*b.ownLen + align - 1) / align * align
	}
	if total == 0 {
		return nil
	}
	arena, err := e.q.Device().NewArena("gradients", total)
	if err != nil {
		return fmt.Errorf("cannot allocate gradients: %w", err)
	}
	for _, b := range e.plan.buckets {
		if b.mem.acc, err = arena.New(kernels.F32, b.ownLen); err != nil {
			arena.Close()
			return fmt.Errorf("cannot allocate gradients: %w", err)
		}
		b.mem.reduced = b.mem.acc
		e.state.Grads += 4 * b.ownLen
	}
	e.accs = arena
	return nil
}

// borrow lends a bucket's gradients for the step of one leaf that is running.
func (e *Engine) borrow(b *bucket) error {
	if !e.borrows() || b.mem.loan != nil {
		return nil
	}
	loan, err := e.cfg.Scratch.Borrow(b.ownLen)
	if err != nil {
		return fmt.Errorf("cannot borrow memory for gradients: %w", err)
	}
	b.mem.loan, b.mem.acc, b.mem.reduced = loan, loan.Tensor(), loan.Tensor()
	return nil
}

// returnLoans gives borrowed gradients back: after the update, or when a pass was given up.
func (e *Engine) returnLoans() {
	for _, b := range e.plan.buckets {
		if b.mem.loan != nil {
			b.mem.loan.Return()
			b.mem.loan, b.mem.acc, b.mem.reduced = nil, kernels.Tensor{}, kernels.Tensor{}
		}
	}
}
