package autograd

import (
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// Backward runs the recorded operations in reverse. The last operation must have been one that starts gradients by itself (a fused
// loss), or the gradient of root must have been given by Seed.
func (t *Tape) Backward() error {
	if t.err != nil {
		return t.err
	}
	if !t.record {
		return errors.New("cannot run backward: the pass was not recorded")
	}
	t.backTo(0)
	return t.err
}

// Seed gives a value the gradient to start Backward from, times the loss scale; the tensor stays the caller's, what is in it may change.
func (t *Tape) Seed(v Value, g Tensor) {
	if t.lossScale != 1 {
		t.mem.queue.Add(kernels.Add{A: g, Y: g, Alpha: t.lossScale})
	}
	s := &t.slots[v.id]
	s.grad, s.hasGrad = g, true
}

func (t *Tape) backTo(first int) {
	for len(t.nodes) > first && t.err == nil {
		i := len(t.nodes) - 1
		n := t.nodes[i]
		switch n.kind {
		case nodeLeave:
			if t.unitUsed(i, n.unit) {
				t.BeginGrads(n.unit)
			}
		case nodeEnter:
			t.endGrads(n.unit)
		case nodeCheckpoint:
			t.nodes = t.nodes[:i]
			t.replayBlock(n)
			continue
		default:
			t.backOp(n)
		}
		t.nodes[i] = node{}
		t.nodes = t.nodes[:i]
	}
}

// unitUsed reports whether anything was recorded between the unit's Leave at node i and its Enter.
func (t *Tape) unitUsed(i int, u *Unit) bool {
	if i > 0 {
		p := t.nodes[i-1]
		return p.kind != nodeEnter || p.unit != u
	}
	return false
}

func (t *Tape) backOp(n node) {
	if err := t.ctx.Err(); err != nil {
		t.err = err
		return
	}
	s := &t.slots[n.out.id]
	_, starts := n.op.(interface{ StartsGradients() })
	if s.hasGrad || starts {
		if err := n.op.Backward(t); err != nil {
			t.Fail(n.op.Name()+" backward", err, s.shape)
			return
		}
	}
	s = &t.slots[n.out.id]
	t.mem.release(&s.gradMem)
	s.grad, s.hasGrad = Tensor{}, false
	for _, v := range n.reads {
		if v.Valid() {
			t.slots[v.id].readers--
		}
	}
	t.Release(n.saved[:]...)
	if s.refs > 0 && !starts {
		// Nothing after its producer reads a value in the backward pass; a loss is read by the caller.
		s.refs = 0
		t.mem.release(&s.dataMem)
	}
}

func (t *Tape) replayBlock(n node) {
	out := &t.slots[n.out.id]
	t.mem.release(&out.dataMem)
	off := t.cfg.Offload
	if !out.hasGrad {
		if off != nil {
			off.drop(t, n.in)
		}
		t.Release(n.in)
		return
	}
	t.BeginGrads(n.unit)
	if off != nil {
		off.take(t, n.in)
	}
	if t.err != nil {
		return
	}
	mark, first := len(t.nodes), int32(len(t.slots))
	t.replay = true
	y := n.fn(n.in)
	t.replay = false
	if t.err != nil {
		return
	}
	from, to := &t.slots[n.out.id], &t.slots[y.id]
	to.grad, to.gradMem, to.hasGrad = from.grad, from.gradMem, true
	from.gradMem, from.hasGrad = block{}, false
	t.backTo(mark)
	t.endGrads(n.unit)
	for i := first; i < int32(len(t.slots)); i++ {
		t.mem.release(&t.slots[i].dataMem)
		t.mem.release(&t.slots[i].gradMem)
	}
	t.slots = t.slots[:first]
	t.Release(n.in)
}

// Grad is the gradient of a value during Backward; ok is false when nothing has contributed to it.
func (t *Tape) Grad(v Value) (g Tensor, ok bool) {
	s := &t.slots[v.id]
	return s.grad, s.hasGrad
}

// GradFor returns where to put a gradient of an input, and whether to add to what is there. ok is false when none is needed.
func (t *Tape) GradFor(v Value) (g Tensor, accumulate, ok bool) {
	if t.OfExpert(v) {
		t.slots[v.id].param.Expert.reached = true
	}
	return t.GradUnreached(v)
}

// OfExpert reports whether a value is a parameter of an expert, and needs a gradient.
func (t *Tape) OfExpert(v Value) bool {
	if !v.Valid() || t.err != nil {
		return false
	}
	s := &t.slots[v.id]
	return s.needs && s.param != nil && s.param.Expert != nil
}

// GradUnreached is GradFor for a gradient that is zero because no token was sent to the parameter's expert: it does not count as reached.
func (t *Tape) GradUnreached(v Value) (g Tensor, accumulate, ok bool) {
	if !v.Valid() || t.err != nil {
		return Tensor{}, false, false
	}
	s := &t.slots[v.id]
	if !s.needs {
		return Tensor{}, false, false
	}
	if p := s.param; p != nil {
		if !p.Grad.Present() {
			t.Fail("gradient", fmt.Errorf("no gradient storage is bound to %s", p.Name))
			return Tensor{}, false, false
		}
		accumulate = p.written
		p.written = true
		return p.Grad, accumulate, true
	}
	if s.hasGrad {
		return s.grad, true, true
	}
	x, b, err := t.mem.tensor(s.shape.DType, s.shape.Shape())
	if err != nil {
		t.Fail("allocate gradient", err, s.shape)
		return Tensor{}, false, false
	}
	s.grad, s.gradMem, s.hasGrad = x, b, true
	return x, false, true
}

// GradInPlace is GradFor, but the gradient takes the memory of the value itself when no other operation's backward reads that any more.
// Only an operation that has done with the value, or whose kernel allows the overlap, may use it; the value is gone afterwards.
func (t *Tape) GradInPlace(v Value) (g Tensor, accumulate, ok bool) {
	if !v.Valid() || t.err != nil {
		return Tensor{}, false, false
	}
	s := &t.slots[v.id]
	if s.needs && !s.hasGrad && s.param == nil && s.refs == 1 && s.readers == 1 && s.dataMem.seg != 0 {
		s.grad, s.gradMem, s.hasGrad = s.data, s.dataMem, true
		s.data, s.dataMem = Tensor{}, block{}
		return s.grad, false, true
	}
	return t.GradFor(v)
}

// PassGrad hands the gradient of an output to an input of the same shape without a copy: the operation adds its input to its output
// and has finished reading the gradient. When the input has a gradient already, ok is false and the operation must add itself.
func (t *Tape) PassGrad(from, to Value) (ok bool) {
	f, s := &t.slots[from.id], &t.slots[to.id]
	if !s.needs {
		return true
	}
	if s.param != nil || s.hasGrad {
		return false
	}
	s.grad, s.gradMem, s.hasGrad = f.grad, f.gradMem, true
	f.gradMem = block{}
	return true
}

// GiveGrad makes memory that an operation computed in its forward pass the gradient of a value.
func (t *Tape) GiveGrad(v Value, g Tensor, h *Handle) {
	s := &t.slots[v.id]
	s.grad, s.gradMem, s.hasGrad = g, h.b, true
	h.b = block{}
}

// GradOf is the gradient of a Leaf after Backward.
func (t *Tape) GradOf(v Value) (Tensor, bool) { return t.Grad(v) }
