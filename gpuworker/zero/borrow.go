package zero

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// borrows reports whether gradients may lie in the tape's memory: as long as no step has had several leaves a rank, with one rank, or where
// they end with their bucket's backward pass.
func (e *Engine) borrows() bool {
	return e.cfg.Scratch != nil && (e.plan.world == 1 || e.cfg.ByBlock) && e.accs == nil
}

// accumulators allocates places for gradients that must outlive a leaf, when a step of several leaves a rank comes for the first time.
func (e *Engine) accumulators(leaves int) error {
	if !e.borrows() || leaves <= e.plan.world {
		return nil
	}
	spread := e.spreads()
	total := int64(0)
	add := func(n int64) { total += (4*n + 255) / 256 * 256 }
	for _, b := range e.plan.buckets {
		add(b.ownLen)
		if spread {
			add(b.keptLen)
		}
	}
	if total == 0 {
		return nil
	}
	arena, err := e.q.Device().NewArena("gradients", total)
	if err != nil {
		return fmt.Errorf("cannot allocate gradients: %w", err)
	}
	take := func(n int64) (t kernels.Tensor) {
		if n > 0 && err == nil {
			t, err = arena.New(kernels.F32, n)
			e.state.Grads += 4 * n
		}
		return t
	}
	for _, b := range e.plan.buckets {
		b.mem.acc = take(b.ownLen)
		b.mem.reduced = b.mem.acc
		if spread {
			b.mem.reduced = take(b.keptLen)
		}
	}
	if err != nil {
		arena.Close()
		return err
	}
	e.accs = arena
	return nil
}

// borrow lends a bucket's gradients for the step of one leaf a rank that is running.
func (e *Engine) borrow(b *bucket) error {
	if !e.borrows() || b.mem.loan != nil || b.ownLen == 0 {
		return nil
	}
	loan, err := e.lend(b.ownLen)
	if err != nil {
		return err
	}
	b.mem.loan, b.mem.acc, b.mem.reduced = loan, loan.Tensor(), loan.Tensor()
	return nil
}

// borrowSpread lends the place of a bucket's whole reduced gradient.
func (e *Engine) borrowSpread(b *bucket) error {
	if !e.borrows() || b.mem.spread != nil {
		return nil
	}
	loan, err := e.lend(b.keptLen)
	if err != nil {
		return err
	}
	b.mem.spread, b.mem.reduced = loan, loan.Tensor()
	return nil
}

func (e *Engine) lend(n int64) (*autograd.Loan, error) {
	loan, err := e.cfg.Scratch.Borrow(n)
	if err != nil {
		return nil, fmt.Errorf("cannot borrow memory for gradients: %w", err)
	}
	return loan, nil
}

// returnLoans gives borrowed gradients back: after the update, or when a pass was given up.
func (e *Engine) returnLoans() {
	for _, b := range e.plan.buckets {
		b.returnLoans()
	}
}

func (b *bucket) returnLoans() {
	if b.mem.loan == nil && b.mem.spread == nil {
		return
	}
	b.mem.loan.Return()
	b.mem.spread.Return()
	b.mem.loan, b.mem.spread, b.mem.acc, b.mem.reduced = nil, nil, kernels.Tensor{}, kernels.Tensor{}
}
