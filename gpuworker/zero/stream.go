package zero

import (
	"context"
	"fmt"
	"iter"

	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
)

// Stream says what becomes of a bucket's gradients at the end of its backward pass, so that those of the whole model are never there at once
// (the idea of LOMO, https://arxiv.org/abs/2306.09782). Bits are those of a step that keeps all gradients: the norm that clipping needs comes
// from a pass of its own. The zero Stream keeps gradients for Finish and Update.
type Stream struct {
	// Norms takes the sums of squares, which Finish then adds.
	Norms bool
	// Update, when not nil, applies the optimizer. Nothing of the unit is read after its backward pass.
	Update *optim.Step
}

// streams reports whether gradients end with their bucket.
func (s Stream) streams() bool { return s.Norms || s.Update != nil }

// Streams reports whether the passes of a step of so many leaves may be streamed: with ByBlock, and when no leaf is added to another on a
// rank.
func (e *Engine) Streams(leaves int) bool { return e.cfg.ByBlock && leaves <= e.plan.world }

// Stream sets what becomes of the gradients of the passes that begin from now on. Only where Streams says so it may be another than zero.
func (e *Engine) Stream(s Stream) { e.stream = s }

// endBucket does what the stream says with a bucket whose gradients are reduced.
func (e *Engine) endBucket(ctx context.Context, b *bucket) error {
	if !e.stream.streams() {
		return nil
	}
	if e.stream.Norms {
		e.norms(b)
	}
	if s := e.stream.Update; s != nil {
		if err := e.update(ctx, b, *s); err != nil {
			return err
		}
	}
	b.returnLoans()
	return e.q.Err()
}

// norms queues the sums of squares of the chunks that this rank owns.
func (e *Engine) norms(b *bucket) {
	at := b.firstChunk
	for _, s := range b.segs {
		n := s.chunks()
		e.q.SqNorm(kernels.SqNorm{X: b.mem.acc.Slice(0, s.Offset, s.Offset+s.Len), Partials: e.partial.Slice(0, at, at+n)})
		at += n
	}
}

// updatePiece is the most elements that an elementwise optimizer is given at a time: what it copies to the host, or what is widened to
// float32, stays small. A multiple of every quantization block.
const updatePiece = 4 << 20

// gradients is the reduced gradient of what this rank updates of a bucket.
func (e *Engine) gradients(ctx context.Context, b *bucket) (kernels.Tensor, error) {
	if !e.spreads() {
		return b.mem.acc, nil
	}
	if err := e.spread(ctx, b); err != nil {
		return kernels.Tensor{}, fmt.Errorf("cannot share reduced gradients from %s on: %w", b.units[0].u.Name, err)
	}
	return b.mem.reduced, nil
}

// update applies the optimizer to a bucket.
func (e *Engine) update(ctx context.Context, b *bucket, step optim.Step) error {
	if e.offloads() {
		return e.updateOffloaded(ctx, []*bucket{b}, step)
	}
	grads, err := e.gradients(ctx, b)
	if err != nil {
		return err
	}
	if err := e.copies.settle(b); err != nil {
		return err
	}
	for r, step := range e.due(b, step) {
		if err := e.apply(b, grads, r, step); err != nil {
			return err
		}
	}
	return e.shareUpdated(ctx, b)
}

// due goes through the pieces of a bucket that this step updates, each with the step as its parameters count it: experts that no token
// reached are left out.
func (e *Engine) due(b *bucket, step optim.Step) iter.Seq2[run, optim.Step] {
	return func(yield func(run, optim.Step) bool) {
		for _, r := range b.runs {
			own, ok := e.experts.step(r.first.Param.Expert, step)
			if !ok {
				continue
			}
			for _, p := range e.pieces(r) {
				if !yield(p, own) {
					return
				}
			}
		}
	}
}

// shareUpdated gives every rank what the others have updated of a bucket, where ranks update a part of what they hold.
func (e *Engine) shareUpdated(ctx context.Context, b *bucket) error {
	if !e.shares() {
		return nil
	}
	if err := e.share(ctx, b); err != nil {
		return fmt.Errorf("cannot share updated values from %s on: %w", b.units[0].u.Name, err)
	}
	return nil
}

// piece is elements [at, at+n) of a run; at is a multiple of every block.
func (r run) piece(at, n int64) run {
	p := r
	p.off, p.grad, p.len, p.state = r.off+at, r.grad+at, n, nil
	p.first.Start += at
	for i, d := range r.decl {
		t := r.state[i]
		if d.Block > 0 {
			lo := at / d.Block
			t = t.Slice(0, lo, lo+d.Len(n))
		}
		p.state = append(p.state, t)
	}
	return p
}

// apply updates one run, whose values are widened to float32 for it where they are held in less.
func (e *Engine) apply(b *bucket, grads kernels.Tensor, r run, step optim.Step) error {
	held := b.mem.p.Slice(0, r.off, r.off+r.len)
	p, err := e.wide.open(e.q, held)
	if err != nil {
		return err
	}
	err = e.opt.Update(e.q, step, []optim.Stretch{{Param: r.first.Param, Start: r.first.Start, Len: r.len, Group: r.group, P: p,
		G: grads.Slice(0, r.grad, r.grad+r.len), State: r.state}})
	if p != held {
		e.q.Copy(kernels.Copy{X: p, Y: held})
	}
	return err
}

// widening is the float32 copy of values that are being updated.
type widening struct {
	arena *kernels.Arena
	len   int64
}

// open is x in float32.
func (w *widening) open(q *kernels.Queue, x kernels.Tensor) (kernels.Tensor, error) {
	if x.DType == kernels.F32 {
		return x, nil
	}
	if n := x.Numel(); n > w.len {
		if err := q.Sync(); err != nil {
			return x, err
		}
		w.close()
		n = (n + 63) / 64 * 64 // arenas hand out multiples of 256 bytes
		arena, err := q.Device().NewArena("values in float32", 4*n)
		if err != nil {
			return x, fmt.Errorf("cannot widen values: %w", err)
		}
		w.arena, w.len = arena, n
	}
	w.arena.Reset()
	y, err := w.arena.New(kernels.F32, x.Numel())
	if err != nil {
		return x, err
	}
	q.Copy(kernels.Copy{X: x, Y: y})
	return y, q.Err()
}

func (w *widening) close() {
	if w.arena != nil {
		w.arena.Close()
		w.arena, w.len = nil, 0
	}
}
