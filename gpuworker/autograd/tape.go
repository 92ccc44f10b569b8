// Package autograd is a tape over coarse operations with hand-written backwards.
//
// An operation allocates its output on the tape, runs its kernel and records a node (a struct with its inputs and what it saved, no
// closure). Backward walks the nodes in reverse. The tape owns memory (one arena for saved activations, gradients and scratch), decides
// whether a gradient is written or added to, prunes what needs no gradient, recomputes checkpointed blocks, and calls the hooks of
// sharded training around each unit. The first failure sticks: later operations do nothing, and Err and Backward report it with the
// operation's name.
package autograd

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// Value is a tensor on the tape. The zero Value is absent.
type Value struct{ id int32 }

// Valid reports whether the value exists.
func (v Value) Valid() bool { return v.id > 0 }

// Op is a recorded operation. Backward reads the gradient of its output and writes those of its inputs.
type Op interface {
	Name() string
	Backward(t *Tape) error
}

// Rematerializer is an operation whose output is cheap to compute again from what it saved.
type Rematerializer interface {
	Rematerialize(t *Tape, out Tensor)
}

type slot struct {
	remat      Rematerializer
	shape      Tensor // dimensions, also when the data is gone
	data, grad Tensor
	dataMem    block
	gradMem    block
	refs       int32
	hasGrad    bool
	needs      bool
	param      *Param
}

type nodeKind uint8

const (
	nodeOp nodeKind = iota
	nodeEnter
	nodeLeave
	nodeCheckpoint
)

type node struct {
	kind  nodeKind
	op    Op
	out   Value
	saved [4]Value
	unit  *Unit
	in    Value
	fn    func(Value) Value
}

// Config of a tape.
type Config struct {
	// Hooks, when not nil, are called around the uses of units.
	Hooks Hooks
	// Checkpoint recomputes each block in the backward pass instead of saving its activations.
	Checkpoint bool
	// KeepCheap saves the outputs of cheap operations (norms, activations) too; otherwise they are computed again in the backward pass.
	// Results do not depend on it.
	KeepCheap bool
}

// Tape records one forward pass and runs its backward. It is used by one goroutine; Reset makes it ready for the next pass and keeps
// its memory.
type Tape struct {
	cfg    Config
	mem    *Memory
	ctx    context.Context
	slots  []slot
	nodes  []node
	err    error
	record bool
	// replay is true while a checkpointed block is computed again: hooks have been called already.
	replay bool
}

// New makes a tape on a memory.
func New(mem *Memory, cfg Config) *Tape {
	return &Tape{cfg: cfg, mem: mem, ctx: context.Background(), slots: make([]slot, 1, 256)}
}

// Reset forgets the last pass and frees its memory for reuse. With train the following operations are recorded for Backward.
func (t *Tape) Reset(ctx context.Context, train bool) {
	t.mem.releaseAll()
	clear(t.slots)
	t.slots = t.slots[:1]
	for i := range t.nodes {
		if u := t.nodes[i].unit; u != nil {
			u.began = false
		}
		t.nodes[i] = node{}
	}
	t.nodes = t.nodes[:0]
	t.err, t.ctx, t.record, t.replay = nil, ctx, train, false
}

// Memory is the arena of the tape.
func (t *Tape) Memory() *Memory { return t.mem }

// Context is the context of the pass.
func (t *Tape) Context() context.Context { return t.ctx }

// Err is the first failure of the pass.
func (t *Tape) Err() error { return t.err }

// OK reports that nothing has failed so far.
func (t *Tape) OK() bool { return t.err == nil }

// Fail records the first failure; op names the operation and shapes its operands.
func (t *Tape) Fail(op string, err error, shapes ...Tensor) {
	if t.err != nil || err == nil {
		return
	}
	if len(shapes) == 0 {
		t.err = fmt.Errorf("cannot run %s: %w", op, err)
		return
	}
	s := ""
	for i, x := range shapes {
		if i > 0 {
			s += ", "
		}
		s += x.String()
	}
	t.err = fmt.Errorf("cannot run %s(%s): %w", op, s, err)
}

func (t *Tape) add(s slot) Value {
	s.shape = s.data
	t.slots = append(t.slots, s)
	return Value{int32(len(t.slots) - 1)}
}

// Const puts a tensor that the caller owns on the tape; it gets no gradient.
func (t *Tape) Const(x Tensor) Value { return t.add(slot{data: x, refs: 1}) }

// Leaf puts a tensor that the caller owns on the tape as an input whose gradient is wanted (see GradOf).
func (t *Tape) Leaf(x Tensor) Value { return t.add(slot{data: x, refs: 1, needs: t.record}) }

// Param puts a parameter on the tape. It needs a gradient unless it is frozen.
func (t *Tape) Param(p *Param) Value {
	if p == nil {
		return Value{}
	}
	return t.add(slot{data: p.Data, refs: 1, needs: t.record && !p.Frozen, param: p})
}

// Data is the value's tensor.
func (t *Tape) Data(v Value) Tensor {
	s := &t.slots[v.id]
	if s.param != nil {
		return s.param.Data
	}
	if s.remat != nil && !s.data.Present() {
		t.rematerialize(v)
		s = &t.slots[v.id]
	}
	return s.data
}

// rematerialize computes a released value again.
func (t *Tape) rematerialize(v Value) {
	if t.err != nil {
		return
	}
	shape := t.slots[v.id].shape
	x, b, err := t.mem.tensor(shape.Shape())
	if err != nil {
		t.Fail("allocate", err, shape)
		return
	}
	s := &t.slots[v.id]
	s.data, s.dataMem, s.refs = x, b, s.refs+1
	s.remat.Rematerialize(t, x)
}

// Needs reports whether any of the values needs a gradient in this pass.
func (t *Tape) Needs(vs ...Value) bool {
	for _, v := range vs {
		if v.Valid() && t.slots[v.id].needs {
			return true
		}
	}
	return false
}

// Recording reports whether operations are being recorded for a backward pass.
func (t *Tape) Recording() bool { return t.record }

// Out allocates an output tensor of float32. Its contents are undefined. Record turns it into a Value.
func (t *Tape) Out(shape ...int64) (Tensor, Handle) {
	x, b, err := t.mem.tensor(shape)
	if err != nil {
		t.Fail("allocate", err)
	}
	return x, Handle{b}
}

// Handle is memory that an operation owns until it hands it to Record or Free.
type Handle struct{ b block }

// Free gives memory back to the arena.
func (t *Tape) Free(h *Handle) { t.mem.release(&h.b) }

// Record makes a value of an output and, when any input needs a gradient, records the operation. saved lists the values (at most 4)
// whose data Backward reads; their memory is kept until then.
func (t *Tape) Record(op Op, out Tensor, h Handle, needs bool, saved ...Value) Value {
	v := t.add(slot{data: out, dataMem: h.b, refs: 1, needs: needs && t.record})
	if !needs || !t.record || t.err != nil {
		return v
	}
	if r, ok := op.(Rematerializer); ok && !t.cfg.KeepCheap {
		t.slots[v.id].remat = r
	}
	n := node{op: op, out: v}
	for i, s := range saved {
		if s.Valid() && t.slots[s.id].remat == nil {
			n.saved[i] = s
			t.slots[s.id].refs++
		}
	}
	t.nodes = append(t.nodes, n)
	return v
}

// Hold makes a value without gradient of memory that a recorded operation saves.
func (t *Tape) Hold(x Tensor, h Handle) Value { return t.add(slot{data: x, dataMem: h.b, refs: 1}) }

// Keep makes a value's memory last until the backward of the operation that made it.
func (t *Tape) Keep(v Value) { t.slots[v.id].refs++ }

// Queue is the queue that operations run on.
func (t *Tape) Queue() *kernels.Queue { return t.mem.queue }

// Check makes a failure of the queue the tape's; op and shapes say where it appeared.
func (t *Tape) Check(op string, shapes ...Tensor) {
	if t.err == nil {
		if err := t.mem.queue.Err(); err != nil {
			t.Fail(op, err, shapes...)
		}
	}
}

// Release says that the forward pass does not use the value any more; its memory is reused as soon as no recorded operation saved it.
func (t *Tape) Release(vs ...Value) {
	for _, v := range vs {
		if !v.Valid() {
			continue
		}
		s := &t.slots[v.id]
		if s.refs--; s.refs == 0 {
			t.mem.release(&s.dataMem)
			if s.param == nil {
				s.data = Tensor{}
			}
		}
	}
}

// Grad is the gradient of a value during Backward; ok is false when nothing has contributed to it.
func (t *Tape) Grad(v Value) (g Tensor, ok bool) {
	s := &t.slots[v.id]
	return s.grad, s.hasGrad
}

// GradFor returns where to put a gradient of an input, and whether to add to what is there. ok is false when none is needed.
func (t *Tape) GradFor(v Value) (g Tensor, accumulate, ok bool) {
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
	x, b, err := t.mem.tensor(s.shape.Shape())
	if err != nil {
		t.Fail("allocate gradient", err, s.shape)
		return Tensor{}, false, false
	}
	s.grad, s.gradMem, s.hasGrad = x, b, true
	return x, false, true
}

// GradInPlace is GradFor, but the gradient takes the memory of the value itself when nothing else reads that any more. Only an operation
// whose kernel allows the overlap may use it.
func (t *Tape) GradInPlace(v Value) (g Tensor, accumulate, ok bool) {
	if !v.Valid() || t.err != nil {
		return Tensor{}, false, false
	}
	s := &t.slots[v.id]
	if s.needs && !s.hasGrad && s.param == nil && s.refs == 1 && s.dataMem.seg != 0 {
		s.grad, s.gradMem, s.hasGrad = s.data, s.dataMem, true
		s.dataMem = block{}
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
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.AfterBackward }, u, "reduce gradients of")
}

// Block runs fn as the forward pass of one unit: hooks around it, and with Checkpoint only its input is kept and fn runs again in the
// backward pass. The input is released.
func (t *Tape) Block(u *Unit, x Value, fn func(Value) Value) Value {
	if t.err != nil {
		return Value{}
	}
	if err := t.ctx.Err(); err != nil {
		t.err = err
		return Value{}
	}
	if !t.cfg.Checkpoint || !t.record || !(t.Needs(x) || u.Trainable()) {
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
	t.hook(func(h Hooks) func(context.Context, *Unit) error { return h.AfterForward }, u, "release")
	if t.err != nil {
		return Value{}
	}
	t.dropSlots(first, y)
	t.slots[y.id].needs = true
	t.slots[x.id].refs++
	t.nodes = append(t.nodes, node{kind: nodeCheckpoint, unit: u, in: x, out: y, fn: fn})
	t.Release(x)
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

// Seed gives a value the gradient to start Backward from; the tensor stays the caller's.
func (t *Tape) Seed(v Value, g Tensor) {
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
	if !out.hasGrad {
		t.Release(n.in)
		return
	}
	t.BeginGrads(n.unit)
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

// Ints uploads int32 values into memory of this pass.
func (t *Tape) Ints(v []int32, shape ...int64) Tensor {
	return upload(t, kernels.I32, v, shape)
}

// Floats uploads float32 values into memory of this pass.
func (t *Tape) Floats(v []float32, shape ...int64) Tensor {
	return upload(t, kernels.F32, v, shape)
}

// Bytes uploads bytes into memory of this pass.
func (t *Tape) Bytes(v []uint8, shape ...int64) Tensor {
	return upload(t, kernels.U8, v, shape)
}

func upload[T kernels.Element](t *Tape, dt kernels.DType, v []T, shape []int64) Tensor {
	if t.err != nil {
		return Tensor{}
	}
	b, err := t.mem.alloc(int64(len(v)) * dt.Size())
	if err != nil {
		t.Fail("upload", err)
		return Tensor{}
	}
	x := kernels.NewTensor(t.mem.segments[b.seg-1].base+kernels.Addr(b.off), dt, shape...)
	if err := kernels.Upload(t.mem.queue, x, v); err != nil {
		t.Fail("upload", err, x)
	}
	return x
}

// Read downloads a value's data, after waiting for the queue.
func (t *Tape) Read(v Value) ([]float32, error) {
	if t.err != nil {
		return nil, t.err
	}
	x := t.Data(v)
	out := make([]float32, x.Numel())
	return out, kernels.Download(t.mem.queue, out, x)
}
