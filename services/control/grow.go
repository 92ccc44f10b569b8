package control

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// member reports whether a seat at its issue is one of the generation's.
func member(h *schemas.Head, s schemas.Seat) bool {
	return slices.ContainsFunc(h.Members, func(m schemas.Member) bool { return m.Seat == s.Seat && m.Issue == s.Issue })
}

// grow offers idle workers to gangs that may be larger, when nothing forms and nothing waits: more seats in HEAD, which nobody in the gang
// minds until all of them have a holder (see growth).
func (d *decider) grow(order []*Run) {
	if p := d.v.Policy; p != nil && (p.Cordon || p.Drain) {
		return
	}
	for _, r := range order {
		h := r.Head
		if r.mark.busy || h == nil || h.State != schemas.RunRunning || len(h.Members) == 0 || len(h.Members) != len(h.Seats) ||
			h.Control != schemas.ControlNone || r.Steady < d.v.Limits.Grow {
			continue
		}
		spec, err := r.Spec.StageOf(h.Stage)
		if err != nil || spec.Train == nil || len(h.Seats) >= spec.Train.World.Max {
			continue
		}
		// As for a gang of the last priority: growth takes nobody's workers.
		idle := d.available(3)
		n, _ := d.allowance(r, min(spec.Train.World.Max-len(h.Seats), idle))
		if n < 1 {
			continue
		}
		a := Action{Stage: h.Stage, Reason: fmt.Sprintf("%s: %d more workers are offered", h.Stage, n)}
		for seat := 0; len(a.Seats) < n; seat++ {
			if slices.ContainsFunc(h.Seats, func(s schemas.Seat) bool { return s.Seat == seat }) {
				continue
			}
			s := schemas.Seat{Seat: seat, Issue: h.LastIssue + 1}
			a.Seats = append(a.Seats, s)
			a.Publish = append(a.Publish, seatMessage(r, h.Stage, s))
		}
		d.account(r).devices += n
		d.seats += n
		d.act(r, ActGrow, a)
		return // one at a time: the next decision sees how many workers are left
	}
}

// growth follows the seats beyond the generation's members; handled reports that the decision about the run is made.
func (d *decider) growth(r *Run) (swaps, handled bool) {
	h := r.Head
	if h.Control == schemas.ControlRegroup {
		if len(h.Members) == 0 {
			d.act(r, ActRegrouped, Action{Stage: h.Stage, Reason: fmt.Sprintf("%s: forms again with %d seats", h.Stage, len(h.Seats))})
			return true, true
		}
		d.why(r, "%s: forms again with %d seats after its next commit", h.Stage, len(h.Seats))
		return false, false
	}
	if len(h.Members) == 0 || len(h.Seats) <= len(h.Members) {
		return false, false
	}
	shed := Action{Stage: h.Stage}
	publish := Action{Stage: h.Stage}
	open := 0
	for _, s := range h.Seats {
		if member(h, s) {
			continue
		}
		c := r.Claims[ClaimKey{h.Stage, s.Seat, s.Issue}]
		if c.Holder != nil {
			continue
		}
		open++
		if d.lapsed(c, d.v.Pool) || r.Growing >= d.v.Limits.Forming && d.v.Contact > 0 {
			shed.Seats = append(shed.Seats, s)
			shed.Delete = append(shed.Delete, seatMessage(r, h.Stage, s))
		} else if d.due(c) {
			publish.Publish = append(publish.Publish, seatMessage(r, h.Stage, s))
		}
	}
	switch {
	case len(shed.Seats) > 0:
		shed.Reason = fmt.Sprintf("%s: %d offered seats found no worker", h.Stage, len(shed.Seats))
		d.act(r, ActShed, shed)
		return true, true
	case open == 0:
		d.act(r, ActRegroup, Action{Stage: h.Stage, Reason: fmt.Sprintf("%s: asked to form again with %d seats instead of %d", h.Stage, len(h.Seats), len(h.Members))})
		return true, true
	}
	if len(publish.Publish) > 0 {
		d.act(r, ActPublish, publish)
	}
	return false, false
}
