package zero

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// Devices moves device memory between the ranks without the host; package exchange implements it and says what holds of a call: it begins
// after what is queued on q, moves bytes on a queue of its own, and what is queued after q.Wait of its event finds them.
type Devices interface {
	// AllToAll sends the tensors send[r] to rank r and fills recv[r] with what rank r sent to this one.
	AllToAll(ctx context.Context, q *kernels.Queue, send, recv [][]kernels.Tensor) (*kernels.Event, error)
	// AllGather fills recv[r], on every rank, with what rank r sends.
	AllGather(ctx context.Context, q *kernels.Queue, send []kernels.Tensor, recv [][]kernels.Tensor) (*kernels.Event, error)
}

// devices is what this rank's memory travels through, nil when that is the host.
func (e *Engine) devices() Devices {
	if e.counts() || e.plan.world == 1 {
		return nil
	}
	return e.cfg.Devices
}

// wordsOf views a tensor as 32-bit words.
func wordsOf(t kernels.Tensor) kernels.Tensor {
	return kernels.NewTensor(t.Data, kernels.F32, t.Bytes()/4)
}

// addPiece appends words [lo, hi) of t, if there are any.
func addPiece(to []kernels.Tensor, t kernels.Tensor, lo, hi int64) []kernels.Tensor {
	if lo == hi {
		return to
	}
	return append(to, t.Slice(0, lo, hi))
}

// gatherDevices begins to fill a window with a unit; what is queued after a wait for the event may read it.
func (e *Engine) gatherDevices(ctx context.Context, d Devices, u *unit, s *slot) (*kernels.Event, error) {
	me, w := e.plan.rank, e.plan.world
	var send []kernels.Tensor
	if own := u.heldLen(me); own > 0 {
		send = append(send, wordsOf(u.bucket.mem.p.Slice(0, u.kept, u.kept+own)))
	}
	if u.stillLen(me) > 0 {
		send = append(send, e.frozen[u])
	}
	recv, base := make([][]kernels.Tensor, w), e.words(u.train.layout.Len)
	for k := range w {
		if e.gatherWords(u, k) == 0 {
			continue
		}
		lo, hi := u.held(k)
		from, to := u.still(k)
		recv[k] = addPiece(recv[k], s.flat, e.words(lo), e.words(hi))
		recv[k] = addPiece(recv[k], s.flat, base+from, base+to)
	}
	event, err := e.deviceGather(ctx, d, send, recv, func(r int) bool { return e.plan.copy[r] == e.plan.copy[me] }, e.plan.copies == 1)
	if err != nil {
		return nil, fmt.Errorf("cannot gather %s: %w", u.u.Name, err)
	}
	return event, nil
}

// exchangeDevices sends every owner its slices of this rank's leaf, and fills slices, a row a sender, with what comes for this rank.
func (e *Engine) exchangeDevices(ctx context.Context, d Devices, b *bucket, full, slices kernels.Tensor) error {
	me, w := e.plan.rank, e.plan.world
	send, recv := make([][]kernels.Tensor, w), make([][]kernels.Tensor, w)
	row := int64(0)
	for k := range w {
		for _, u := range b.units {
			if lo, hi := u.owned(k); e.contributes(me) {
				send[k] = addPiece(send[k], full, u.full+lo, u.full+hi)
			}
			if e.contributes(k) {
				recv[k] = addPiece(recv[k], slices, row+u.own, row+u.own+u.ownLen(me))
			}
		}
		if e.contributes(k) {
			row += b.ownLen
		}
	}
	event, err := d.AllToAll(ctx, e.q, send, recv)
	if err != nil {
		return err
	}
	e.q.Wait(event)
	return e.q.Err()
}

// deviceGather gives the ranks that to names what each of them sends; all says that these are all ranks.
func (e *Engine) deviceGather(ctx context.Context, d Devices, send []kernels.Tensor, recv [][]kernels.Tensor, to func(rank int) bool, all bool) (*kernels.Event, error) {
	if all {
		return d.AllGather(ctx, e.q, send, recv)
	}
	out := make([][]kernels.Tensor, e.plan.world)
	for r := range out {
		if to(r) {
			out[r] = send
		}
	}
	return d.AllToAll(ctx, e.q, out, recv)
}

// spreadDevices gives every rank the reduced gradient of what it holds of a bucket, or, with values, the updated values of what others own.
func (e *Engine) spreadDevices(ctx context.Context, d Devices, b *bucket, values bool) error {
	into := b.mem.reduced
	if values {
		into = b.mem.p
	}
	var send []kernels.Tensor
	recv := make([][]kernels.Tensor, e.plan.world)
	for _, u := range b.units {
		lo, hi := u.owned(e.plan.rank)
		from, _ := u.held(e.plan.rank)
		if values {
			send = appendWords(send, into, u.kept+lo-from, u.kept+hi-from)
		} else {
			send = addPiece(send, b.mem.acc, u.own, u.own+hi-lo)
		}
		for k := range recv {
			if lo, hi := u.owned(k); e.sameRange(k) && (!values || k != e.plan.rank) { // its own values are there
				recv[k] = appendWords(recv[k], into, u.kept+lo-from, u.kept+hi-from)
			}
		}
	}
	to := func(r int) bool { return e.sameRange(r) && (!values || r != e.plan.rank) }
	event, err := e.deviceGather(ctx, d, send, recv, to, e.plan.group == 1 && !values)
	if err != nil {
		return err
	}
	e.q.Wait(event)
	return e.q.Err()
}

// appendWords appends elements [lo, hi) of t as words, if there are any.
func appendWords(to []kernels.Tensor, t kernels.Tensor, lo, hi int64) []kernels.Tensor {
	if lo == hi {
		return to
	}
	return append(to, wordsOf(t.Slice(0, lo, hi)))
}
