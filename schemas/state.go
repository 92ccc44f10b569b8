package schemas

import (
	"fmt"
	"iter"
	"slices"
)

// RunState is the state of a run. A run without HEAD is queued.
type RunState string

// Run states.
const (
	RunQueued    RunState = "queued"
	RunRunning   RunState = "running"
	RunPaused    RunState = "paused"
	RunSucceeded RunState = "succeeded"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
	RunSkipped   RunState = "skipped"
)

// RunEvent moves a run from state to state.
type RunEvent string

// Run events.
const (
	RunStart   RunEvent = "start"
	RunPause   RunEvent = "pause"
	RunResume  RunEvent = "resume"
	RunSucceed RunEvent = "succeed"
	RunFail    RunEvent = "fail"
	RunCancel  RunEvent = "cancel"
	RunSkip    RunEvent = "skip"
)

// Transition is one row of the run state machine.
type Transition struct {
	From  RunState
	Event RunEvent
	To    RunState
}

// Transitions is the run state machine as data; what is not listed is refused.
func Transitions() []Transition {
	return []Transition{
		{RunQueued, RunStart, RunRunning},
		{RunQueued, RunCancel, RunCancelled},
		{RunQueued, RunFail, RunFailed},
		{RunQueued, RunPause, RunPaused},
		{RunQueued, RunSkip, RunSkipped},
		{RunRunning, RunPause, RunPaused},
		{RunRunning, RunSucceed, RunSucceeded},
		{RunRunning, RunFail, RunFailed},
		{RunRunning, RunCancel, RunCancelled},
		{RunPaused, RunResume, RunRunning},
		{RunPaused, RunCancel, RunCancelled},
		{RunPaused, RunFail, RunFailed},
	}
}

// RunStates lists every state.
func RunStates() []RunState {
	return []RunState{RunQueued, RunRunning, RunPaused, RunSucceeded, RunFailed, RunCancelled, RunSkipped}
}

// RunEvents lists every event.
func RunEvents() []RunEvent {
	return []RunEvent{RunStart, RunPause, RunResume, RunSucceed, RunFail, RunCancel, RunSkip}
}

// Terminal reports whether no event leads out of the state.
func (s RunState) Terminal() bool {
	return slices.Contains([]RunState{RunSucceeded, RunFailed, RunCancelled, RunSkipped}, s)
}

// Next returns the state after an event, or an error with CodeConflict when the machine has no such transition.
func (s RunState) Next(e RunEvent) (RunState, error) {
	for _, t := range Transitions() {
		if t.From == s && t.Event == e {
			return t.To, nil
		}
	}
	return s, Errorf(CodeConflict, "", "cannot %s a run that is %s", e, s)
}

// StagePhase is the state of a stage.
type StagePhase string

// Stage phases.
const (
	StagePending   StagePhase = "pending"
	StageRunning   StagePhase = "running"
	StageSucceeded StagePhase = "succeeded"
	StageFailed    StagePhase = "failed"
	StageSkipped   StagePhase = "skipped"
)

// Terminal reports whether the stage is over.
func (p StagePhase) Terminal() bool {
	return p == StageSucceeded || p == StageFailed || p == StageSkipped
}

// Ready goes through the pending stages whose needs have all succeeded, in the order of the spec.
func Ready(spec *RunSpec, states []StageState) iter.Seq[*Stage] {
	phase := func(name string) StagePhase { // runs have a handful of stages: no map
		for i := range states {
			if states[i].Name == name {
				return states[i].State
			}
		}
		return ""
	}
	return func(yield func(*Stage) bool) {
		for i := range spec.Stages {
			st := &spec.Stages[i]
			if p := phase(st.Name); p != StagePending && p != "" {
				continue
			}
			ok := true
			for _, n := range st.Needs {
				ok = ok && phase(n) == StageSucceeded
			}
			if ok && !yield(st) {
				return
			}
		}
	}
}

// StageOf returns the stage of the spec with that name.
func (s *RunSpec) StageOf(name string) (*Stage, error) {
	for i := range s.Stages {
		if s.Stages[i].Name == name {
			return &s.Stages[i], nil
		}
	}
	return nil, fmt.Errorf("run %s has no stage %q", s.ID, name)
}
