package zero

import (
	"context"
	"errors"
	"fmt"
)

// Sharded reports whether a pass gathers parameters from other ranks, so that all ranks have to make the same passes.
func (e *Engine) Sharded() bool { return e.sharded() }

// HoldBytes is what Hold takes of the device, beside the window that there is.
func (e *Engine) HoldBytes() int64 {
	if !e.sharded() {
		return 0
	}
	var n int64
	for _, u := range e.plan.units {
		n += 4 * (e.words(u.train.layout.Len) + u.frozen.layout.Len)
	}
	return max(0, n-e.window.held())
}

// Hold gathers the whole model, between leaves, until Release: passes in between exchange nothing, so that ranks may make different numbers of
// them. All ranks call it together; without sharding it does nothing. After an error Reset frees what was gathered.
func (e *Engine) Hold(ctx context.Context) error {
	if !e.sharded() || e.holding {
		return nil
	}
	if e.inLeaf {
		return errors.New("cannot hold the whole model within a leaf")
	}
	e.holding, e.heldFrom = true, len(e.window.slots)
	for _, u := range e.plan.units {
		if err := e.acquire(ctx, u.u); err != nil {
			return fmt.Errorf("cannot gather the whole model: %w", err)
		}
	}
	return nil
}

// Release ends Hold and gives the memory that it took back to the device, after waiting for the queue.
func (e *Engine) Release() error {
	if !e.holding {
		return nil
	}
	e.holding = false
	for _, u := range e.plan.units {
		if err := e.drop(u.u); err != nil {
			return err
		}
	}
	if err := e.q.Sync(); err != nil {
		return fmt.Errorf("cannot release the whole model: %w", err)
	}
	e.window.trim(e.heldFrom)
	return nil
}
