package zero

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/kernels"
)

// Finish ends the leaves of a step, whose stream has kept the gradients or taken their norms. Every rank gives meta bytes of the same number; all get everybody's, by rank, and the sum of squares of
// the whole reduced gradient: float64, chunk by chunk in the order of units, parameters and elements, the same on every rank and for every
// number of ranks. A counting device has neither. The slices of metas are reused by the next call.
func (e *Engine) Finish(ctx context.Context, meta []byte) (sumsq float64, metas [][]byte, err error) {
	own := e.plan.chunkOf[e.plan.rank]
	if e.counts() {
		for _, b := range e.plan.buckets {
			if !e.stream.Norms {
				e.norms(b)
			}
		}
		return 0, nil, e.q.Err()
	}
	if int64(len(e.host.sums)) < int64(len(own)) {
		e.host.sums = make([]float64, len(own))
	}
	sums := e.host.sums[:len(own)]
	if len(own) > 0 {
		for _, b := range e.plan.buckets {
			if !e.stream.Norms { // else they have been taken
				e.norms(b)
			}
		}
		if err := kernels.Download(e.q, sums, e.partial); err != nil {
			return 0, nil, fmt.Errorf("cannot compute the gradient norm: %w", err)
		}
	}
	seen := e.experts.bits()
	metas, err = e.shareSums(ctx, append(append(make([]byte, 0, len(meta)+len(seen)), meta...), seen...), sums)
	if err != nil {
		return 0, nil, err
	}
	ranks := make([][]byte, len(metas))
	for k, m := range metas {
		metas[k], ranks[k] = m[:len(meta)], m[len(meta):]
	}
	e.experts.share(ranks)
	turns, _ := e.opt.(optim.Turns)
	for i, g := range e.host.global {
		if turns == nil || e.turn == 0 || turns.Trains(e.plan.params[i], e.turn) {
			sumsq += g
		}
	}
	if err := e.measureOverlap(ctx); err != nil {
		return 0, nil, err
	}
	return sumsq, metas, nil
}

// Turn says which update (from 1) the gradients to come are for: an optimizer may train other parameters in other steps, and Finish tells the
// norm of what this one trains. Without it the norm is that of all.
func (e *Engine) Turn(n int64) { e.turn = n }

// shareSums all-gathers meta and chunk sums and puts the sums of all ranks in global order.
func (e *Engine) shareSums(ctx context.Context, meta []byte, sums []float64) ([][]byte, error) {
	w := e.plan.world
	total := int64(w)*int64(len(meta)) + 8*e.plan.chunks
	need := int64(len(meta)) + 8*int64(len(sums)) + total
	if int64(cap(e.host.meta)) < need {
		e.host.meta = make([]byte, need)
	}
	buf := e.host.meta[:need]
	send := buf[:len(meta)+8*len(sums)]
	copy(send, meta)
	if len(sums) > 0 {
		copy(send[len(meta):], unsafe.Slice((*byte)(unsafe.Pointer(&sums[0])), 8*len(sums)))
	}
	bufs, at := e.host.bufs[1], len(send)
	for k := range w {
		n := len(meta) + 8*len(e.plan.chunkOf[k])
		bufs[k] = buf[at : at+n]
		at += n
	}
	if err := e.comm.AllGather(ctx, send, bufs); err != nil {
		return nil, fmt.Errorf("cannot share losses and norms: %w", err)
	}
	if e.host.global == nil {
		e.host.global = make([]float64, e.plan.chunks)
	}
	metas := make([][]byte, w)
	for k := range w {
		metas[k] = bufs[k][:len(meta)]
		for i, g := range e.plan.chunkOf[k] {
			e.host.global[g] = math.Float64frombits(binary.NativeEndian.Uint64(bufs[k][len(meta)+8*i:]))
		}
	}
	return metas, nil
}

// Norm is the L2 norm of the gradient from its sum of squares, and ClipFactor what gradients are multiplied by so that it is at most
// maxNorm (torch.nn.utils.clip_grad_norm_; 1 when maxNorm is not positive).
func Norm(sumsq float64) float64 { return math.Sqrt(sumsq) }

// ClipFactor is min(1, maxNorm/(norm+1e-6)) in float32.
func ClipFactor(norm, maxNorm float64) float32 {
	if maxNorm <= 0 {
		return 1
	}
	return float32(min(1, maxNorm/(norm+1e-6)))
}

// Update applies the optimizer with the reduced gradients times clip. step counts from 1.
func (e *Engine) Update(ctx context.Context, lr float64, step int64, clip float32) error {
	s := optim.Step{LR: lr, N: step, Clip: clip}
	if e.offloads() {
		if err := e.updateOffloaded(ctx, e.plan.buckets, s); err != nil {
			return err
		}
	} else {
		for _, b := range e.plan.buckets {
			if err := e.update(ctx, b, s); err != nil {
				return err
			}
		}
	}
	e.experts.updated()
	e.returnLoans()
	return nil
}

// sameRange reports whether a rank holds the same values as this one.
func (e *Engine) sameRange(rank int) bool { return e.plan.place[rank] == e.plan.place[e.plan.rank] }

// spread gives every rank the reduced gradient of what it holds of a bucket.
func (e *Engine) spread(ctx context.Context, b *bucket) error {
	if err := e.borrowSpread(b); err != nil {
		return err
	}
	if d := e.devices(); d != nil {
		return e.spreadDevices(ctx, d, b, false)
	}
	send, recv := e.room(b.ownLen, b.keptLen)
	if e.counts() {
		return nil
	}
	if b.ownLen > 0 {
		if err := kernels.Download(e.q, send, b.mem.acc); err != nil {
			return err
		}
	}
	return e.spreadWords(ctx, b, send, recv, b.mem.reduced)
}

// share gives every rank the values of a bucket that the others have updated.
func (e *Engine) share(ctx context.Context, b *bucket) error {
	if d := e.devices(); d != nil {
		return e.spreadDevices(ctx, d, b, true)
	}
	send, recv := e.room(e.words(b.ownLen), e.words(b.keptLen))
	if e.counts() {
		return nil
	}
	at := int64(0)
	for _, u := range b.units {
		lo, hi := u.owned(e.plan.rank)
		from, _ := u.held(e.plan.rank)
		if lo == hi {
			continue
		}
		n := e.words(hi - lo)
		if err := kernels.Download(e.q, send[at:at+n], wordsOf(b.mem.p.Slice(0, u.kept+lo-from, u.kept+hi-from))); err != nil {
			return err
		}
		at += n
	}
	return e.spreadWords(ctx, b, send, recv, b.mem.p)
}

// spreadWords exchanges what ranks own of a bucket among those that hold the same of it, and puts it at its places in what this rank holds.
func (e *Engine) spreadWords(ctx context.Context, b *bucket, send, recv []float32, into kernels.Tensor) error {
	words := func(n int64) int64 { return n * into.DType.Size() / 4 }
	bufs, at := e.host.bufs[1], int64(0)
	for k := range e.plan.world {
		n := int64(0)
		for _, u := range b.units {
			if e.sameRange(k) {
				n += words(u.ownLen(k))
			}
		}
		bufs[k] = bytesOf(recv[at : at+n])
		at += n
	}
	err := e.comm.settled(func(c Collective) error {
		if e.plan.group == 1 {
			return c.AllGather(ctx, bytesOf(send), bufs)
		}
		return c.AllToAll(ctx, e.toSome(bytesOf(send), e.sameRange), bufs)
	})
	if err != nil {
		return err
	}
	at = 0
	for k := range e.plan.world {
		for _, u := range b.units {
			lo, hi := u.owned(k)
			if lo == hi || !e.sameRange(k) {
				continue
			}
			from, _ := u.held(e.plan.rank)
			n := words(hi - lo)
			if err := kernels.Upload(e.q, wordsOf(into.Slice(0, u.kept+lo-from, u.kept+hi-from)), recv[at:at+n]); err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}
