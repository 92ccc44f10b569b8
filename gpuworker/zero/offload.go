package zero

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
)

// Offload (ZeRO-Offload, https://arxiv.org/abs/2101.06840): the optimizer's state lies in the host's memory, and the host's cores update.
// Values and gradients come down piece by piece and values go up again, through two slots of page-locked memory: while one piece is updated,
// the next comes down and the one before goes up. Values stay on the device too, which computes with them: what is saved is the state.
const offloadSlots = 2

// offSlot holds a piece while it is on the host.
type offSlot struct {
	off  int64
	down *kernels.Event
}

// offload is the host's side of an engine; without a queue there is none.
type offload struct {
	dev    *kernels.Device
	queue  *kernels.Queue // of the host: updates
	copies *kernels.Queue // of the device
	arena  *kernels.Arena // states
	memory *kernels.HostMemory
	size   int64 // bytes of a slot
	slots  [offloadSlots]offSlot
	ready  *kernels.Event // gradients are there
	up     *kernels.Event // values are back
}

// offloads reports whether the optimizer's state is the host's: asked for, and on a device with memory of its own. A counting device stands
// for one.
func (e *Engine) offloads() bool {
	d := e.q.Device()
	return e.cfg.Offload && (d.Counting() || !d.SharesHost())
}

// pieces cuts a run into what is updated at a time.
func (e *Engine) pieces(r run) []run {
	if e.opt.Whole(r.first.Param) || r.len <= updatePiece {
		return []run{r}
	}
	var out []run
	for at := int64(0); at < r.len; at += updatePiece {
		out = append(out, r.piece(at, min(updatePiece, r.len-at)))
	}
	return out
}

// pieceBytes is what a piece of n elements takes of a slot: its gradient, its values in float32, and as they are held where that is another type.
func (e *Engine) pieceBytes(n int64) int64 {
	bytes := 8 * n
	if e.cfg.Store != kernels.F32 {
		bytes += e.cfg.Store.Size() * n
	}
	return bytes
}

// openOffload opens the host as a device of its own and makes room for the states, bytes in all, and for the pieces.
func (e *Engine) openOffload(bytes int64) (err error) {
	o, dev := &e.off, e.q.Device()
	if o.dev, err = kernels.Open(kernels.Options{Threads: e.cfg.HostThreads, Counting: dev.Counting()}); err != nil {
		return err
	}
	if o.queue, err = o.dev.NewQueue(kernels.Compute); err != nil {
		return err
	}
	if bytes > 0 {
		if o.arena, err = o.dev.NewArena("optimizer", bytes); err != nil {
			return err
		}
	}
	for _, b := range e.plan.buckets {
		for _, r := range b.runs {
			n := r.len
			if !e.opt.Whole(r.first.Param) {
				n = min(n, updatePiece)
			}
			o.size = max(o.size, (e.pieceBytes(n)+255)/256*256)
		}
	}
	if o.size == 0 {
		return nil
	}
	if o.memory, err = dev.NewHostMemory(offloadSlots * o.size); err != nil {
		return err
	}
	for i := range o.slots {
		o.slots[i].off = int64(i) * o.size
		if o.slots[i].down, err = dev.NewEvent(); err != nil {
			return err
		}
	}
	if o.ready, err = dev.NewEvent(); err != nil {
		return err
	}
	if o.up, err = dev.NewEvent(); err != nil {
		return err
	}
	o.copies, err = dev.NewQueue(kernels.CopyOps)
	return err
}

// close gives everything back, after waiting for the copies. The optimizer, whose scratch memory is the host's, has been closed.
func (o *offload) close() error {
	var errs []error
	if o.copies != nil {
		errs = append(errs, o.copies.Close())
	}
	events := []*kernels.Event{o.ready, o.up}
	for _, s := range o.slots {
		events = append(events, s.down)
	}
	for _, ev := range events {
		if ev != nil {
			ev.Close()
		}
	}
	if o.memory != nil {
		o.memory.Close()
	}
	if o.arena != nil {
		o.arena.Close()
	}
	if o.dev != nil {
		errs = append(errs, o.dev.Close())
	}
	*o = offload{}
	return errors.Join(errs...)
}

// hostTensor is n elements of the slots' memory from off on, as the host's kernels see it.
func (o *offload) hostTensor(dt kernels.DType, off, n int64) kernels.Tensor {
	base := kernels.Addr(1 << 20) // of a counting device, which has no memory
	if raw := o.memory.Bytes(); raw != nil {
		base = kernels.Addr(uintptr(unsafe.Pointer(&raw[0])))
	}
	return kernels.NewTensor(base+kernels.Addr(off), dt, n)
}

// offPiece is one piece on its way.
type offPiece struct {
	run         run
	step        optim.Step
	held, grads kernels.Tensor // on the device
	slot        *offSlot
}

// layout is where a piece's gradient, its values in float32 and its values as they are held lie in its slot.
func (p *offPiece) layout(store kernels.DType) (g, wide, raw int64) {
	g, wide = p.slot.off, p.slot.off+4*p.run.len
	if store == kernels.F32 {
		return g, wide, wide
	}
	return g, wide, wide + 4*p.run.len
}

// updateOffloaded updates buckets on the host, whose gradients are complete on the device.
func (e *Engine) updateOffloaded(ctx context.Context, buckets []*bucket, step optim.Step) error {
	var all []offPiece
	for _, b := range buckets {
		grads, err := e.gradients(ctx, b)
		if err != nil {
			return err
		}
		for r, step := range e.due(b, step) {
			all = append(all, offPiece{run: r, step: step, held: b.mem.p.Slice(0, r.off, r.off+r.len), grads: grads.Slice(0, r.grad, r.grad+r.len)})
		}
	}
	if len(all) > 0 {
		if err := e.updatePieces(buckets, all); err != nil {
			return err
		}
	}
	for _, b := range buckets {
		if err := e.shareUpdated(ctx, b); err != nil {
			return err
		}
	}
	return e.q.Err()
}

// updatePieces has the pieces, which are of these buckets, down, updated and up again; the device's queue goes on when all are back.
func (e *Engine) updatePieces(buckets []*bucket, all []offPiece) error {
	for _, b := range buckets {
		if err := e.copies.settle(b); err != nil { // a snapshot on its way needs the old state
			return err
		}
	}
	o := &e.off
	e.q.Record(o.ready)
	o.copies.Wait(o.ready)
	down := func(i int) {
		p := &all[i]
		p.slot = &o.slots[i%offloadSlots]
		g, _, raw := p.layout(e.cfg.Store)
		// The queue runs in order: what the slot held before has gone up by then.
		kernels.DownloadAsync(o.copies, o.memory, g, p.grads)
		kernels.DownloadAsync(o.copies, o.memory, raw, p.held)
		o.copies.Record(p.slot.down)
	}
	down(0)
	for i := range all {
		if i+1 < len(all) {
			down(i + 1)
		}
		if err := e.updatePieceOnHost(&all[i]); err != nil {
			return fmt.Errorf("cannot update %s on the host: %w", all[i].run.first.Param.Name, err)
		}
	}
	o.copies.Record(o.up)
	e.q.Wait(o.up)
	return errors.Join(o.copies.Err(), e.q.Err())
}

func (e *Engine) updatePieceOnHost(p *offPiece) error {
	o := &e.off
	if err := o.copies.Err(); err != nil {
		return err
	}
	if err := p.slot.down.Sync(); err != nil {
		return errors.Join(err, o.copies.Err())
	}
	g, wide, raw := p.layout(e.cfg.Store)
	n := p.run.len
	values, held := o.hostTensor(kernels.F32, wide, n), o.hostTensor(e.cfg.Store, raw, n)
	if raw != wide {
		o.queue.Copy(kernels.Copy{X: held, Y: values})
	}
	err := e.opt.Update(o.queue, p.step, []optim.Stretch{{Param: p.run.first.Param, Start: p.run.first.Start, Len: n, Group: p.run.group, P: values,
		G: o.hostTensor(kernels.F32, g, n), State: p.run.state}})
	if err != nil {
		return err
	}
	if raw != wide {
		o.queue.Copy(kernels.Copy{X: values, Y: held})
	}
	if err := o.queue.Sync(); err != nil {
		return err
	}
	kernels.UploadAsync(o.copies, p.held, o.memory, raw)
	return o.copies.Err()
}

// OffloadBytes is the host memory that the optimizer's state and the pieces of an update take, and whether there is such offloading.
func (e *Engine) OffloadBytes() (bytes int64, on bool) {
	if !e.offloads() {
		return 0, false
	}
	return e.off.dev.Live() + offloadSlots*e.off.size, true
}
