package exchange

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
)

// Local is one rank of an exchange between goroutines whose devices share their memory: the same card, or the CPU. Made by NewLocal.
type Local struct {
	host sharer
	q    *kernels.Queue
	ring *ring
}

// NewLocal makes this rank's end. host is what the ranks share values through (collective.Local).
func NewLocal(dev *kernels.Device, host interface {
	Host
	Share(ctx context.Context, v any, use func(all []any) error) error
	Break(err error)
}) (*Local, error) {
	r, err := newRing(dev)
	if err != nil {
		return nil, fmt.Errorf("cannot exchange on one device: %w", err)
	}
	q, err := dev.NewQueue(kernels.Comm)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("cannot exchange on one device: %w", err)
	}
	return &Local{host: host, q: q, ring: r}, nil
}

// offer is what a rank shares in a call.
type offer struct {
	kind  string
	send  [][]kernels.Tensor // by receiver
	ready *kernels.Event
}

// AllToAll implements Collective.
func (l *Local) AllToAll(ctx context.Context, q *kernels.Queue, send, recv [][]kernels.Tensor) (*kernels.Event, error) {
	if _, err := checkSlots(l.host.World(), l.host.Rank(), send, recv); err != nil {
		return nil, err
	}
	return l.run(ctx, q, "all-to-all", send, recv)
}

// AllGather implements Collective.
func (l *Local) AllGather(ctx context.Context, q *kernels.Queue, send []kernels.Tensor, recv [][]kernels.Tensor) (*kernels.Event, error) {
	all := make([][]kernels.Tensor, l.host.World())
	for r := range all {
		all[r] = send
	}
	if _, err := checkSlots(l.host.World(), l.host.Rank(), all, recv); err != nil {
		return nil, err
	}
	return l.run(ctx, q, "all-gather", all, recv)
}

// run copies what the others offer, and returns an event after which all have copied what this rank offers.
func (l *Local) run(ctx context.Context, q *kernels.Queue, kind string, send, recv [][]kernels.Tensor) (*kernels.Event, error) {
	s := l.ring.take()
	q.Record(s.ready)
	if err := q.Err(); err != nil {
		return nil, err
	}
	l.q.Wait(s.ready) // what is received into may be in use until then
	err := l.host.Share(ctx, offer{kind, send, s.ready}, func(all []any) error { return l.copy(kind, all, recv) })
	if err != nil {
		return nil, err
	}
	l.q.Record(s.moved)
	err = l.host.Share(ctx, s.moved, func(all []any) error {
		for r, v := range all {
			e, ok := v.(*kernels.Event)
			if !ok {
				return fmt.Errorf("%w: rank %d makes another call than an %s", collective.ErrMismatch, r, kind)
			}
			l.q.Wait(e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.q.Record(s.done)
	return s.done, l.q.Err()
}

// copy queues the copies of what all offer.
func (l *Local) copy(kind string, all []any, recv [][]kernels.Tensor) error {
	me := l.host.Rank()
	for r, v := range all {
		o, ok := v.(offer)
		if !ok || o.kind != kind {
			return fmt.Errorf("%w: rank %d makes another call than an %s", collective.ErrMismatch, r, kind)
		}
		if err := alike(o.send[me], recv[r], r, me); err != nil {
			return err
		}
		l.q.Wait(o.ready)
		for i, x := range o.send[me] {
			if y := recv[r][i]; x.Numel() > 0 && x.Data != y.Data {
				l.q.Copy(kernels.Copy{X: raw(x), Y: raw(y)})
			}
		}
	}
	return nil
}

// Failure implements Collective: ranks of one process are lost with it.
func (l *Local) Failure() error { return nil }

// Close implements Collective.
func (l *Local) Close(cause error) error {
	if cause != nil {
		l.host.Break(cause)
	}
	err := l.q.Close()
	l.ring.close()
	var k *kernels.Error
	if errors.As(err, &k) && k.Status == kernels.StatusLost {
		return nil
	}
	return err
}

func (l *Local) String() string { return "copies on one device" }
