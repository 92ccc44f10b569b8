package consume

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/plantedbug"
)

// work watches the rank through its generation until it has ended.
func (s *seat) work(ctx context.Context, c *child, own *schemas.Head) {
	tick := time.NewTicker(s.a.cfg.WatchPoll)
	defer tick.Stop()
	stall := time.NewTicker(max(50*time.Millisecond, s.a.cfg.LeaseTTL/3))
	defer stall.Stop()
	word := schemas.ControlNone
	left := time.Duration(0)
	tell := func(w schemas.Control) {
		if w != word {
			s.log.Info("control word", "word", w)
			c.control(w, left)
			word = w
		}
	}
	draining := s.a.draining
	var drainLimit <-chan time.Time
	for {
		look := false
		select {
		case d := <-c.done:
			s.ended(ctx, d, own)
			return
		case g := <-c.formed:
			s.log.Info("gang is complete", "generation", g)
		case <-c.committed:
			s.failed = 0
			s.a.poke(ctx, s.m)
		case <-s.poke:
			look = true
		case <-s.h.hint:
			look = true
		case <-tick.C:
			look = true
		case <-s.h.lost:
			return // the rank is killed by attempt; the seat is another's
		case <-stall.C:
			if phase, idle := c.idle(); idle > s.a.cfg.stallLimit(phase) {
				c.stop(0)
				s.ended(ctx, doneNotice{Outcome: outcomeStalled, Error: schemas.Errorf(schemas.CodeTimeout, phase, "phase %q did not advance for %s", phase,
					idle.Round(time.Second))}, own)
				return
			}
		case <-draining:
			draining = nil
			left = s.a.drainTimeout()
			drainLimit = time.After(left)
			s.a.event(s.m, schemas.Event{Type: schemas.EventPreempt, Generation: own.Generation, Message: "the worker drains"})
			tell(schemas.ControlPreempt)
		case <-drainLimit:
			s.log.Warn("the gang did not commit in time, leaving at the last commit")
			c.stop(0)
			s.endGeneration(ctx, own.Generation, schemas.CausePreempted, nil)
			return
		case <-ctx.Done():
			return
		}
		if !look {
			continue
		}
		head, err := s.a.readHead(ctx, s.m.Tenant, s.m.Run)
		if err != nil || head == nil {
			continue // the work does not depend on it: commits are fenced
		}
		if plantedbug.Is(plantedbug.CancelIsNotFinal) && head.State == schemas.RunCancelled {
			continue
		}
		if reason := outdated(head, own, s.m, s.a.cfg.Incarnation); reason != "" {
			if head.Manifest != nil && head.Manifest.Final && !head.State.Terminal() {
				continue // this very gang's last commit: the rank is about to end
			}
			s.log.Warn("stopping the rank", "reason", reason, "generation", own.Generation, "head", head.Generation)
			s.a.event(s.m, schemas.Event{Type: schemas.EventFenced, Generation: own.Generation, Message: reason})
			c.stop(0)
			return
		}
		if !s.a.isDraining() {
			tell(head.Control)
		}
	}
}

// outdated says why the rank's generation is over according to HEAD, "" while it is not.
func outdated(head, own *schemas.Head, m schemas.Message, incarnation string) string {
	switch {
	case head.State.Terminal():
		return "the run is " + string(head.State)
	case !head.WantsSeat(m.Stage, m.Seat, m.Issue):
		return "the seat is no longer wanted at this issue"
	case head.Generation > own.Generation:
		return "a newer generation exists"
	case memberOf(head, m, incarnation) == nil:
		return "the generation was ended"
	}
	for _, w := range head.Members {
		if !slices.Contains(head.Seats, schemas.Seat{Seat: w.Seat, Issue: w.Issue}) {
			return "another member lost its seat"
		}
	}
	return ""
}

// ended acts on the end of a rank; own is nil when it was in no generation yet.
func (s *seat) ended(ctx context.Context, d doneNotice, own *schemas.Head) {
	log := s.log.With("outcome", d.Outcome)
	if d.Error != nil {
		log = log.With("error", d.Error.Error())
	}
	if own == nil {
		if s.a.isDraining() || ctx.Err() != nil {
			return
		}
		log.Warn("rank ended before it joined")
		s.failed++
		s.backoff(ctx)
		return
	}
	generation := own.Generation
	log = log.With("generation", generation)
	me := memberOf(own, s.m, s.a.cfg.Incarnation)
	switch d.Outcome {
	case outcomeDone:
		log.Info("rank is done")
		s.awaitFinal(ctx, own, me != nil && me.Rank == 0)
		return
	case outcomeFenced:
		log.Warn("rank was fenced")
		s.a.metrics.Fenced.Add(ctx, 1)
		pause(ctx, s.a.cfg.FormPoll)
		return
	case outcomeInterrupted:
		log.Info("rank stopped")
		// Rank 0 may still be committing the step at which all stopped: its agent ends the generation.
		if (me == nil || me.Rank != 0) && s.overBy(ctx, generation, s.a.cfg.DrainTimeout) {
			return
		}
	case outcomePeerLost:
		log.Warn("rank lost a peer")
		s.a.event(s.m, schemas.Event{Type: schemas.EventMemberLost, Generation: generation, Step: own.Step})
		if s.overBy(ctx, generation, s.a.cfg.BlameGrace) { // the agent of the lost rank knows why
			return
		}
	default:
		log.Error("rank failed")
		s.failed++
	}
	cause := causeOf(d)
	if d.Outcome == outcomePeerLost || d.Outcome == outcomeInterrupted {
		d.Error = nil // not a failure of this run; the event and the log say what happened
	}
	s.endGeneration(ctx, generation, cause, d.Error)
	if d.Outcome == outcomeFailed && d.Error != nil {
		s.a.event(s.m, schemas.Event{Type: schemas.EventWarning, Generation: generation, Step: own.Step, Message: "rank failed: " + d.Error.Error(), Error: d.Error})
		if d.Error.Permanent {
			s.refused = generation
			return
		}
	}
	if cause != schemas.CausePreempted && d.Outcome != outcomePeerLost {
		s.backoff(ctx)
	}
}

// backoff waits longer after each failure in a row.
func (s *seat) backoff(ctx context.Context) {
	pause(ctx, min(30*time.Second, s.a.cfg.FormPoll<<min(s.failed, 10)))
}

// endGeneration records the end; that HEAD has moved on meanwhile is fine.
func (s *seat) endGeneration(ctx context.Context, generation uint64, cause schemas.Cause, info *schemas.ErrorInfo) {
	head, err := s.a.heads.EndGeneration(ctx, s.m.Tenant, s.m.Run, generation, cause, info)
	if err == nil && head.Generation > generation && info != nil && info.Code == schemas.CodeVerify {
		s.log.Warn("a corrupt checkpoint was passed over", "step", head.Step, "error", info)
		s.a.event(s.m, schemas.Event{Type: schemas.EventFallback, Generation: head.Generation, Step: head.Step, Error: info,
			Message: "the newest checkpoint is corrupt; the run goes on from its parent"})
	}
	if err != nil && !schemas.IsCode(err, schemas.CodeFenced) {
		s.log.Warn("cannot record the end of the generation", "generation", generation, "cause", cause, "error", err)
	}
	s.a.poke(ctx, s.m)
}

// overBy waits for HEAD to say that the generation is over; false when it does not within limit.
func (s *seat) overBy(ctx context.Context, generation uint64, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		head, err := s.a.readHead(ctx, s.m.Tenant, s.m.Run)
		if err == nil && head != nil && (head.Generation > generation || len(head.Members) == 0 || !head.WantsSeat(s.m.Stage, s.m.Seat, s.m.Issue)) {
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) || s.h.isLost() {
			return false
		}
		pause(ctx, min(s.a.cfg.FormPoll, limit/4+time.Millisecond))
	}
}

// awaitFinal waits until HEAD shows the gang's final commit, which rank 0 may still be writing when another rank is done. Rank 0 itself
// has committed before it ended: if HEAD knows nothing of a final commit then, the handler is wrong.
func (s *seat) awaitFinal(ctx context.Context, own *schemas.Head, committer bool) {
	deadline := time.Now().Add(s.a.cfg.stallLimit(PhaseCommit))
	for {
		head, err := s.a.readHead(ctx, s.m.Tenant, s.m.Run)
		switch {
		case err != nil:
			s.log.Warn("cannot read HEAD after the last step, trying on", "error", err)
		case head == nil || !head.WantsSeat(s.m.Stage, s.m.Seat, s.m.Issue):
			s.a.poke(ctx, s.m)
			return
		case head.Generation > own.Generation || len(head.Members) == 0:
			return
		case committer:
			info := schemas.Errorf(schemas.CodeInternal, "", "the train handler ended without a final commit")
			s.failed++
			s.endGeneration(ctx, own.Generation, schemas.CauseApplication, info)
			s.backoff(ctx)
			return
		}
		if s.h.isLost() || ctx.Err() != nil {
			return
		}
		if time.Now().After(deadline) {
			s.log.Warn("no final commit of rank 0 in time")
			s.endGeneration(ctx, own.Generation, schemas.CauseInfrastructure, nil)
			return
		}
		s.wait(ctx, s.a.cfg.FormPoll)
	}
}

// yield gives the seat back for good: HEAD wants it at the next issue, so that another worker gets it, then the message is acked. When
// HEAD cannot be swapped the lease lapses and control does the same.
func (s *seat) yield(ctx context.Context) {
	yctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	head, err := s.a.readHead(yctx, s.m.Tenant, s.m.Run)
	if err == nil && head != nil && memberOf(head, s.m, s.a.cfg.Incarnation) != nil {
		cause := schemas.CausePreempted
		if s.failed >= maxFailed {
			cause = schemas.CauseInfrastructure
		}
		s.endGeneration(yctx, head.Generation, cause, nil)
	}
	_, err = s.a.heads.Swap(yctx, s.m.Tenant, s.m.Run, func(head *schemas.Head) error {
		if !head.WantsSeat(s.m.Stage, s.m.Seat, s.m.Issue) {
			return checkpoint.ErrNoChange
		}
		head.LastIssue++
		for i := range head.Seats {
			if head.Seats[i].Seat == s.m.Seat {
				head.Seats[i].Issue = head.LastIssue
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, checkpoint.ErrNoChange) {
		s.log.Warn("cannot give the seat back in HEAD, the lease will lapse", "error", err)
		return
	}
	s.h.ack(ctx)
	s.a.poke(ctx, s.m)
	s.log.Info("seat given back")
}
