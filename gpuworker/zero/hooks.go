package zero

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// errUnit says that a tape ran a unit that the engine was not made with.
var errUnit = errors.New("the unit is not part of the sharded model")

// BeginLeaf starts micro-step micro of a step with the given number of leaves. Every rank calls it and then runs one forward and
// backward pass; a rank without a leaf in this micro-step (see HasLeaf) runs one over any tokens, to take part in the exchanges, and
// contributes nothing.
func (e *Engine) BeginLeaf(micro, leaves int) error {
	if micro < 0 || leaves < 1 || micro*e.plan.world >= leaves {
		return fmt.Errorf("cannot begin micro-step %d: a step of %d leaves on %d ranks has none", micro, leaves, e.plan.world)
	}
	if e.inLeaf {
		return errors.New("cannot begin a leaf within another")
	}
	if micro == 0 {
		e.returnLoans()
		if err := e.accumulators(leaves); err != nil {
			return err
		}
	}
	e.micro, e.leaves, e.inLeaf = micro, leaves, true
	e.experts.begin(micro)
	e.beginOverlap()
	for _, b := range e.plan.buckets {
		b.begun, b.ended = 0, 0
		for _, u := range b.units {
			u.passed = 0
		}
	}
	return nil
}

// HasLeaf reports whether a rank has a leaf in a micro-step: rank r computes leaf micro*world+r.
func (e *Engine) HasLeaf(micro, leaves, rank int) bool { return micro*e.plan.world+rank < leaves }

// EndLeaf completes the exchanges: a unit that the pass did not use (the output head of a reward model) has the gradient zero.
func (e *Engine) EndLeaf(ctx context.Context) error {
	for _, u := range e.plan.units {
		b := u.bucket
		if b == nil || u.passed == e.micro+1 {
			continue
		}
		if err := e.BeforeBackward(ctx, u.u); err != nil {
			return fmt.Errorf("cannot end the leaf: %w", err)
		}
		for _, p := range u.u.Params {
			if !p.Frozen && !u.u.AccumulateGrads {
				e.q.Fill(kernels.Fill{Y: p.Grad})
			}
		}
		if err := e.AfterBackward(ctx, u.u); err != nil {
			return fmt.Errorf("cannot end the leaf: %w", err)
		}
	}
	e.inLeaf = false
	if err := e.endOverlap(); err != nil {
		return fmt.Errorf("cannot end the leaf: %w", err)
	}
	for _, b := range e.plan.buckets {
		if b.ended != len(b.units) {
			return fmt.Errorf("cannot end the leaf: %d of %d units from %s on had a backward pass", b.ended, len(b.units), b.units[0].u.Name)
		}
	}
	e.experts.end(e.HasLeaf(e.micro, e.leaves, e.plan.rank))
	if e.stream.Update != nil {
		e.experts.updated()
	}
	return nil
}

// BeforeForward implements autograd.Hooks.
func (e *Engine) BeforeForward(ctx context.Context, u *autograd.Unit) error { return e.acquire(ctx, u) }

// AfterForward implements autograd.Hooks.
func (e *Engine) AfterForward(_ context.Context, u *autograd.Unit) error { return e.drop(u) }

// BeforeBackward implements autograd.Hooks.
func (e *Engine) BeforeBackward(ctx context.Context, au *autograd.Unit) error {
	if err := e.acquire(ctx, au); err != nil {
		return err
	}
	u := e.byID[au]
	if u.bucket == nil {
		return nil
	}
	if !e.inLeaf {
		return errors.New("a backward pass outside of a leaf")
	}
	return e.bindGrads(u)
}

// AfterBackward implements autograd.Hooks.
func (e *Engine) AfterBackward(ctx context.Context, au *autograd.Unit) error {
	u := e.byID[au]
	if u == nil {
		return errUnit
	}
	if u.bucket != nil {
		u.train.layout.Unbind(true)
		u.passed = e.micro + 1
		u.bucket.ended++
		if u.bucket.ended == len(u.bucket.units) {
			if err := e.reduce(ctx, u.bucket); err != nil {
				return err
			}
			if err := e.endBucket(ctx, u.bucket); err != nil {
				return fmt.Errorf("cannot apply the gradients from %s on: %w", u.bucket.units[0].u.Name, err)
			}
		}
	}
	return e.drop(au)
}

// acquire binds the values of a unit, gathering them when nobody uses it yet.
func (e *Engine) acquire(ctx context.Context, au *autograd.Unit) error {
	u := e.byID[au]
	if u == nil {
		return errUnit
	}
	u.uses++
	if u.uses > 1 || !e.sharded() {
		return nil
	}
	nt, nf := u.train.layout.Len, u.frozen.layout.Len
	if nt+nf == 0 {
		return nil
	}
	tw := e.words(nt)
	s, err := e.gathered(u)
	if err != nil {
		return err
	}
	if s == nil {
		if s, err = e.window.take(tw + nf); err != nil {
			return err
		}
		u.data = s
		if err := e.gather(ctx, u); err != nil {
			return err
		}
	}
	u.data = s
	if nf > 0 {
		if err := u.frozen.layout.Bind(s.flat.Slice(0, tw, tw+nf), false); err != nil {
			return err
		}
	}
	if nt > 0 {
		if err := u.train.layout.Bind(kernels.NewTensor(s.flat.Data, e.cfg.Store, nt), false); err != nil {
			return err
		}
	}
	return e.gatherAhead(ctx, u)
}

// drop ends one use of a unit; after the last its window is free.
func (e *Engine) drop(au *autograd.Unit) error {
	u := e.byID[au]
	if u == nil {
		return errUnit
	}
	if u.uses--; u.uses > 0 || u.data == nil {
		return nil
	}
	u.train.layout.Unbind(false)
	u.frozen.layout.Unbind(false)
	e.window.give(u.data)
	u.data = nil
	return nil
}

// Reset frees what a failed or abandoned pass left open.
func (e *Engine) Reset() {
	e.inLeaf, e.stream, e.holding = false, Stream{}, false
	e.dropOverlap()
	e.returnLoans()
	for _, u := range e.plan.units {
		u.uses = 0
		if u.data != nil {
			u.train.layout.Unbind(false)
			u.frozen.layout.Unbind(false)
			e.window.give(u.data)
			u.data = nil
		}
		if u.bucket != nil {
			u.train.layout.Unbind(true)
			e.window.give(u.bucket.grads)
			e.window.give(u.bucket.spare)
			u.bucket.grads, u.bucket.spare = nil, nil
		}
	}
}

// gather fills the unit's window: each rank sends its trainable and its frozen range.
func (e *Engine) gather(ctx context.Context, u *unit) error {
	if d := e.devices(); d != nil {
		event, err := e.gatherDevices(ctx, d, u, u.data)
		if err != nil {
			return err
		}
		e.q.Wait(event)
		return e.q.Err()
	}
	own, all := e.gatherWords(u, e.plan.rank), e.words(u.train.layout.Len)+u.frozen.layout.Len
	send, recv := e.room(own, all)
	if e.counts() {
		return nil
	}
	if err := e.ownValues(u, send); err != nil {
		return err
	}
	bufs := e.host.bufs[1]
	e.gatherInto(u, recv, bufs)
	if err := e.comm.settled(func(c Collective) error { return e.gatherFrom(ctx, c, bytesOf(send), bufs) }); err != nil {
		return fmt.Errorf("cannot gather %s: %w", u.u.Name, err)
	}
	return e.putValues(u, u.data, recv)
}

// gatherWords is the number of 32-bit words that a rank of this one's group holds of a unit; 0 for ranks of others.
func (e *Engine) gatherWords(u *unit, rank int) int64 {
	if e.plan.copy[rank] != e.plan.copy[e.plan.rank] {
		return 0
	}
	return e.words(u.heldLen(rank)) + u.stillLen(rank)
}

// gatherFrom exchanges what the ranks of a group hold.
func (e *Engine) gatherFrom(ctx context.Context, c Collective, send []byte, recv [][]byte) error {
	if e.plan.copies == 1 {
		return c.AllGather(ctx, send, recv)
	}
	return c.AllToAll(ctx, e.toSome(send, func(r int) bool { return e.plan.copy[r] == e.plan.copy[e.plan.rank] }), recv)
}

// toSome is what goes to each rank when some get the same.
func (e *Engine) toSome(send []byte, to func(rank int) bool) [][]byte {
	out := make([][]byte, e.plan.world)
	for r := range out {
		if to(r) {
			out[r] = send
		}
	}
	return out
}

// ownValues brings this rank's ranges of a unit to the host: the trained one, then the frozen one.
func (e *Engine) ownValues(u *unit, send []float32) error {
	ot, of := u.heldLen(e.plan.rank), u.stillLen(e.plan.rank)
	ow := e.words(ot)
	if ot > 0 {
		if err := kernels.Download(e.q, send[:ow], u.bucket.mem.p.Slice(0, u.kept, u.kept+ot)); err != nil {
			return err
		}
	}
	if of > 0 {
		return kernels.Download(e.q, send[ow:ow+of], e.frozen[u])
	}
	return nil
}

// gatherInto lays the ranks' ranges of a unit end to end in recv.
func (e *Engine) gatherInto(u *unit, recv []float32, bufs [][]byte) {
	at := int64(0)
	for k := range e.plan.world {
		n := e.gatherWords(u, k)
		bufs[k] = bytesOf(recv[at : at+n])
		at += n
	}
}

// putValues brings the ranks' ranges from the host to their places in a window.
func (e *Engine) putValues(u *unit, s *slot, recv []float32) error {
	at := int64(0)
	put := func(base, lo, hi int64) error {
		if lo == hi {
			return nil
		}
		src := recv[at : at+hi-lo]
		at += hi - lo
		return kernels.Upload(e.q, s.flat.Slice(0, base+lo, base+hi), src)
	}
	for k := range e.plan.world {
		if e.gatherWords(u, k) == 0 {
			continue
		}
		lo, hi := u.held(k)
		from, to := u.still(k)
		if err := errors.Join(put(0, e.words(lo), e.words(hi)), put(e.words(u.train.layout.Len), from, to)); err != nil {
			return err
		}
	}
	return nil
}

// bindGrads points the unit's gradients into its bucket's window, or straight at the accumulator where that gives the same bits: the
// first leaf of a step when all is owned by one rank. With fast reduction further leaves of a rank are added where the first one is.
func (e *Engine) bindGrads(u *unit) error {
	b := u.bucket
	var flat kernels.Tensor
	u.u.AccumulateGrads = e.cfg.Fast && e.micro > 0 && e.HasLeaf(e.micro, e.leaves, e.plan.rank)
	switch {
	case e.direct():
		if err := e.borrow(b); err != nil {
			return err
		}
		flat = b.mem.acc
	case e.aside():
		if b.begun == 0 {
			s, err := e.window.take(b.fullLen)
			if err != nil {
				return err
			}
			b.spare = s
		}
		flat = b.spare.view(b.fullLen)
	default:
		if b.grads == nil {
			s, err := e.window.take(b.fullLen)
			if err != nil {
				return err
			}
			b.grads = s
		}
		flat = b.grads.view(b.fullLen)
	}
	b.begun++
	return u.train.layout.Bind(flat.Slice(0, u.full, u.full+u.train.layout.Len), true)
}

// direct reports whether gradients are computed where they are kept.
func (e *Engine) direct() bool { return e.plan.world == 1 && (e.micro == 0 || e.cfg.Fast) }

// aside reports whether this micro-step's gradients are of a rank without a leaf and must not touch those of its earlier leaves.
func (e *Engine) aside() bool {
	return e.cfg.Fast && e.micro > 0 && !e.HasLeaf(e.micro, e.leaves, e.plan.rank)
}

// keeps reports whether fast reduction leaves a bucket's gradients on their ranks until a later micro-step.
func (e *Engine) keeps() bool { return e.cfg.Fast && (e.micro+1)*e.plan.world < e.leaves }

// contributes reports whether a rank takes part in the exchange that ends this micro-step: with fast reduction once a step, with the sum of
// its leaves.
func (e *Engine) contributes(rank int) bool {
	if e.cfg.Fast {
		return rank < e.leaves
	}
	return e.HasLeaf(e.micro, e.leaves, rank)
}

// reduce adds one micro-step's leaves to the owners' accumulators, in leaf order; with fast reduction the ranks' sums, once a step.
func (e *Engine) reduce(ctx context.Context, b *bucket) error {
	if e.direct() {
		return nil
	}
	if b.spare != nil {
		e.window.give(b.spare)
		b.spare = nil
	}
	if e.keeps() {
		return nil
	}
	window := b.grads
	b.grads = nil
	defer e.window.give(window)
	full := window.view(b.fullLen)
	if e.plan.world == 1 {
		e.q.SliceAdd(kernels.SliceAdd{X: full.Reshape(1, b.fullLen), Y: b.mem.acc, Accumulate: kernels.Flag(e.micro > 0)})
		return e.q.Err()
	}
	if e.over.on && !e.stream.streams() && e.devices() == nil {
		return e.reduceLater(ctx, b, full)
	}
	slices, err := e.collectSlices(ctx, b, full)
	if err != nil {
		return fmt.Errorf("cannot reduce gradients from %s on: %w", b.units[0].u.Name, err)
	}
	if slices == nil {
		return nil
	}
	defer e.window.give(slices)
	return e.addSlices(b, slices, e.senders(), e.micro > 0 && !e.cfg.Fast)
}

// addSlices adds leaves, a row a sender, to what this rank keeps of a bucket.
func (e *Engine) addSlices(b *bucket, s *slot, senders int64, accumulate bool) error {
	if err := e.borrow(b); err != nil {
		return err
	}
	e.q.SliceAdd(kernels.SliceAdd{X: s.view(senders*b.ownLen).Reshape(senders, b.ownLen), Y: b.mem.acc, Accumulate: kernels.Flag(accumulate)})
	return e.q.Err()
}

// senders is the number of ranks that contribute to the exchange that ends this micro-step.
func (e *Engine) senders() (n int64) {
	for k := range e.plan.world {
		if e.contributes(k) {
			n++
		}
	}
	return n
}

// collectSlices sends every owner its slices of this rank's leaf and returns what came for this rank, a row a leaf; nil when it owns nothing.
func (e *Engine) collectSlices(ctx context.Context, b *bucket, full kernels.Tensor) (s *slot, err error) {
	n := e.senders() * b.ownLen
	if d := e.devices(); d != nil {
		var slices kernels.Tensor
		if n > 0 {
			if s, err = e.window.take(n); err != nil {
				return nil, err
			}
			slices = s.view(n)
		}
		if err := e.exchangeDevices(ctx, d, b, full, slices); err != nil {
			e.window.give(s)
			return nil, err
		}
		return s, nil
	}
	if err := e.exchange(ctx, b, full); err != nil || n == 0 {
		return nil, err
	}
	if s, err = e.window.take(n); err != nil || e.counts() {
		return s, err
	}
	if err := kernels.Upload(e.q, s.view(n), e.host.recv[:n]); err != nil {
		e.window.give(s)
		return nil, err
	}
	return s, nil
}

// exchange sends every owner its slices of this rank's leaf and leaves what came for this rank in host.recv, a row a leaf.
func (e *Engine) exchange(ctx context.Context, b *bucket, full kernels.Tensor) error {
	senders := e.senders()
	send, recv := e.host.bufs[0], e.host.bufs[1]
	out, in := e.room(b.fullLen, senders*b.ownLen)
	if e.counts() {
		return nil
	}
	if err := e.slicesInto(b, full, out, in, senders, send, recv); err != nil {
		return err
	}
	return e.comm.AllToAll(ctx, send, recv)
}

// slicesInto brings this rank's leaf of a bucket to out, the slices by owner, and says what of out goes to whom and what of in comes from whom.
func (e *Engine) slicesInto(b *bucket, full kernels.Tensor, out, in []float32, senders int64, send, recv [][]byte) error {
	clear(send)
	clear(recv)
	if e.contributes(e.plan.rank) {
		// The host buffer holds the slices by owner: first those of rank 0 for all units, and so on.
		at := int64(0)
		for k := range e.plan.world {
			from := at
			for _, u := range b.units {
				lo, hi := u.owned(k)
				if lo == hi {
					continue
				}
				if err := kernels.Download(e.q, out[at:at+hi-lo], full.Slice(0, u.full+lo, u.full+hi)); err != nil {
					return err
				}
				at += hi - lo
			}
			send[k] = bytesOf(out[from:at])
		}
	}
	for k := range senders {
		recv[k] = bytesOf(in[k*b.ownLen : (k+1)*b.ownLen])
	}
	return nil
}

// counts reports that the device only counts: nothing is exchanged.
func (e *Engine) counts() bool { return e.q.Device().Counting() }

// room is host memory of so many words to send from and to receive into; where the device only counts, their numbers are noted.
func (e *Engine) room(sent, received int64) (send, recv []float32) {
	e.host.sent, e.host.received = max(e.host.sent, sent), max(e.host.received, received)
	if e.counts() {
		return nil, nil
	}
	return grow(&e.host.send, sent), grow(&e.host.recv, received)
}

func grow(s *[]float32, n int64) []float32 {
	if int64(cap(*s)) < n {
		*s = make([]float32, n)
	}
	return (*s)[:n]
}

func bytesOf(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*len(f))
}
