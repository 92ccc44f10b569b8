package chaos

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/schemas"
)

// story is the history of one run and what its HEAD is in the end.
type story struct {
	t      *testing.T
	head   schemas.Head
	events []check.Event
}

func newStory(t *testing.T, every int64) *story {
	s := &story{t: t, head: schemas.Head{Version: 1, Tenant: "a", Run: "r", State: schemas.RunRunning}}
	s.events = append(s.events, check.Event{Kind: check.KindExpect, Tenant: "a", Run: "r", Expect: &check.Expect{Every: every}})
	return s
}

func (s *story) raw() []byte {
	s.t.Helper()
	raw, err := json.Marshal(&s.head)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// swap notes HEAD as it is now; status is the store's answer.
func (s *story) swap(at float64, status int) {
	s.events = append(s.events, check.Event{At: at, Ended: at + 0.01, Kind: check.KindWrite, Key: schemas.HeadKey("a", "r"), Status: status, Body: check.Body(s.raw())})
}

func (s *story) form(at float64, workers ...string) {
	s.head.Generation++
	s.head.Members = nil
	for i, w := range workers {
		s.head.Members = append(s.head.Members, schemas.Member{Rank: i, Worker: w})
	}
	s.swap(at, 200)
}

func (s *story) step(at float64, n int64) {
	s.events = append(s.events, check.Event{At: at, Kind: check.KindStep, Tenant: "a", Run: "r", Step: n, Generation: s.head.Generation})
}

func (s *story) kill(at float64, proc string) {
	s.events = append(s.events, check.Event{At: at, Kind: check.KindKill, Proc: proc})
}

func (s *story) commit(at float64, step int64) {
	s.head.Step = step
	s.swap(at, 200)
}

func (s *story) end(at float64, cause schemas.Cause) {
	s.head.Members = nil
	s.head.Ended = append(s.head.Ended, schemas.GenerationEnd{Generation: s.head.Generation, Cause: cause, Step: s.head.Step})
	s.swap(at, 200)
}

func (s *story) losses(state schemas.RunState) Losses {
	s.head.State = state
	return lostSteps(s.events, map[string][]byte{schemas.HeadKey("a", "r"): s.raw()})
}

// TestLostSteps: steps up to the fault that were made again are counted, against what was committed when the generation ended, and no others.
func TestLostSteps(t *testing.T) {
	for name, c := range map[string]struct {
		tell func(s *story)
		want Losses
	}{
		"nothing was lost": {func(s *story) {
			s.step(2, 4)
			s.commit(3, 5)
			s.step(4, 5)
			s.kill(4, "w1")
			s.end(9, schemas.CauseInfrastructure)
		}, Losses{Killed: 1}},
		"since the last commit":  {func(s *story) { s.commit(2, 5); s.step(3, 9); s.kill(4, "w1"); s.end(9, schemas.CauseInfrastructure) }, Losses{Killed: 1, Steps: 4}},
		"as many as an interval": {func(s *story) { s.commit(2, 5); s.step(3, 10); s.kill(4, "w1"); s.end(9, schemas.CauseInfrastructure) }, Losses{Killed: 1, Steps: 5}},
		"one more than an interval": {func(s *story) { s.commit(2, 5); s.step(3, 11); s.kill(4, "w1"); s.end(9, schemas.CauseInfrastructure) },
			Losses{Killed: 1, Steps: 6, Over: 1}},
		"nothing was ever committed": {func(s *story) { s.step(3, 3); s.kill(4, "w1"); s.end(9, schemas.CauseInfrastructure) }, Losses{Killed: 1, Steps: 3}},
		"a survivor ends its step after the kill": {func(s *story) {
			s.commit(2, 5)
			s.step(3, 10)
			s.kill(4, "w1")
			s.step(4.1, 11)
			s.end(9, schemas.CauseInfrastructure)
		},
			Losses{Killed: 1, Steps: 5}},
		"the commit on its way lands after the kill": {func(s *story) {
			s.commit(2, 5)
			s.step(3, 12)
			s.kill(4, "w1")
			s.commit(4.2, 10)
			s.end(9, schemas.CauseInfrastructure)
		},
			Losses{Killed: 1, Steps: 2}},
		"a commit that the store refused counts for nothing": {func(s *story) {
			s.commit(2, 5)
			s.head.Step = 10
			s.swap(3, 412)
			s.head.Step = 5
			s.step(3.5, 11)
			s.kill(4, "w1")
			s.end(9, schemas.CauseInfrastructure)
		}, Losses{Killed: 1, Steps: 6, Over: 1}},
		"the kill of a worker that is no member": {func(s *story) { s.commit(2, 5); s.kill(3, "w9"); s.step(4, 9); s.end(9, schemas.CauseInfrastructure) }, Losses{Killed: 1, Steps: 4}},
		"a kill before the gang was formed": {func(s *story) {
			s.events = append([]check.Event{{At: 0.5, Kind: check.KindKill, Proc: "w1"}}, s.events...)
			s.commit(2, 5)
			s.step(4, 9)
			s.end(9, schemas.CauseInfrastructure)
		}, Losses{Killed: 1, Steps: 4}},
		"the first of two kills": {func(s *story) {
			s.commit(2, 5)
			s.step(3, 8)
			s.kill(4, "w2")
			s.step(4.1, 9)
			s.kill(4.2, "w1")
			s.end(9, schemas.CauseInfrastructure)
		},
			Losses{Killed: 1, Steps: 3}},
		"no kill: until the generation ends, and not what a stray rank does then": {func(s *story) { s.commit(2, 5); s.step(7, 9); s.end(9, schemas.CauseInfrastructure); s.step(12, 14) },
			Losses{Killed: 1, Steps: 4}},
		"after a notice": {func(s *story) { s.step(2, 7); s.commit(3, 7); s.end(4, schemas.CausePreempted) }, Losses{Preempted: 1}},
		"a member was killed before its seat was taken": {func(s *story) { s.commit(2, 5); s.step(3, 8); s.kill(4, "w1"); s.end(9, schemas.CausePreempted) },
			Losses{Killed: 1, Steps: 3}},
		"it was killed, its seat taken, and more than an interval lost": {func(s *story) { s.commit(2, 5); s.step(3, 11); s.kill(4, "w1"); s.end(9, schemas.CausePreempted) },
			Losses{Killed: 1, Steps: 6, Over: 1}},
		"a kill after its seat was taken is no excuse": {func(s *story) { s.step(2, 7); s.commit(3, 5); s.end(4, schemas.CausePreempted); s.kill(5, "w1") },
			Losses{Preempted: 1, PreemptedSteps: 2}},
		"a notice that was too short": {func(s *story) { s.step(2, 7); s.commit(3, 5); s.end(4, schemas.CausePreempted) }, Losses{Preempted: 1, PreemptedSteps: 2}},
		"two generations": {func(s *story) {
			s.commit(2, 5)
			s.step(3, 8)
			s.kill(4, "w1")
			s.end(9, schemas.CauseInfrastructure)
			s.form(10, "w2", "w3")
			s.step(11, 7)
			s.kill(12, "w3")
			s.end(20, schemas.CauseInfrastructure)
		}, Losses{Killed: 2, Steps: 3}},
		"the live stream was lost": {func(s *story) { s.commit(2, 5); s.kill(4, "w1"); s.end(9, schemas.CauseInfrastructure) }, Losses{}},
		"a stage that is done":     {func(s *story) { s.step(3, 8); s.commit(4, 8); s.end(5, schemas.CauseDone) }, Losses{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 5)
			s.form(1, "w1", "w2")
			c.tell(s)
			if got := s.losses(schemas.RunSucceeded); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if got := s.losses(schemas.RunCancelled); got != (Losses{}) {
				t.Errorf("of a run that did not succeed, whose steps were not all made again: %+v", got)
			}
		})
	}
}

// sound is a result in which everything held.
func sound() *Result {
	report := func() *check.Report {
		return &check.Report{Checked: map[string]int{}, Kills: map[string]int{}, Runs: 2, Terminal: 2, Manifests: 9, Hashes: 1}
	}
	return &Result{Episodes: []*Episode{{Report: report(), Lost: Losses{Killed: 1, Steps: 5}}},
		Training: &Training{Hash: "same", Calm: "same", Kind: FaultsAll, Every: 120, Effective: 0.9, Flips: 600, Lost: Losses{Killed: 3, Steps: trainCommit, Preempted: 1},
			Report: report(), Faults: []TrainFault{{What: "kill -9 of w1", Recovery: 12}, {What: "SIGTERM to w1", Recovery: 3}, {What: "store away", Down: 300, Steps: 900}}}}
}

// TestAMissedFigureFailsTheSuite: each figure that is not what it has to be makes the result not OK and is named in the text.
func TestAMissedFigureFailsTheSuite(t *testing.T) {
	r := sound()
	r.finish()
	if !r.OK || strings.Contains(r.Text(), "MISSED") || !strings.Contains(r.Text(), "every invariant held") {
		t.Fatalf("a result in which everything held:\n%s", r.Text())
	}
	for figure, spoil := range map[string]func(r *Result){
		"lost steps, no notice":                          func(r *Result) { r.Episodes[0].Lost.Over = 1 },
		"lost steps, SIGTERM or notice":                  func(r *Result) { r.Episodes[0].Lost.Preempted, r.Episodes[0].Lost.PreemptedSteps = 1, 2 },
		"acknowledged runs lost":                         func(r *Result) { r.Training.Report.Lost = 1 },
		"manifests per generation and step":              func(r *Result) { r.Training.Report.Doubled = 1 },
		"trained weights against undisturbed":            func(r *Result) { r.Training.Hash = "other" },
		"damaged checkpoints loaded":                     func(r *Result) { r.Training.Loaded = 1 },
		"lost steps in training, no notice":              func(r *Result) { r.Training.Lost.Steps, r.Training.Lost.Over = trainCommit+1, 1 },
		"lost steps in training, SIGTERM":                func(r *Result) { r.Training.Lost.PreemptedSteps = 1 },
		"recovery after kill -9":                         func(r *Result) { r.Training.Faults[0].Recovery = 21 },
		"recovery after SIGTERM":                         func(r *Result) { r.Training.Faults[1].Recovery = 6 },
		"store away: 300 s: 900 steps meanwhile":         func(r *Result) { r.Training.Faults[2].Ended = true },
		"store away: 300 s: 0 steps meanwhile":           func(r *Result) { r.Training.Faults[2].Steps = 0 },
		"effective training time":                        func(r *Result) { r.Training.Effective = 0.5 },
		"wait for checkpoints":                           func(r *Result) { r.Training.Kind, r.Training.Stall = FaultsKill, 0.036 },
		"final state against undisturbed: 1 unequal":     func(r *Result) { r.Training.Report.Unequal = 1 },
		"terminal records: 3 of 4 runs, must be 1 a run": func(r *Result) { r.Episodes[0].Report.Terminal = 1 },
	} {
		r := sound()
		spoil(r)
		r.finish()
		if r.OK || !strings.Contains(r.Text(), "MISSED "+figure) {
			t.Errorf("%s: OK %v and\n%s", figure, r.OK, r.Text())
		}
	}
}
