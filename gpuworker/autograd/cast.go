package autograd

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// cast is a parameter in the compute type.
type cast struct {
	x   Tensor
	mem block
}

// Compute is the element type of activations.
func (t *Tape) Compute() kernels.DType { return t.cfg.Compute }

// Master is the value's tensor as Data gives it, but a parameter's in f32, whatever the compute type: for lookups, which read few rows.
func (t *Tape) Master(v Value) Tensor {
	if p := t.slots[v.id].param; p != nil {
		return p.Data
	}
	return t.Data(v)
}

// compute is a parameter as operations use it: a matrix in the compute type, a vector as it is.
func (t *Tape) compute(p *Param) Tensor {
	if t.cfg.Compute == kernels.F32 || p.Role == RoleNorm || p.Role == RoleBias || len(p.Shape) < 2 || t.err != nil || !p.Data.Present() {
		return p.Data
	}
	if c, ok := t.casts[p]; ok {
		return c.x
	}
	x, b, err := t.mem.tensor(t.cfg.Compute, p.Shape)
	if err != nil {
		t.Fail("cast of "+p.Name, err)
		return p.Data
	}
	t.mem.queue.Copy(kernels.Copy{X: p.Data, Y: x})
	if err := t.mem.queue.Err(); err != nil {
		t.Fail("cast of "+p.Name, fmt.Errorf("cannot convert: %w", err), p.Data)
	}
	t.casts[p] = cast{x, b}
	return x
}

// dropCasts frees the casts of a unit that is not in use for now.
func (t *Tape) dropCasts(u *Unit) {
	if len(t.casts) == 0 {
		return
	}
	for _, p := range u.Params {
		if c, ok := t.casts[p]; ok {
			t.mem.release(&c.mem)
			delete(t.casts, p)
		}
	}
}
