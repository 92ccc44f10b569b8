package consume

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/queue"
)

// hold keeps what an agent holds while it works on a message: the lease (renewed every third of its TTL) and the delivery (extended). Both
// are kept only while the work advances.
type hold struct {
	cfg      Config
	leases   lease.Leases
	delivery queue.Delivery
	key      string
	owner    lease.Owner
	logger   *slog.Logger

	// lost is closed when the lease is someone else's: the message is not ours any more, in any way.
	lost chan struct{}
	// hint receives a token when a renewal returned a control word: read HEAD now.
	hint chan struct{}
	// watched is the pulse of the running child, nil between children.
	watched atomic.Pointer[pulse]

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// acquire takes the lease of the message and starts keeping it. lease.ErrHeld when somebody else works on it.
func (a *Agent) acquire(ctx context.Context, d queue.Delivery) (*hold, error) {
	m := d.Message()
	h := &hold{cfg: a.cfg, leases: a.leases, delivery: d, key: schemas.LeaseKey(m.Tenant, m.Run, m.Stage, m.Index()), owner: a.cfg.owner(m.Issue),
		logger: a.logger.With("run", m.Run, "stage", m.Stage, "index", m.Index(), "issue", m.Issue), lost: make(chan struct{}), hint: make(chan struct{}, 1)}
	if _, err := h.leases.Acquire(ctx, h.key, h.owner, h.cfg.LeaseTTL); err != nil {
		return nil, err
	}
	kctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.stop = cancel
	h.wg.Go(func() { h.keepLease(kctx) })
	h.wg.Go(func() { h.keepDelivery(kctx) })
	return h, nil
}

// advancing reports whether the work is within the stall limit of its phase.
func (h *hold) advancing() bool {
	p := h.watched.Load()
	if p == nil {
		return true
	}
	phase, idle := p.idle()
	return idle < h.cfg.stallLimit(phase)
}

func (h *hold) keepLease(ctx context.Context) {
	tick := time.NewTicker(h.cfg.LeaseTTL / 3)
	defer tick.Stop()
	reachable := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !h.advancing() {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, h.cfg.LeaseTTL)
		word, err := h.leases.Renew(rctx, h.key, h.owner, h.cfg.LeaseTTL)
		cancel()
		switch {
		case err == nil:
			reachable = true
			if word != schemas.ControlNone {
				offer(h.hint, struct{}{})
			}
		case errors.Is(err, lease.ErrLost), plantedbug.Is(plantedbug.LeaseIsPermission) && ctx.Err() == nil:
			h.logger.Warn("lease lost")
			close(h.lost)
			return
		case ctx.Err() == nil && reachable:
			// A lease is a hint of life: the work goes on without it.
			h.logger.Warn("cannot renew lease, working on", "error", err)
			reachable = false
		}
	}
}

func (h *hold) keepDelivery(ctx context.Context) {
	tick := time.NewTicker(h.cfg.ExtendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.lost:
			return
		case <-tick.C:
		}
		if !h.advancing() {
			continue
		}
		ectx, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := h.delivery.Extend(ectx); err != nil && ctx.Err() == nil {
			h.logger.Warn("cannot extend delivery, working on", "error", err)
		}
		cancel()
	}
}

func (h *hold) isLost() bool {
	select {
	case <-h.lost:
		return true
	default:
		return false
	}
}

// release stops keeping and frees the lease if it is still ours.
func (h *hold) release(ctx context.Context) {
	h.stop()
	h.wg.Wait()
	if h.isLost() {
		return
	}
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := h.leases.Release(rctx, h.key, h.owner); err != nil {
		h.logger.Warn("cannot release lease, it will lapse", "error", err)
	}
}

// ack removes the message, which the caller has read to be obsolete. A lost lease forbids it: the message is no longer ours to touch.
func (h *hold) ack(ctx context.Context) {
	if h.isLost() {
		return
	}
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := h.delivery.Ack(actx); err != nil {
		h.logger.Warn("cannot ack an obsolete message, its next puller will", "error", err)
	}
}
