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
	if own := u.train.own(me); own > 0 {
		send = append(send, wordsOf(u.bucket.mem.p.Slice(0, u.own, u.own+own)))
	}
	if u.frozen.own(me) > 0 {
		send = append(send, e.frozen[u])
	}
	recv, base := make([][]kernels.Tensor, w), e.words(u.train.layout.Len)
	for k := range w {
		t, f := u.train.bounds[k:], u.frozen.bounds[k:]
		recv[k] = addPiece(recv[k], s.flat, e.words(t[0]), e.words(t[1]))
		recv[k] = addPiece(recv[k], s.flat, base+f[0], base+f[1])
	}
	event, err := d.AllGather(ctx, e.q, send, recv)
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
			if e.contributes(me) {
				send[k] = addPiece(send[k], full, u.full+u.train.bounds[k], u.full+u.train.bounds[k+1])
			}
			if e.contributes(k) {
				recv[k] = addPiece(recv[k], slices, row+u.own, row+u.own+u.train.own(me))
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

// spreadDevices gives every rank the whole reduced gradient of a bucket.
func (e *Engine) spreadDevices(ctx context.Context, d Devices, b *bucket) error {
	var send []kernels.Tensor
	recv := make([][]kernels.Tensor, e.plan.world)
	for _, u := range b.units {
		send = addPiece(send, b.mem.acc, u.own, u.own+u.train.own(e.plan.rank))
		for k := range recv {
			recv[k] = addPiece(recv[k], b.mem.reduced, u.full+u.train.bounds[k], u.full+u.train.bounds[k+1])
		}
	}
	event, err := d.AllGather(ctx, e.q, send, recv)
	if err != nil {
		return err
	}
	e.q.Wait(event)
	return e.q.Err()
}
