package simulate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease"
)

// maxRounds bounds the decisions of one tick: a real control decides several times a second while there is something to do.
const maxRounds = 6

// maxQueued is how many queued runs one decision sees, as in the control loop.
const maxQueued = 2000

// schedule decides until there is nothing more to do in this tick.
func (w *world) schedule() error {
	for range maxRounds {
		v := w.view()
		v.Reserved, v.ReservedFor = w.reserved, w.now-w.reservedAt
		d := control.Decide(v, w.now)
		if d.Reserved != w.reserved {
			w.reserved, w.reservedAt = d.Reserved, w.now
		}
		w.stats.decisions++
		again := false
		for _, a := range d.Actions {
			w.stats.record(w.now, &a)
			if err := w.apply(a); err != nil {
				return err
			}
			again = again || a.Kind != control.ActPublish
		}
		w.stats.demand = d.Demand
		w.pull()
		if !again {
			return nil
		}
	}
	return nil
}

func since(at *time.Duration, holds bool, now time.Duration) time.Duration {
	if !holds {
		*at = 0
		return 0
	}
	if *at == 0 {
		*at = now
	}
	return now - *at
}

// view is what control would see.
func (w *world) view() *control.View {
	live := len(w.workers) - len(w.dead)
	v := &control.View{Pool: pool, Limits: w.limits, Ledger: w.ledger, Policy: w.cfg.Policy, Wall: w.start.Add(w.now), Contact: time.Hour, Terse: true, Workers: map[string]control.Workers{
		pool: {Live: live, Busy: live - len(w.idle), Idle: since(&w.idleFor, len(w.idle) > 0, w.now)}}}
	v.Runs = w.runs[:0]
	for _, r := range w.active {
		w.age(r)
		r.view.Held = len(r.workers)
		v.Runs = append(v.Runs, r.view)
	}
	left := maxQueued
	for _, line := range w.lines {
		tenants := slices.Sorted(maps.Keys(line))
		for round := 0; left > 0 && len(tenants) > 0; round++ {
			tenants = slices.DeleteFunc(tenants, func(t string) bool { return round >= len(line[t]) })
			for _, t := range tenants[:min(len(tenants), left)] {
				left--
				r := line[t][round]
				w.age(r)
				v.Runs = append(v.Runs, r.view)
			}
		}
	}
	w.runs = v.Runs
	return v
}

func (w *world) age(r *run) {
	h, m := r.view.Head, &r.known
	seats, members := 0, 0
	if h != nil {
		seats, members = len(h.Seats), len(h.Members)
		if m.generation != h.Generation {
			m.generation, m.steady = h.Generation, 0
		}
	}
	r.view.Forming = since(&m.forming, seats > 0 && members == 0, w.now)
	r.view.Asked = since(&m.asked, h != nil && h.Control != schemas.ControlNone, w.now)
	r.view.Steady = since(&m.steady, members > 0, w.now)
	r.view.Growing = since(&m.growing, members > 0 && seats > members, w.now)
}

// apply does what an action says to ledger, HEAD and messages.
func (w *world) apply(a control.Action) error {
	r := w.byID[a.Run]
	switch a.Kind {
	case control.ActTurn:
		w.ledger.Turn = a.Turn
	case control.ActTurnEnd:
		w.ledger.Turn = nil
	case control.ActStart:
		h := control.StartHead(r.view.Spec, a, w.start.Add(w.now))
		h.Rev, h.Created = 1, w.start.Add(w.now)
		r.view.Head = &h
		w.dequeue(r)
		w.active = slices.Insert(w.active, w.place(r), r)
	case control.ActClose:
		w.close(r)
	case control.ActPublish:
	default:
		before := len(r.view.Head.Members)
		if err := control.Transition(r.view.Head, a, w.start.Add(w.now)); err != nil {
			return fmt.Errorf("simulated control cannot apply %s to run %s: %w", a.Kind, a.Run, err)
		}
		r.view.Head.Rev++
		if before > 0 && len(r.view.Head.Members) == 0 {
			w.stats.lost += r.since
			r.work += r.since
			r.since = 0
		}
		if a.Kind == control.ActTrainDone {
			w.stats.finish(w, r)
		}
		if a.Kind == control.ActPreempt {
			w.stats.preempted++
		}
		w.release(r)
	}
	for _, m := range a.Publish {
		k := control.ClaimKey{Stage: m.Stage, Index: m.Seat, Issue: m.Issue}
		c, ok := r.view.Claims[k]
		if !ok {
			c.Known = w.now
		}
		c.Published, c.WasPublished = w.now, true
		r.view.Claims[k] = c
	}
	return nil
}

// release frees the workers of seats that HEAD does not want any more, and forgets their claims.
func (w *world) release(r *run) {
	h := r.view.Head
	wanted := map[schemas.Seat]bool{}
	if !h.State.Terminal() && h.Stage != "" {
		for _, s := range h.Seats {
			wanted[s] = true
		}
	}
	first := len(w.idle)
	for s, i := range r.workers {
		if !wanted[s] {
			w.workers[i] = worker{}
			w.idle = append(w.idle, i)
			delete(r.workers, s)
		}
	}
	slices.Sort(w.idle[first:]) // the same seed gives the same day
	for k := range r.view.Claims {
		if !wanted[schemas.Seat{Seat: k.Index, Issue: k.Issue}] {
			delete(r.view.Claims, k)
		}
	}
}

// pull lets idle workers take published seats, and complete gangs form.
func (w *world) pull() {
	for _, r := range w.active {
		h := r.view.Head
		if h.State.Terminal() || len(h.Seats) == 0 || len(r.workers) == len(h.Seats) && len(h.Members) > 0 {
			continue
		}
		for _, s := range h.Seats {
			k := control.ClaimKey{Stage: h.Stage, Index: s.Seat, Issue: s.Issue}
			c, ok := r.view.Claims[k]
			if !ok || !c.WasPublished || c.Holder != nil || c.Ever || len(w.idle) == 0 {
				continue
			}
			i := w.idle[len(w.idle)-1]
			w.idle = w.idle[:len(w.idle)-1]
			w.workers[i] = worker{run: r, seat: s}
			r.workers[s] = i
			c.Holder, c.Seen, c.Ever = &lease.Owner{Issue: s.Issue}, w.now, true
			r.view.Claims[k] = c
		}
		if len(h.Members) == 0 && len(r.workers) == len(h.Seats) && h.Control == schemas.ControlNone {
			w.form(r)
		}
	}
}

func (w *world) form(r *run) {
	h := r.view.Head
	h.Generation++
	h.Rev++
	for rank, s := range h.Seats {
		h.Members = append(h.Members, schemas.Member{Rank: rank, Seat: s.Seat, Issue: s.Issue})
	}
	r.commitAt = w.now + w.cfg.CommitEvery
	w.stats.formed++
	if r.formedAt == 0 {
		r.formedAt = w.now
		w.stats.waited(w, r)
	}
}

func (w *world) dequeue(r *run) {
	s := r.view.Spec
	line := w.lines[s.Priority][s.Tenant]
	i := slices.Index(line, r)
	if line = slices.Delete(line, i, i+1); len(line) == 0 {
		delete(w.lines[s.Priority], s.Tenant)
	} else {
		w.lines[s.Priority][s.Tenant] = line
	}
	w.queued--
}

// place is where a run is, or belongs, among the active ones, which are in order of submission: the order that Decide looks for.
func (w *world) place(r *run) int {
	i, _ := slices.BinarySearchFunc(w.active, r, func(a, b *run) int {
		return cmp.Or(cmp.Compare(a.submitted, b.submitted), cmp.Compare(a.view.Spec.ID, b.view.Spec.ID))
	})
	return i
}

func (w *world) close(r *run) {
	w.release(r)
	r.ended = true
	i := w.place(r)
	w.active = slices.Delete(w.active, i, i+1)
	delete(w.byID, r.view.Spec.ID)
}
