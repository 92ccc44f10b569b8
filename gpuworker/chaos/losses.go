package chaos

import (
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// Losses are the steps that were made and do not count, per ended generation.
type Losses struct {
	// Killed counts generations that ended without notice, or of which a member was killed before they ended, and whose steps were seen;
	// Steps is the most that one of them lost, Over how many lost more than one checkpoint interval.
	Killed int   `json:"killed"`
	Steps  int64 `json:"steps"`
	Over   int   `json:"over"`
	// Preempted counts generations that ended after a notice, with the steps that they lost together.
	Preempted      int   `json:"preempted"`
	PreemptedSteps int64 `json:"preempted_steps"`
}

// generation names one incarnation of a run's gang.
type generation struct {
	run string
	g   uint64
}

// span is the life of a generation as the history has it.
type span struct {
	workers []string
	// from is when HEAD first named its members, to when HEAD first said that it has ended, fault when a member was first ended by SIGKILL
	// between the two; 0 is not seen.
	from, to, fault float64
}

// spans reads the lives of all generations from the swaps of HEAD and the kills.
func spans(events []check.Event) map[generation]*span {
	out := map[generation]*span{}
	for _, e := range events {
		if e.Kind != check.KindWrite || !strings.HasSuffix(e.Key, "/HEAD.json") || e.Told == "error" || e.Status != 0 && e.Status/100 != 2 {
			continue
		}
		head, err := checkpoint.DecodeHead(check.Bytes(e.Body))
		if err != nil {
			continue
		}
		run := head.Tenant + "/" + head.Run
		at := max(e.At, e.Ended) // of the answer: a step that is made before it was made before the swap was known
		if k := (generation{run, head.Generation}); len(head.Members) > 0 && out[k] == nil {
			s := &span{from: e.At}
			for _, m := range head.Members {
				s.workers = append(s.workers, m.Worker)
			}
			out[k] = s
		}
		for _, ended := range head.Ended {
			if s := out[generation{run, ended.Generation}]; s != nil && (s.to == 0 || at < s.to) {
				s.to = at
			}
		}
	}
	for _, e := range events {
		if e.Kind != check.KindKill {
			continue
		}
		for _, s := range out {
			if slices.Contains(s.workers, e.Proc) && e.At >= s.from && (s.to == 0 || e.At <= s.to) && (s.fault == 0 || e.At < s.fault) {
				s.fault = e.At
			}
		}
	}
	return out
}

// lostSteps counts, for each generation that ended before its stage did, the steps that had been made up to the fault and had to be made again:
// those after the last step that was committed when it ended, which is where the next one begins. The fault is the first SIGKILL of a
// member; what survivors still report after it (a step that was under way, on a rank that had all it needed) was not lost by it. Where no
// member was killed (a partition, a frozen worker), every step until the end of the generation counts. Only runs that succeeded are counted:
// in them every step was made again. Steps are taken from the live stream, which may have been lost with the lease server: what was not
// seen is not counted.
func lostSteps(events []check.Event, objects map[string][]byte) Losses {
	lives := spans(events)
	seen := map[generation]int64{}
	expect := map[string]*check.Expect{}
	for _, e := range events {
		name := e.Tenant + "/" + e.Run
		switch e.Kind {
		case check.KindExpect:
			expect[name] = e.Expect
		case check.KindStep:
			k := generation{name, e.Generation}
			until := 0.0
			if s := lives[k]; s != nil {
				if until = s.to; s.fault > 0 {
					until = s.fault
				}
			}
			if until == 0 || e.At <= until {
				seen[k] = max(seen[k], e.Step)
			}
		}
	}
	var l Losses
	for name, x := range expect {
		tenant, run, _ := strings.Cut(name, "/")
		head, err := checkpoint.DecodeHead(objects[schemas.HeadKey(tenant, run)])
		if err != nil || x.Poison || head.State != schemas.RunSucceeded {
			continue
		}
		for _, e := range head.Ended {
			last, ok := seen[generation{name, e.Generation}]
			if !ok {
				continue
			}
			lost := max(0, last-e.Step)
			// HEAD says that a gang was preempted when control took its seats for another, also those of a member that had been killed before:
			// what that one had made since its last commit was lost by the kill.
			life := lives[generation{name, e.Generation}]
			killed := life != nil && life.fault > 0
			switch {
			case e.Cause == schemas.CauseInfrastructure, e.Cause == schemas.CausePreempted && killed:
				l.Killed++
				l.Steps = max(l.Steps, lost)
				if lost > x.Every {
					l.Over++
				}
			case e.Cause == schemas.CausePreempted:
				l.Preempted++
				l.PreemptedSteps += lost
			}
		}
	}
	return l
}
