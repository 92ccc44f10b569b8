package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
)

// errStale: HEAD has moved on since the decision; the next tick decides again.
var errStale = errors.New("HEAD has moved on")

// NewHead is the first HEAD of a run: running, every stage pending.
func NewHead(spec *schemas.RunSpec) schemas.Head {
	h := schemas.Head{Tenant: spec.Tenant, Run: spec.ID, State: schemas.RunRunning}
	for _, s := range spec.Stages {
		h.Stages = append(h.Stages, schemas.StageState{Name: s.Name, Kind: s.Kind, State: schemas.StagePending})
	}
	return h
}

// Transition applies an action that swaps HEAD to a copy of it. It is pure, and refuses a HEAD of another revision than the one the
// action was decided on.
func Transition(h *schemas.Head, a Action, now time.Time) error {
	if h.Rev != a.Rev {
		return fmt.Errorf("%w: revision %d, decided on %d", errStale, h.Rev, a.Rev)
	}
	if h.State.Terminal() {
		return errStale
	}
	st := h.StageByName(a.Stage)
	if st == nil && a.Kind != ActPaused && a.Kind != ActFail {
		return fmt.Errorf("%w: no stage %q", errStale, a.Stage)
	}
	if a.Reason != "" {
		h.Reason = a.Reason
	}
	switch a.Kind {
	case ActStageStart:
		st.State, st.Started = schemas.StageRunning, now
	case ActPartReissue:
		issues := map[int]uint64{}
		for k, v := range st.Issues {
			issues[k] = v
		}
		for _, p := range a.Parts {
			issues[p.Seat] = p.Issue
		}
		st.Issues = issues
	case ActStageDone:
		st.State, st.Ended = schemas.StageSucceeded, now
		st.Result = schemas.StageResultKey(h.Tenant, h.Run, a.Stage)
		finish(h)
	case ActSeats:
		seat(h, st, a, now)
	case ActGrow:
		h.Seats = append(slices.Clone(h.Seats), a.Seats...)
		h.LastIssue = highest(h.LastIssue, a.Seats)
	case ActShed:
		h.Seats = slices.DeleteFunc(slices.Clone(h.Seats), func(s schemas.Seat) bool { return slices.Contains(a.Seats, s) })
	case ActRegroup:
		h.Control = schemas.ControlRegroup
	case ActRegrouped:
		h.Control = schemas.ControlNone
	case ActSeatReissue:
		for _, s := range a.Seats {
			for i := range h.Seats {
				if h.Seats[i].Seat == s.Seat {
					h.Seats[i].Issue = s.Issue
				}
			}
		}
		h.LastIssue = highest(h.LastIssue, a.Seats)
		endGeneration(h, schemas.CauseInfrastructure, now)
	case ActRetire:
		h.Seats = slices.DeleteFunc(h.Seats, func(s schemas.Seat) bool { return slices.Contains(a.Seats, s) })
		endGeneration(h, schemas.CauseInfrastructure, now)
	case ActGiveBack:
		h.Seats = nil
		h.Judged = h.Generation
		endGeneration(h, schemas.CausePreempted, now)
		yielded(h)
	case ActPreempt:
		h.Control = schemas.ControlPreempt
	case ActTrainDone:
		st.State, st.Ended, st.Manifest = schemas.StageSucceeded, now, h.Manifest
		endGeneration(h, schemas.CauseDone, now)
		h.Stage, h.Seats, h.Manifest, h.Previous, h.Step = "", nil, nil, nil, 0
		yielded(h)
		finish(h)
	case ActPaused:
		h.State, h.Control, h.Seats = schemas.RunPaused, schemas.ControlNone, nil
		endGeneration(h, schemas.CausePreempted, now)
		h.Generation++
	case ActFail:
		if st != nil {
			st.State, st.Ended = schemas.StageFailed, now
		}
		h.State, h.Error, h.Control = schemas.RunFailed, a.Error, schemas.ControlNone
		skip(h)
		h.Members = nil
		h.Generation++
	default:
		return fmt.Errorf("cannot apply action %q to HEAD: it does not swap it", a.Kind)
	}
	return nil
}

// StartHead is the first HEAD of a run whose start the action is, with the seats of its first gang where it has some.
func StartHead(spec *schemas.RunSpec, a Action, now time.Time) schemas.Head {
	h := NewHead(spec)
	if st := h.StageByName(a.Stage); st != nil && len(a.Seats) > 0 {
		seat(&h, st, a, now)
	}
	return h
}

// seat gives a train stage its seats.
func seat(h *schemas.Head, st *schemas.StageState, a Action, now time.Time) {
	if st.Started.IsZero() {
		st.Started = now
	}
	st.State = schemas.StageRunning
	h.Stage, h.Seats, h.Members, h.Judged = a.Stage, slices.Clone(a.Seats), nil, h.Generation
	h.LastIssue = highest(h.LastIssue, a.Seats)
}

// yielded clears a control word that the end of the gang has answered.
func yielded(h *schemas.Head) {
	if h.Control == schemas.ControlPreempt || h.Control == schemas.ControlRegroup {
		h.Control = schemas.ControlNone
	}
}

// cancel is the transition of a user's cancel: final at once.
func cancel(h *schemas.Head, reason string, now time.Time) error {
	next, err := h.State.Next(schemas.RunCancel)
	if err != nil {
		return err
	}
	for i := range h.Stages {
		if h.Stages[i].State == schemas.StageRunning {
			h.Stages[i].State, h.Stages[i].Ended = schemas.StageSkipped, now
		}
	}
	skip(h)
	endGeneration(h, schemas.CausePreempted, now)
	h.State, h.Reason, h.Control = next, reason, schemas.ControlCancel
	if !plantedbug.Is(plantedbug.CancelIsNotFinal) {
		h.Generation++
	}
	return nil
}

// finish ends the run when every stage has succeeded.
func finish(h *schemas.Head) {
	for _, s := range h.Stages {
		if s.State != schemas.StageSucceeded {
			return
		}
	}
	h.State, h.Reason, h.Control = schemas.RunSucceeded, "all stages are done", schemas.ControlNone
}

func skip(h *schemas.Head) {
	for i := range h.Stages {
		if h.Stages[i].State == schemas.StagePending {
			h.Stages[i].State = schemas.StageSkipped
		}
	}
}

// endGeneration records the end of the generation that has members, if there is one without a record.
func endGeneration(h *schemas.Head, cause schemas.Cause, now time.Time) {
	if len(h.Members) > 0 && !slices.ContainsFunc(h.Ended, func(e schemas.GenerationEnd) bool { return e.Generation == h.Generation }) {
		h.Ended = append(h.Ended, schemas.GenerationEnd{Generation: h.Generation, Cause: cause, Step: h.Step, At: now})
	}
	h.Disband(cause)
}

func highest(last uint64, seats []schemas.Seat) uint64 {
	for _, s := range seats {
		last = max(last, s.Issue)
	}
	return last
}
