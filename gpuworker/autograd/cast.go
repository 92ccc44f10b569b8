package autograd

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// castKey names a parameter's value in another type than it is held in.
type castKey struct {
	p  *Param
	dt kernels.DType
}

// cast is such a value.
type cast struct {
	x   Tensor
	mem block
}

// Compute is the element type of activations.
func (t *Tape) Compute() kernels.DType { return t.cfg.Compute }

// Master is the value's tensor as Data gives it, but a parameter's in f32, whatever the compute type.
func (t *Tape) Master(v Value) Tensor {
	if p := t.slots[v.id].param; p != nil {
		return t.castTo(p, kernels.F32)
	}
	return t.Data(v)
}

// Held is the value's tensor as Data gives it, but a parameter's in the type that it is held in: for operations that convert what they
// read, such as lookups of few rows.
func (t *Tape) Held(v Value) Tensor {
	if p := t.slots[v.id].param; p != nil {
		return p.Data
	}
	return t.Data(v)
}

// computes is the element type that operations on activations of type dt want of a parameter: matrices have the same, vectors f32.
func computes(p *Param, dt kernels.DType) kernels.DType {
	if p.Role == RoleNorm || p.Role == RoleBias || len(p.Shape) < 2 {
		return kernels.F32
	}
	return dt
}

// StoreFrozen holds the frozen matrices of units, which operations would cast at each use, in the compute type from the start.
func StoreFrozen(units []*Unit, compute kernels.DType) {
	for _, u := range units {
		for _, p := range u.Params {
			if p.Frozen && (p.Role == RoleMatrix || p.Role == RoleEmbedding) && computes(p, compute) != kernels.F32 {
				p.Store = compute
			}
		}
	}
}

// compute is a parameter as operations use it: a matrix in the compute type, a vector in f32.
func (t *Tape) compute(p *Param) Tensor { return t.castTo(p, computes(p, t.cfg.Compute)) }

// castTo is a parameter's value in a type.
func (t *Tape) castTo(p *Param, dt kernels.DType) Tensor {
	if t.err != nil || !p.Data.Present() || p.Data.DType == dt {
		return p.Data
	}
	key := castKey{p, dt}
	if c, ok := t.casts[key]; ok {
		return c.x
	}
	x, b, err := t.mem.tensor(dt, p.Shape)
	if err != nil {
		t.Fail("cast of "+p.Name, err)
		return p.Data
	}
	t.mem.queue.Copy(kernels.Copy{X: p.Data, Y: x})
	if err := t.mem.queue.Err(); err != nil {
		t.Fail("cast of "+p.Name, fmt.Errorf("cannot convert: %w", err), p.Data)
	}
	t.casts[key] = cast{x, b}
	return x
}

// dropCasts frees the casts of a unit that is not in use for now.
func (t *Tape) dropCasts(u *Unit) {
	if len(t.casts) == 0 {
		return
	}
	for _, p := range u.Params {
		for _, dt := range [...]kernels.DType{kernels.F32, t.cfg.Compute} {
			if c, ok := t.casts[castKey{p, dt}]; ok {
				t.mem.release(&c.mem)
				delete(t.casts, castKey{p, dt})
			}
		}
	}
}
