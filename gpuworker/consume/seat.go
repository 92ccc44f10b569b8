package consume

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// seat is one held seat of a train stage. The seat outlives its ranks: after each lost generation a fresh rank process is offered, until
// HEAD no longer wants the seat at this issue, the lease is lost, or the agent drains.
type seat struct {
	a    *Agent
	m    schemas.Message
	h    *hold
	d    queue.Delivery
	spec *schemas.RunSpec
	log  *slog.Logger
	poke chan struct{}

	// keep is the folder that outlives the ranks of this seat.
	keep string
	// failed counts attempts in a row that ended badly without a commit; refused is the generation of a permanent error: control decides.
	failed  int
	refused uint64
	// unjudged is since when the newest failure waits for control's answer.
	unjudged time.Time
}

// maxFailed is the number of stalled or stillborn attempts in a row after which the host is taken as the culprit and gives the seat back.
const maxFailed = 5

// holdSeat returns false when the host could not do the seat's work and gave it back.
func (a *Agent) holdSeat(ctx context.Context, h *hold, d queue.Delivery, spec *schemas.RunSpec) bool {
	m := d.Message()
	s := &seat{a: a, m: m, h: h, d: d, spec: spec, log: h.logger, poke: make(chan struct{}, 1)}
	stop, err := a.work.Poked(m.Tenant, m.Run, func() { offer(s.poke, struct{}{}) })
	if err != nil {
		s.log.Debug("no pokes, polling only", "error", err)
	} else {
		defer stop()
	}
	if s.keep, err = os.MkdirTemp(a.cfg.Dir, "keep-"); err != nil {
		s.log.Warn("no folder to keep parts of checkpoints in: a gang that forms again reads all from the store", "error", err)
	} else {
		defer os.RemoveAll(s.keep)
	}
	s.log.Info("holding seat")
	if plantedbug.Is(plantedbug.AckSeatAtOnce) {
		h.ack(ctx)
	}
	absent := time.Now()
	for {
		head, err := a.readHead(ctx, m.Tenant, m.Run)
		if head != nil {
			absent = time.Now()
		}
		switch {
		case h.isLost():
			s.log.Warn("seat lost to another holder")
			return true
		case err != nil:
			s.log.Warn("cannot read HEAD, trying on", "error", err)
			if a.isDraining() {
				return true // nothing can be written either: the lease lapses
			}
			s.wait(ctx, a.cfg.FormPoll)
		case head == nil:
			if a.isDraining() || time.Since(absent) > takePatience {
				s.log.Warn("the run of this seat has no HEAD, leaving the message")
				return true
			}
			s.wait(ctx, a.cfg.FormPoll)
		case !head.WantsSeat(m.Stage, m.Seat, m.Issue):
			s.log.Info("seat is obsolete")
			h.ack(ctx)
			return true
		case a.isDraining(), s.failed >= maxFailed:
			s.yield(ctx)
			return s.failed < maxFailed
		case s.held(head):
			s.wait(ctx, a.cfg.WatchPoll)
		default:
			s.attempt(ctx, head)
		}
	}
}

// held reports whether no rank is to be offered now: a control word stands in HEAD, or control has still to judge a permanent error.
func (s *seat) held(head *schemas.Head) bool {
	if s.refused != 0 && head.Generation <= s.refused {
		return true
	}
	s.refused = 0
	if !head.Unjudged() {
		s.unjudged = time.Time{}
	} else if s.unjudged.IsZero() {
		s.unjudged = time.Now()
	}
	return head.Control != schemas.ControlNone || head.Unjudged() && !s.impatient()
}

// impatient reports whether control has not answered a failure for so long that the gang goes on without it.
func (s *seat) impatient() bool {
	return !s.unjudged.IsZero() && time.Since(s.unjudged) > 3*s.a.cfg.LeaseTTL
}

// wait returns after d, at a poke, at a hint, when the seat is lost or the agent drains.
func (s *seat) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	draining := s.a.draining
	if s.a.isDraining() {
		draining = nil
	}
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-s.poke:
	case <-s.h.hint:
	case <-s.h.lost:
	case <-draining:
	}
}

// attempt runs one rank from its start to its end: offer, generation, work. head wants the seat.
func (s *seat) attempt(ctx context.Context, head *schemas.Head) {
	o, err := s.a.startOrder(ctx, s.d, s.spec)
	if err != nil {
		s.unfit(ctx, err)
		return
	}
	defer os.RemoveAll(o.Dir)
	if s.keep != "" {
		o.Keep = filepath.Join(filepath.Dir(o.Dir), filepath.Base(s.keep))
	}
	c, err := startChild(s.a.launch, s.log, o, func(e schemas.Event) { s.a.events.send(e) })
	if err != nil {
		s.unfit(ctx, err)
		return
	}
	s.h.watched.Store(&c.pulse)
	defer s.h.watched.Store(nil)
	defer c.stop(0)
	addr, ok := s.awaitReady(ctx, c)
	if !ok {
		return
	}
	own := s.offer(ctx, c, addr, head)
	if own == nil {
		return
	}
	s.work(ctx, c, own)
}

// unfit notes that this host cannot even start a rank (no disk, no processes left).
func (s *seat) unfit(ctx context.Context, err error) {
	s.log.Error("cannot start a rank", "error", err)
	s.failed++
	info := classify(err, false).Error
	s.a.event(s.m, schemas.Event{Type: schemas.EventWarning, Message: "a worker cannot start a rank: " + info.Error(), Error: info})
	pause(ctx, time.Second)
}

// awaitReady returns the address that the rank listens on.
func (s *seat) awaitReady(ctx context.Context, c *child) (string, bool) {
	limit := time.NewTimer(s.a.cfg.FormTimeout)
	defer limit.Stop()
	select {
	case addr := <-c.ready:
		return addr, true
	case d := <-c.done:
		s.ended(ctx, d, nil)
	case <-s.h.lost:
	case <-s.a.draining:
	case <-ctx.Done():
	case <-limit.C:
		s.log.Error("the rank process does not come up")
		s.failed++
	}
	return "", false
}

// offer registers the rank for the next generation, lets it form when this seat leads, and returns the HEAD whose generation the rank is a
// member of, or nil when the attempt is over.
func (s *seat) offer(ctx context.Context, c *child, addr string, head *schemas.Head) *schemas.Head {
	key := schemas.RendezvousKey(s.m.Tenant, s.m.Run, s.m.Stage, s.m.Seat)
	a := lease.Address{Owner: s.h.owner, Seat: s.m.Seat, Addr: addr, After: head.Generation, Numerics: s.a.cfg.Numerics}
	ttl := 2 * s.a.cfg.LeaseTTL
	defer func() {
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := s.a.leases.Withdraw(wctx, key, s.h.owner); err != nil {
			s.log.Debug("cannot withdraw the offer, it will lapse", "error", err)
		}
	}()
	var offered time.Time
	for {
		if me := memberOf(head, s.m, s.a.cfg.Incarnation); me != nil && me.Addr == addr && head.Generation > a.After {
			return s.join(c, head, me)
		}
		if me := memberOf(head, s.m, s.a.cfg.Incarnation); me != nil && me.Addr != addr {
			// A rank of this seat that is gone is still a member: the others need not wait for it until they time out.
			s.endGeneration(ctx, head.Generation, schemas.CauseInfrastructure, nil)
		}
		if time.Since(offered) > s.a.cfg.LeaseTTL/2 || a.After < head.Generation {
			// A generation that this rank is not in came and went: the rank may join any later one.
			news := offered.IsZero() || a.After < head.Generation
			a.After = max(a.After, head.Generation)
			octx, cancel := context.WithTimeout(ctx, 2*time.Second)
			if err := s.a.leases.Offer(octx, key, a, ttl); err != nil {
				s.log.Debug("cannot offer the rank, trying on", "error", err)
			} else {
				offered = time.Now()
				if news && lead(head) != s.m.Seat {
					s.a.poke(ctx, s.m) // the leading seat looks at once
				}
			}
			cancel()
		}
		if lead(head) == s.m.Seat {
			if formed := s.form(ctx, head); formed != nil {
				head = formed
				continue
			}
		}
		c.beat(PhaseWaiting, time.Now().UnixNano()) // waiting advances as long as the agent itself does
		select {
		case d := <-c.done:
			s.ended(ctx, d, nil)
			return nil
		default:
		}
		s.wait(ctx, s.a.cfg.FormPoll)
		if s.h.isLost() || s.a.isDraining() || ctx.Err() != nil {
			return nil
		}
		now, err := s.a.readHead(ctx, s.m.Tenant, s.m.Run)
		if err != nil {
			s.log.Debug("cannot read HEAD, trying on", "error", err)
			continue
		}
		if now == nil || !now.WantsSeat(s.m.Stage, s.m.Seat, s.m.Issue) || s.held(now) {
			return nil
		}
		head = now
	}
}

// join tells the rank to form the mesh of HEAD's generation.
func (s *seat) join(c *child, head *schemas.Head, me *schemas.Member) *schemas.Head {
	s.log.Info("joining generation", "generation", head.Generation, "rank", me.Rank, "world", len(head.Members))
	c.beat("form", int64(head.Generation))
	f := &formOrder{Rank: me.Rank, Head: head, Secret: meshSecret(head), FormTimeout: int64(s.a.cfg.FormTimeout), OpTimeout: int64(s.a.cfg.OpTimeout)}
	if err := c.orders.write(order{Form: f}); err != nil {
		s.log.Warn("cannot send orders to the rank", "error", err) // it has ended: done tells why
	}
	return head
}

// lead is the seat that forms: the lowest wanted one.
func lead(head *schemas.Head) int {
	low := -1
	for _, w := range head.Seats {
		if low < 0 || w.Seat < low {
			low = w.Seat
		}
	}
	return low
}

// memberOf finds this incarnation's membership for the seat; nil when it has none or HEAD's members are not a proper gang.
func memberOf(head *schemas.Head, m schemas.Message, incarnation string) *schemas.Member {
	var me *schemas.Member
	for i := range head.Members {
		w := &head.Members[i]
		if w.Rank < 0 || w.Rank >= len(head.Members) {
			return nil
		}
		if w.Seat == m.Seat && w.Issue == m.Issue && w.Incarnation == incarnation {
			me = w
		}
	}
	return me
}

// form swaps HEAD to the next generation when every wanted seat is offered by a live holder that has left all earlier generations. It
// returns the new HEAD, or nil when it is not time yet.
func (s *seat) form(ctx context.Context, head *schemas.Head) *schemas.Head {
	fctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var offers, leases []string
	for _, w := range head.Seats {
		offers = append(offers, schemas.RendezvousKey(s.m.Tenant, s.m.Run, s.m.Stage, w.Seat))
		leases = append(leases, schemas.LeaseKey(s.m.Tenant, s.m.Run, s.m.Stage, w.Seat))
	}
	there, err := s.a.leases.Offers(fctx, offers)
	if err != nil {
		return nil // nothing forms without the lease server
	}
	holders, err := s.a.leases.Holders(fctx, leases)
	if err != nil {
		return nil
	}
	members, numerics, ok := muster(head, there, holders, s.m)
	if !ok {
		return nil
	}
	if head.Numerics != "" && numerics != head.Numerics {
		s.a.event(s.m, schemas.Event{Type: schemas.EventWarning, Generation: head.Generation, Step: head.Step,
			Message: "the arithmetic of this gang (" + numerics + ") is not that of the run so far (" + head.Numerics + "): results are not bit-equal from here on"})
	}
	if len(head.Members) > 0 {
		// All wanted seats have left the generation that HEAD still names.
		if _, err := s.a.heads.EndGeneration(fctx, s.m.Tenant, s.m.Run, head.Generation, schemas.CauseInfrastructure, nil); err != nil {
			s.log.Warn("cannot end an abandoned generation", "generation", head.Generation, "error", err)
			return nil
		}
	}
	sctx, span := telemetry.Tracer().Start(fctx, telemetry.SpanForm, trace.WithAttributes(attribute.String(telemetry.AttrRun, s.m.Run),
		attribute.Int64(telemetry.AttrGeneration, int64(head.Generation)+1)))
	formed, err := s.a.heads.FormGeneration(sctx, s.m.Tenant, s.m.Run, s.m.Stage, checkpoint.Forming{Expect: head.Generation, Members: members,
		Numerics: numerics, Unjudged: s.impatient()})
	telemetry.End(span, err)
	if err != nil {
		s.log.Info("HEAD has moved while forming", "error", err)
		return nil
	}
	s.a.poke(ctx, s.m)
	s.a.event(s.m, schemas.Event{Type: schemas.EventGeneration, Generation: formed.Generation, Step: formed.Step,
		Values: map[string]float64{"world": float64(len(members))}})
	return formed
}

// muster makes the members of the next generation from offers and lease holders, ranks in seat order; ok is false while a seat is missing
// or the ranks' arithmetic differs.
func muster(head *schemas.Head, offers []lease.Address, holders map[string]lease.Owner, m schemas.Message) (members []schemas.Member, numerics string, ok bool) {
	wanted := slices.Clone(head.Seats)
	slices.SortFunc(wanted, func(a, b schemas.Seat) int { return a.Seat - b.Seat })
	for rank, w := range wanted {
		i := slices.IndexFunc(offers, func(o lease.Address) bool {
			return o.Seat == w.Seat && o.Owner.Issue == w.Issue && o.After >= head.Generation &&
				holders[schemas.LeaseKey(m.Tenant, m.Run, m.Stage, w.Seat)] == o.Owner
		})
		if i < 0 || rank > 0 && offers[i].Numerics != numerics {
			return nil, "", false
		}
		o := offers[i]
		numerics = o.Numerics
		members = append(members, schemas.Member{Rank: rank, Seat: w.Seat, Issue: w.Issue, Worker: o.Owner.Worker, Incarnation: o.Owner.Incarnation, Addr: o.Addr})
	}
	return members, numerics, len(members) > 0
}
