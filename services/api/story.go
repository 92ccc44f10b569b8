package api

import (
	"fmt"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// story tells what HEAD remembers of a run, before its live tail begins, as events: when it was accepted, when its stages began and ended, and
// how its gangs ended. Who said what, and warnings, are gone with what the tail does not hold any more.
func story(v *schemas.RunView, tail []*entry) []schemas.Event {
	if v.State == schemas.RunQueued || len(tail) > 0 && tail[0].event.Type == schemas.EventSubmitted {
		return nil
	}
	base := schemas.Event{Tenant: v.Tenant, Run: v.Run}
	var out []schemas.Event
	add := func(e schemas.Event) {
		// What the tail begins with may be a moment later than HEAD says of the same.
		if !e.At.IsZero() && (len(tail) == 0 || e.At.Before(tail[0].event.At.Add(-time.Second))) {
			out = append(out, e)
		}
	}
	e := base
	e.Type, e.At = schemas.EventSubmitted, v.Created
	add(e)
	for _, s := range v.Stages {
		e := base
		e.Type, e.Stage, e.At, e.Message = schemas.EventStage, s.Name, s.Started, string(schemas.StageRunning)
		add(e)
		e.At, e.Message = s.Ended, string(s.State)
		add(e)
	}
	for _, g := range v.Ended {
		if g.Cause == schemas.CauseDone {
			continue
		}
		e := base
		e.Type, e.At, e.Generation, e.Step, e.Error = schemas.EventNote, g.At, g.Generation, g.Step, g.Error
		e.Message = fmt.Sprintf("generation %d ended: %s", g.Generation, g.Cause)
		if g.Cause == schemas.CauseInfrastructure {
			e.Type = schemas.EventMemberLost
		}
		add(e)
	}
	slices.SortStableFunc(out, func(a, b schemas.Event) int { return a.At.Compare(b.At) })
	return out
}

// narrator tells a story between events that come in order of time.
type narrator struct {
	rest []schemas.Event
	tell func(schemas.Event) error
}

// event tells one event after what came before it.
func (n *narrator) event(e schemas.Event) error {
	for len(n.rest) > 0 && !n.rest[0].At.After(e.At) {
		if err := n.tell(n.rest[0]); err != nil {
			return err
		}
		n.rest = n.rest[1:]
	}
	return n.tell(e)
}

// end tells what is left.
func (n *narrator) end() error {
	for _, e := range n.rest {
		if err := n.tell(e); err != nil {
			return err
		}
	}
	n.rest = nil
	return nil
}
