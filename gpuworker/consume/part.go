package consume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/store"
)

// workPart runs one part of a prep, eval or export stage in a rank process. The part's commit is its result object, written by the
// handler; a failed attempt is recorded under the message's issue. The message is acked after reading either of them, or that the run
// has ended. A part that is stopped leaves its message: control issues it again. The error is for the trace.
func (a *Agent) workPart(ctx context.Context, h *hold, d queue.Delivery, spec *schemas.RunSpec) error {
	m := d.Message()
	log := h.logger
	if plantedbug.Is(plantedbug.AckBeforeWork) {
		h.ack(ctx)
	}
	poked := make(chan struct{}, 1)
	if stop, err := a.work.Poked(m.Tenant, m.Run, func() { offer(poked, struct{}{}) }); err == nil {
		defer stop()
	}
	o, err := a.startOrder(ctx, d, spec)
	if err != nil {
		return a.failPart(ctx, h, m, classify(err, false))
	}
	defer os.RemoveAll(o.Dir)
	c, err := startChild(a.launch, log, o, func(e schemas.Event) { a.events.send(e) })
	if err != nil {
		return a.failPart(ctx, h, m, classify(err, false))
	}
	h.watched.Store(&c.pulse)
	defer h.watched.Store(nil)
	defer c.stop(0)
	log.Info("working on part", "kind", m.Kind)
	done, ok := a.watchPart(ctx, h, c, m, poked)
	if !ok {
		return nil
	}
	if done.Outcome == outcomeDone {
		done, ok = a.checkResult(ctx, m)
		if ok {
			log.Info("part is done")
			h.ack(ctx)
			a.poke(ctx, m)
			return nil
		}
	}
	if done.Outcome == outcomeInterrupted || h.isLost() {
		return nil
	}
	return a.failPart(ctx, h, m, done)
}

// failPart records a failed attempt and acks the message; the error is for the trace.
func (a *Agent) failPart(ctx context.Context, h *hold, m schemas.Message, done doneNotice) error {
	if done.Error == nil {
		done.Error = schemas.Errorf(schemas.CodeInternal, "", "the part failed without a reason")
	}
	h.logger.Error("part failed", "outcome", done.Outcome, "error", done.Error)
	if err := a.recordFailure(ctx, m, done); err != nil {
		h.logger.Warn("cannot record the failure, the lease will lapse", "error", err)
		return err
	}
	a.event(m, schemas.Event{Type: schemas.EventWarning, Message: fmt.Sprintf("part %d failed: %v", m.Part, done.Error), Error: done.Error})
	h.ack(ctx)
	a.poke(ctx, m)
	return done.Error
}

// watchPart waits for the rank's report; ok is false when the work was stopped instead (lease lost, run ended, drain).
func (a *Agent) watchPart(ctx context.Context, h *hold, c *child, m schemas.Message, poked <-chan struct{}) (doneNotice, bool) {
	tick := time.NewTicker(a.cfg.WatchPoll)
	defer tick.Stop()
	stall := time.NewTicker(max(50*time.Millisecond, a.cfg.LeaseTTL/3))
	defer stall.Stop()
	draining := a.draining
	var drainLimit <-chan time.Time
	for {
		select {
		case d := <-c.done:
			return d, true
		case <-h.lost:
			return doneNotice{}, false
		case <-ctx.Done():
			return doneNotice{}, false
		case <-draining:
			draining = nil // a short part may still finish
			drainLimit = time.After(min(a.drainTimeout(), 10*time.Second))
			continue
		case <-drainLimit:
			c.stop(a.cfg.KillGrace)
			return doneNotice{}, false
		case <-stall.C:
			phase, idle := c.idle()
			if idle <= a.cfg.stallLimit(phase) {
				continue
			}
			c.stop(0)
			return doneNotice{Outcome: outcomeStalled, Error: schemas.Errorf(schemas.CodeTimeout, phase, "phase %q did not advance for %s", phase,
				idle.Round(time.Second))}, true
		case <-poked:
		case <-h.hint:
		case <-tick.C:
		}
		head, err := a.readHead(ctx, m.Tenant, m.Run)
		if err == nil && !head.WantsPart(m.Stage, m.Part, m.Issue) {
			c.stop(a.cfg.KillGrace)
			h.ack(ctx)
			return doneNotice{}, false
		}
	}
}

// checkResult verifies that the handler's claim to be done is backed by the part's result object.
func (a *Agent) checkResult(ctx context.Context, m schemas.Message) (doneNotice, bool) {
	key := schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part)
	deadline := time.Now().Add(a.cfg.stallLimit(PhaseCommit))
	for {
		_, err := a.objects.Stat(ctx, key)
		if err == nil {
			return doneNotice{}, true
		}
		if errors.Is(err, store.ErrNotFound) {
			return doneNotice{Outcome: outcomeFailed, Error: schemas.Errorf(schemas.CodeInternal, key, "the %s handler ended without storing its result", m.Kind)}, false
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return doneNotice{Outcome: outcomeInterrupted, Error: schemas.AsErrorInfo(err)}, false
		}
		pause(ctx, a.cfg.FormPoll)
	}
}

// recordFailure writes the failure record of this issue; one that is there already stays.
func (a *Agent) recordFailure(ctx context.Context, m schemas.Message, d doneNotice) error {
	data, err := json.Marshal(schemas.Failure{Version: 1, Stage: m.Stage, Part: m.Part, Issue: m.Issue, Worker: a.cfg.Name, Cause: causeOf(d), Error: *d.Error,
		At: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("cannot encode the failure record: %w", err)
	}
	key := schemas.FailureKey(m.Tenant, m.Run, m.Stage, m.Part, m.Issue)
	deadline := time.Now().Add(a.cfg.stallLimit(PhaseCommit))
	for {
		_, err := a.objects.Put(ctx, key, data, store.Condition{Absent: true})
		if err == nil || errors.Is(err, store.ErrPrecondition) {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) || errors.Is(err, store.ErrFull) {
			return fmt.Errorf("cannot write %s: %w", key, err)
		}
		pause(ctx, a.cfg.FormPoll)
	}
}
