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
	// readers is the number of recorded operations whose backward is still to read the data.
	readers int32
	hasGrad bool
	needs   bool
	param   *Param
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
	reads [4]Value // what Backward reads
	saved [4]Value // those of reads whose memory is kept: the others are computed again
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
	// Compute is the element type of activations: f32 (the default), bf16 or f16. With 16 bits, matrices that are held in f32 are cast for as long
	// as their unit is in use; vectors (norms, biases), statistics, sums and gradients of parameters stay f32.
	Compute kernels.DType
	// Offload, when not nil, keeps the inputs of checkpointed blocks in the host's memory. Results do not depend on it.
	Offload *Offload
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
	// lossScale multiplies what gradients start from.
	lossScale float32
	// train says that the pass was reset for training, also while a checkpointed block runs without recording.
	train     bool
	noise     *Noise
	noiseRows Tensor
	// casts are parameters in another type than they are held in, of the units in use.
	casts map[castKey]cast
}

// New makes a tape on a memory.
func New(mem *Memory, cfg Config) *Tape {
	if cfg.Compute == 0 {
		cfg.Compute = kernels.F32
	}
	return &Tape{cfg: cfg, mem: mem, ctx: context.Background(), lossScale: 1, slots: make([]slot, 1, 256), casts: map[castKey]cast{}}
}

// Reset forgets the last pass and frees its memory for reuse. With train the following operations are recorded for Backward.
func (t *Tape) Reset(ctx context.Context, train bool) {
	var err error
	if t.cfg.Offload != nil {
		err = t.cfg.Offload.reset()
	}
	t.mem.releaseAll()
	clear(t.slots)
	clear(t.casts)
	t.slots = t.slots[:1]
	for i := range t.nodes {
		if u := t.nodes[i].unit; u != nil {
			u.began = false
		}
		t.nodes[i] = node{}
	}
	t.nodes = t.nodes[:0]
	t.err, t.ctx, t.record, t.replay = nil, ctx, train, false
	t.train, t.noiseRows = train, Tensor{}
	t.Fail("offload activations", err)
}

// SetLossScale multiplies all gradients of later passes by a factor: in f16 small ones vanish otherwise. The caller divides them again.
func (t *Tape) SetLossScale(scale float32) { t.lossScale = scale }

// LossScale is what an operation that starts gradients by itself multiplies them by.
func (t *Tape) LossScale() float32 { return t.lossScale }

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
		return t.compute(s.param)
	}
	if s.remat != nil && !s.data.Present() {
		t.rematerialize(v)
		s = &t.slots[v.id]
	}
	return s.data
}

// Shape is a tensor of the value's dimensions, also when its data is gone.
func (t *Tape) Shape(v Value) Tensor {
	if p := t.slots[v.id].param; p != nil {
		return p.Data
	}
	return t.slots[v.id].shape
}

// rematerialize computes a released value again.
func (t *Tape) rematerialize(v Value) {
	if t.err != nil {
		return
	}
	shape := t.slots[v.id].shape
	x, b, err := t.mem.tensor(shape.DType, shape.Shape())
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

// Training reports whether the pass was reset for training, also while a checkpointed block runs without recording.
func (t *Tape) Training() bool { return t.train }

// Replaying reports whether a checkpointed block is being computed again for its backward pass.
func (t *Tape) Replaying() bool { return t.replay }

// Out allocates an output tensor of float32. Its contents are undefined. Record turns it into a Value.
func (t *Tape) Out(shape ...int64) (Tensor, Handle) { return t.OutAs(kernels.F32, shape...) }

// OutLike is Out with the element type of x.
func (t *Tape) OutLike(x Tensor, shape ...int64) (Tensor, Handle) { return t.OutAs(x.DType, shape...) }

// OutAs is Out with another element type.
func (t *Tape) OutAs(dt kernels.DType, shape ...int64) (Tensor, Handle) {
	x, b, err := t.mem.tensor(dt, shape)
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
	copy(n.reads[:], saved)
	for i, s := range saved {
		if !s.Valid() {
			continue
		}
		t.slots[s.id].readers++
		if t.slots[s.id].remat == nil {
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

// Pin makes values stay in memory for the backward pass instead of being computed again: the parameters that they come from belong to a
// unit that is not bound when their readers' backward runs.
func (t *Tape) Pin(vs ...Value) {
	for _, v := range vs {
		if v.Valid() {
			t.slots[v.id].remat = nil
		}
	}
}

// Modified says that an operation changes the data of values in place: they cannot be computed again from what made them.
func (t *Tape) Modified(vs ...Value) {
	for _, v := range vs {
		t.slots[v.id].remat = nil
	}
}

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
