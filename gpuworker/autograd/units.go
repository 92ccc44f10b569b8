package autograd

import (
	"context"
	"fmt"
)

func (t *Tape) hook(f func(Hooks) func(context.Context, *Unit) error, u *Unit, what string) {
	if t.cfg.Hooks == nil || t.err != nil {
		return
	}
	if err := f(t.cfg.Hooks)(t.ctx, u); err != nil {
		t.err = fmt.Errorf("cannot %s %s: %w", what, u.Name, err)
	}
}

// Enter says that a unit's parameters are used from here on; Leave that they are not used any more in this forward pass.
func (t *Tape) Enter(u *Unit) {
	if t.replay || t.err != nil {
		return
	}
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.BeforeForward }, u, "gather")
	if t.record {
		t.nodes = append(t.nodes, node{kind: nodeEnter, unit: u})
	}
}

// Leave ends what Enter began.
func (t *Tape) Leave(u *Unit) {
	if t.replay || t.err != nil {
		return
	}
	if t.record {
		t.nodes = append(t.nodes, node{kind: nodeLeave, unit: u})
	}
	t.dropCasts(u)
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.AfterForward }, u, "release")
}

// BeginGrads prepares a unit's gradients before its backward pass begins: a fused loss computes them in the forward pass.
func (t *Tape) BeginGrads(u *Unit) {
	if u == nil || !t.record || u.began || t.err != nil {
		return
	}
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.BeforeBackward }, u, "gather")
	u.began = true
	for _, p := range u.Params {
		p.written = u.AccumulateGrads
	}
}

// endGrads zeroes what nothing contributed to and reports the unit complete.
func (t *Tape) endGrads(u *Unit) {
	if !u.began || t.err != nil {
		return
	}
	for _, p := range u.Params {
		if !p.Frozen && !p.written {
			if err := t.mem.zero(p.Grad); err != nil {
				t.Fail("zero gradient of "+p.Name, err)
			}
		}
	}
	u.began = false
	t.dropCasts(u)
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.AfterBackward }, u, "reduce gradients of")
}

// Block runs fn as the forward pass of one unit: hooks around it, and with Checkpoint only its input is kept (with Offload, by the host) and fn
// runs again in the backward pass. The input is released.
func (t *Tape) Block(u *Unit, x Value, fn func(Value) Value) Value {
	if t.err != nil {
		return Value{}
	}
	if err := t.ctx.Err(); err != nil {
		t.err = err
		return Value{}
	}
	if !t.cfg.Checkpoint || !t.record || !t.Needs(x) && !u.Trainable() {
		t.Enter(u)
		first := int32(len(t.slots))
		y := fn(x)
		t.Leave(u)
		if !t.record {
			t.dropSlots(first, y)
		}
		t.Release(x)
		return y
	}
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.BeforeForward }, u, "gather")
	t.record = false
	first := int32(len(t.slots))
	y := fn(x)
	t.record = true
	t.dropCasts(u)
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.AfterForward }, u, "release")
	if t.err != nil {
		return Value{}
	}
	t.dropSlots(first, y)
	t.slots[y.id].needs = true
	t.slots[x.id].refs++
	t.nodes = append(t.nodes, node{kind: nodeCheckpoint, unit: u, in: x, out: y, fn: fn})
	t.Release(x)
	if o := t.cfg.Offload; o != nil {
		o.stow(t, x)
	}
	return y
}

// dropSlots frees what was computed since first, except keep.
func (t *Tape) dropSlots(first int32, keep Value) {
	for i := first; i < int32(len(t.slots)); i++ {
		if i != keep.id {
			t.mem.release(&t.slots[i].dataMem)
		}
	}
}
