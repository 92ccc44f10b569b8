package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// trainSpec is a run with one train stage.
func trainSpec(id string, prio, min, max int) *schemas.RunSpec {
	s := simSpec(id, prio, min, max)
	s.Stages = s.Stages[1:2]
	s.Stages[0].Needs = nil
	return s
}

func prepSpec(id string, parts int) *schemas.RunSpec {
	s := simSpec(id, 1, 1, 1)
	s.Stages = s.Stages[:1]
	s.Stages[0].Prep.Parts = parts
	return s
}

func viewOf(live int, runs ...Run) *View {
	return &View{Pool: "cpu", Limits: Limits{}.WithDefaults(), Contact: time.Hour, Workers: map[string]Workers{"cpu": {Live: live, Idle: time.Hour}}, Runs: runs}
}

// gangRun is a run whose train stage has seats at the given issues, with or without a generation.
func gangRun(spec *schemas.RunSpec, formed bool, issues ...uint64) Run {
	h := NewHead(spec)
	h.Rev, h.Stage, h.Generation = 3, spec.Stages[0].Name, 1
	h.Stages[0].State = schemas.StageRunning
	r := Run{Spec: spec, Head: &h, Claims: map[ClaimKey]Claim{}}
	for seat, issue := range issues {
		h.Seats = append(h.Seats, schemas.Seat{Seat: seat, Issue: issue})
		h.LastIssue = max(h.LastIssue, issue)
		r.Claims[ClaimKey{h.Stage, seat, issue}] = Claim{Holder: &lease.Owner{Issue: issue}, Known: 1, Seen: 1, Ever: true, WasPublished: true}
		if formed {
			h.Generation = 1
			h.Members = append(h.Members, schemas.Member{Rank: seat, Seat: seat, Issue: issue})
		}
	}
	return r
}

// partsRun is a run with one leased part of two.
func partsRun(id string, priority int, now time.Duration) Run {
	s := prepSpec(id, 2)
	s.Priority = priority
	h := NewHead(s)
	h.Stages[0].State = schemas.StageRunning
	return Run{Spec: s, Head: &h, Claims: map[ClaimKey]Claim{
		{"prep", 0, 1}: {Holder: &lease.Owner{Issue: 1}, Known: now, Seen: now, Ever: true, WasPublished: true, Published: now},
		{"prep", 1, 1}: {Known: now, WasPublished: true, Published: now},
	}}
}

func lose(r *Run, seat int, seen time.Duration) {
	for k, c := range r.Claims {
		if k.Index == seat {
			c.Holder, c.Seen, c.Published = nil, seen, seen
			r.Claims[k] = c
		}
	}
}

func kinds(d Decision) []Kind {
	var out []Kind
	for _, a := range d.Actions {
		out = append(out, a.Kind)
	}
	return out
}

func TestDecide(t *testing.T) {
	const now = 10 * time.Minute
	limits := Limits{}.WithDefaults()
	turnOf := func(spec *schemas.RunSpec, seats int) *schemas.Turn {
		return &schemas.Turn{Tenant: spec.Tenant, Run: spec.ID, Stage: spec.Stages[0].Name, Seats: seats}
	}
	spec := trainSpec("aaaaaaaa", 1, 2, 2)
	tests := []struct {
		name   string
		view   func() *View
		want   []Kind
		check  func(d Decision) bool
		reason string
	}{
		{"nothing", func() *View { return viewOf(2) }, nil, nil, ""},
		{"a gang waits for workers", func() *View { return viewOf(1, Run{Spec: spec}) }, nil,
			func(d Decision) bool { return d.Demand == 2 }, "needs 2 idle workers of pool cpu, 1 of 1 are idle"},
		{"a gang that fits gets the turn", func() *View { return viewOf(2, Run{Spec: spec}) }, []Kind{ActTurn},
			func(d Decision) bool { return d.Actions[0].Turn.Seats == 2 && !d.Actions[0].Turn.Reform }, ""},
		{"the turn starts the run", func() *View {
			v := viewOf(2, Run{Spec: spec})
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActStart}, nil, ""},
		{"the turn issues seats", func() *View {
			h := NewHead(spec)
			v := viewOf(2, Run{Spec: spec, Head: &h})
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActSeats}, func(d Decision) bool {
			a := d.Actions[0]
			return slices.Equal(a.Seats, []schemas.Seat{{Seat: 0, Issue: 1}, {Seat: 1, Issue: 1}}) && len(a.Publish) == 2 && a.Publish[1].Seat == 1
		}, ""},
		{"no seats when the workers are gone", func() *View {
			h := NewHead(spec)
			v := viewOf(1, Run{Spec: spec, Head: &h})
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActTurnEnd}, nil, ""},
		{"a formed gang ends the turn", func() *View {
			v := viewOf(2, gangRun(spec, true, 1, 1))
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActTurnEnd}, nil, "training tune"},
		{"a turn without a run is cleared", func() *View {
			v := viewOf(2)
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActTurnEnd}, nil, ""},
		{"a lapsed lease ends the generation and issues the seat again", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-limits.LapseGrace)
			return viewOf(2, r)
		}, []Kind{ActSeatReissue}, func(d Decision) bool {
			a := d.Actions[0]
			return slices.Equal(a.Seats, []schemas.Seat{{Seat: 1, Issue: 6}}) && a.Delete[0].Issue == 5 && a.Publish[0].Issue == 6
		}, ""},
		{"a lease that was seen a moment ago is waited for", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-limits.LapseGrace/2)
			return viewOf(2, r)
		}, nil, nil, "training"},
		{"absence without contact means nothing", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-time.Second)
			r.Claims[ClaimKey{"tune", 1, 5}] = Claim{Known: 1, Seen: now - time.Minute, Ever: true, WasPublished: true, Published: now}
			v := viewOf(2, r)
			v.Contact = 2*limits.LeaseTTL - 1
			return v
		}, nil, nil, "training"},
		{"a lease that was seen within a short contact has lapsed", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-limits.LapseGrace)
			v := viewOf(2, r)
			v.Contact = limits.LapseGrace + time.Second
			return v
		}, []Kind{ActSeatReissue}, nil, ""},
		{"a lease that was seen before the contact broke is waited for", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-limits.LapseGrace)
			v := viewOf(2, r)
			v.Contact = limits.LapseGrace / 2
			return v
		}, []Kind{ActPublish}, nil, "training"},
		{"a message that nobody takes is published again", func() *View {
			r := gangRun(spec, true, 4, 5)
			lose(&r, 1, now-limits.Republish)
			r.Claims[ClaimKey{"tune", 1, 5}] = Claim{Known: now - limits.Republish, WasPublished: true, Published: now - limits.Republish}
			return viewOf(2, r)
		}, []Kind{ActPublish}, func(d Decision) bool { return d.Actions[0].Publish[0].Issue == 5 }, ""},
		{"a message that an idle worker does not take is replaced", func() *View {
			r := gangRun(spec, false, 4, 5)
			r.Claims[ClaimKey{"tune", 1, 5}] = Claim{Known: now - 2*limits.LeaseTTL, WasPublished: true, Published: now}
			return viewOf(2, r)
		}, []Kind{ActSeatReissue}, nil, ""},
		{"a gang above min without spare workers shrinks", func() *View {
			r := gangRun(trainSpec("aaaaaaaa", 1, 1, 2), true, 4, 5)
			lose(&r, 1, now-time.Minute)
			v := viewOf(1, r)
			v.Workers["cpu"] = Workers{Live: 1, Busy: 1}
			return v
		}, []Kind{ActRetire}, nil, "goes on with 1 seats"},
		{"a gang that lost its generation wants the turn", func() *View { return viewOf(2, gangRun(spec, false, 4, 5)) }, []Kind{ActTurn},
			func(d Decision) bool { return d.Actions[0].Turn.Reform }, ""},
		{"re-forming comes before a new gang", func() *View {
			return viewOf(9, Run{Spec: trainSpec("bbbbbbbb", 0, 1, 1)}, gangRun(spec, false, 4, 5))
		}, []Kind{ActTurn, ActStart}, func(d Decision) bool { return d.Actions[0].Run == "aaaaaaaa" }, ""},
		{"re-forming yields to the turn after a while", func() *View {
			r := gangRun(spec, false, 4, 5)
			r.Forming = limits.ReformYield
			v := viewOf(3, r, gangRun(trainSpec("bbbbbbbb", 0, 1, 1), false, 1))
			v.Ledger.Turn = turnOf(v.Runs[1].Spec, 1)
			return v
		}, []Kind{ActGiveBack}, func(d Decision) bool { return d.Actions[0].Run == "aaaaaaaa" && len(d.Actions[0].Delete) == 2 }, ""},
		{"half a gang gives back after the deadline", func() *View {
			r := gangRun(spec, false, 4, 5)
			r.Forming = limits.Forming
			r.Claims[ClaimKey{"tune", 1, 5}] = Claim{Known: now, WasPublished: true, Published: now}
			v := viewOf(1, r)
			v.Ledger.Turn = turnOf(spec, 2)
			return v
		}, []Kind{ActGiveBack, ActTurnEnd}, nil, "given back"},
		{"a gang with min holders starts after the deadline", func() *View {
			r := gangRun(trainSpec("aaaaaaaa", 1, 1, 2), false, 4, 5)
			r.Forming = limits.Forming
			r.Claims[ClaimKey{"tune", 1, 5}] = Claim{Known: now, WasPublished: true, Published: now}
			v := viewOf(1, r)
			v.Ledger.Turn = turnOf(r.Spec, 2)
			return v
		}, []Kind{ActRetire}, func(d Decision) bool {
			return slices.Equal(d.Actions[0].Seats, []schemas.Seat{{Seat: 1, Issue: 5}})
		}, "starts with 1 seats"},
		{"a forming gang waits while the lease server is away", func() *View {
			r := gangRun(spec, false, 4, 5)
			r.Forming = time.Hour
			v := viewOf(0, r)
			v.Ledger.Turn, v.Contact = turnOf(spec, 2), 0
			return v
		}, nil, nil, "forming"},
		{"the final commit closes the stage", func() *View {
			r := gangRun(spec, true, 1, 1)
			r.Head.Manifest = &schemas.ManifestRef{Stage: "tune", Final: true}
			return viewOf(2, r)
		}, []Kind{ActTrainDone}, nil, ""},
		{"a small gang starts beside a waiting large one", func() *View {
			return viewOf(3, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, Run{Spec: trainSpec("bbbbbbbb", 1, 1, 1)}, gangRun(trainSpec("cccccccc", 1, 2, 2), true, 1, 1))
		}, []Kind{ActTurn, ActPreempt}, func(d Decision) bool { return d.Actions[0].Run == "bbbbbbbb" && d.Actions[1].Run == "cccccccc" }, ""},
		{"also on workers that it will need", func() *View {
			return viewOf(2, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, Run{Spec: trainSpec("bbbbbbbb", 1, 1, 1)}, gangRun(trainSpec("cccccccc", 0, 1, 1), true, 1))
		}, []Kind{ActTurn}, nil, ""},
		{"but not when it has waited long", func() *View {
			v := viewOf(2, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, Run{Spec: trainSpec("bbbbbbbb", 1, 1, 1)}, gangRun(trainSpec("cccccccc", 0, 1, 1), true, 1))
			v.Reserved, v.ReservedFor = "t/aaaaaaaa", limits.Reserve
			return v
		}, nil, nil, ""},
		{"what started on them then yields", func() *View {
			c := gangRun(trainSpec("cccccccc", 0, 1, 1), true, 1)
			c.Claims[ClaimKey{"tune", 0, 1}] = Claim{Holder: &lease.Owner{Issue: 1}, Known: now - limits.Reserve + 1, Seen: now, Ever: true, WasPublished: true}
			v := viewOf(2, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, c)
			v.Reserved, v.ReservedFor = "t/aaaaaaaa", limits.Reserve
			return v
		}, []Kind{ActPreempt}, func(d Decision) bool { return d.Actions[0].Run == "cccccccc" }, ""},
		{"gangs that fit start beside the turn", func() *View {
			v := viewOf(5, Run{Spec: trainSpec("aaaaaaaa", 1, 2, 2)}, Run{Spec: trainSpec("bbbbbbbb", 1, 2, 2)}, Run{Spec: trainSpec("cccccccc", 1, 2, 2)})
			v.Ledger.Turn = turnOf(v.Runs[0].Spec, 2)
			return v
		}, []Kind{ActStart, ActStart}, func(d Decision) bool {
			return d.Actions[0].Run == "aaaaaaaa" && d.Actions[1].Run == "bbbbbbbb" && len(d.Actions[1].Seats) == 2 && len(d.Actions[1].Publish) == 2 &&
				strings.Contains(d.Reasons["t/cccccccc"], "needs 2 idle workers of pool cpu, 1 of 5 are idle")
		}, ""},
		{"a gang larger than the pool keeps nobody waiting", func() *View {
			return viewOf(1, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, Run{Spec: prepSpec("bbbbbbbb", 1)}, Run{Spec: trainSpec("cccccccc", 3, 1, 1)})
		}, []Kind{ActTurn, ActStart}, func(d Decision) bool { return d.Actions[0].Run == "cccccccc" && d.Actions[1].Run == "bbbbbbbb" }, "needs 2 idle"},
		{"a gang that the pool can serve holds new stages back", func() *View {
			return viewOf(2, Run{Spec: trainSpec("aaaaaaaa", 0, 2, 2)}, Run{Spec: prepSpec("bbbbbbbb", 1)}, gangRun(trainSpec("cccccccc", 0, 1, 1), true, 1))
		}, nil, nil, "needs 2 idle"},
		{"a gang does not count on workers at parts of its own priority", func() *View { return viewOf(2, partsRun("bbbbbbbb", 1, now), Run{Spec: spec}) }, nil, nil, "1 of 2 are idle"},
		{"but on those at parts of lower priority", func() *View { return viewOf(2, partsRun("bbbbbbbb", 2, now), Run{Spec: spec}) }, []Kind{ActTurn}, nil, ""},
		{"nor on workers busy for others", func() *View {
			v := viewOf(2, Run{Spec: spec})
			v.Workers["cpu"] = Workers{Live: 2, Busy: 1}
			return v
		}, nil, nil, "1 of 2 are idle"},
		{"a gang of lower priority is asked to yield", func() *View {
			low, lower := gangRun(trainSpec("bbbbbbbb", 2, 1, 1), true, 1), gangRun(trainSpec("cccccccc", 3, 2, 2), true, 1, 1)
			return viewOf(3, Run{Spec: spec}, low, lower)
		}, []Kind{ActPreempt}, func(d Decision) bool { return d.Actions[0].Run == "cccccccc" }, ""},
		{"but not when that is not enough", func() *View {
			return viewOf(3, Run{Spec: trainSpec("aaaaaaaa", 1, 3, 3)}, gangRun(trainSpec("bbbbbbbb", 1, 1, 1), true, 1), gangRun(trainSpec("cccccccc", 3, 2, 2), true, 1, 1))
		}, nil, nil, ""},
		{"nor one of equal priority", func() *View {
			return viewOf(2, Run{Spec: spec}, gangRun(trainSpec("cccccccc", 1, 2, 2), true, 1, 1))
		}, nil, nil, ""},
		{"nor twice", func() *View {
			r := gangRun(trainSpec("cccccccc", 3, 2, 2), true, 1, 1)
			r.Head.Control = schemas.ControlPreempt
			return viewOf(2, Run{Spec: spec}, r)
		}, nil, nil, ""},
		{"a gang that has committed gives back", func() *View {
			r := gangRun(trainSpec("aaaaaaaa", 3, 2, 2), false, 1, 1)
			r.Head.Control = schemas.ControlPreempt
			return viewOf(2, r)
		}, []Kind{ActGiveBack}, nil, "yields to a gang of higher"},
		{"one that does not commit gives back after the grace", func() *View {
			r := gangRun(trainSpec("aaaaaaaa", 3, 2, 2), true, 1, 1)
			r.Head.Control, r.Asked = schemas.ControlPreempt, limits.PauseGrace
			return viewOf(2, r)
		}, []Kind{ActGiveBack}, nil, ""},
		{"priority before age", func() *View {
			return viewOf(1, Run{Spec: trainSpec("aaaaaaaa", 1, 1, 1)}, Run{Spec: trainSpec("bbbbbbbb", 0, 1, 1), Submitted: time.Now()})
		}, []Kind{ActTurn}, func(d Decision) bool { return d.Actions[0].Run == "bbbbbbbb" }, ""},
		{"usage before age", func() *View {
			other := trainSpec("bbbbbbbb", 1, 1, 1)
			other.Tenant = "u"
			v := viewOf(1, Run{Spec: trainSpec("aaaaaaaa", 1, 1, 1)}, Run{Spec: other, Submitted: time.Now()})
			v.Ledger.Usage = map[string]float64{"t": 100}
			return v
		}, []Kind{ActTurn}, func(d Decision) bool { return d.Actions[0].Tenant == "u" }, ""},
		{"a queued run with prep is started", func() *View { return viewOf(0, Run{Spec: prepSpec("aaaaaaaa", 2)}) }, []Kind{ActStart}, nil, ""},
		{"a ready stage publishes its parts", func() *View {
			s := prepSpec("aaaaaaaa", 2)
			h := NewHead(s)
			return viewOf(0, Run{Spec: s, Head: &h})
		}, []Kind{ActStageStart}, func(d Decision) bool { return len(d.Actions[0].Publish) == 2 && d.Actions[0].Publish[1].Part == 1 }, ""},
		{"no more stages than the pool can hold", func() *View {
			a, b := prepSpec("aaaaaaaa", 10), prepSpec("bbbbbbbb", 1)
			h := NewHead(a)
			h.Stages[0].State = schemas.StageRunning
			r := Run{Spec: a, Head: &h, Claims: map[ClaimKey]Claim{}}
			for i := range 10 {
				r.Claims[ClaimKey{"prep", i, 1}] = Claim{Known: now, WasPublished: true, Published: now}
			}
			return viewOf(2, r, Run{Spec: b})
		}, nil, nil, "10 of 10 parts to go"},
		{"an ended run is closed", func() *View {
			r := gangRun(spec, true, 4, 5)
			r.Head.State = schemas.RunCancelled
			return viewOf(2, r)
		}, []Kind{ActClose}, func(d Decision) bool { return len(d.Actions[0].Delete) == 2 }, ""},
		{"a paused run rests", func() *View {
			r := gangRun(spec, false, 4, 5)
			r.Head.State = schemas.RunPaused
			return viewOf(2, r)
		}, nil, nil, "paused"},
		{"a pause waits for the commit", func() *View {
			r := gangRun(spec, true, 4, 5)
			r.Head.Control = schemas.ControlPause
			return viewOf(2, r)
		}, nil, nil, "pausing"},
		{"a pause is enforced", func() *View {
			r := gangRun(spec, true, 4, 5)
			r.Head.Control, r.Asked = schemas.ControlPause, limits.PauseGrace
			return viewOf(2, r)
		}, []Kind{ActPaused}, nil, ""},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			v := c.view()
			for i := range v.Runs {
				v.Runs[i].CountHeld()
			}
			d := Decide(v, now)
			if !slices.Equal(kinds(d), c.want) {
				t.Fatalf("actions %v, want %v; reasons %v", kinds(d), c.want, d.Reasons)
			}
			if c.check != nil && !c.check(d) {
				t.Fatalf("decision %+v", d)
			}
			if c.reason != "" && !strings.Contains(d.Reasons["t/aaaaaaaa"], c.reason) {
				t.Fatalf("reasons %v, want %q", d.Reasons, c.reason)
			}
			if again := Decide(v, now); !slices.Equal(kinds(again), kinds(d)) {
				t.Fatalf("the same view gave %v and %v", kinds(d), kinds(again))
			}
		})
	}
}

func TestBudgets(t *testing.T) {
	app := func(step int64, permanent bool) schemas.GenerationEnd {
		return schemas.GenerationEnd{Cause: schemas.CauseApplication, Step: step, Error: &schemas.ErrorInfo{Code: schemas.CodeInternal, Message: "x", Permanent: permanent}}
	}
	infra := schemas.GenerationEnd{Cause: schemas.CauseInfrastructure, Step: 20}
	preempted := schemas.GenerationEnd{Cause: schemas.CausePreempted, Step: 20}
	tests := []struct {
		name  string
		ended []schemas.GenerationEnd
		fails bool
	}{
		{"lost for ever", slices.Repeat([]schemas.GenerationEnd{infra}, 30), true},
		{"preempted for ever", slices.Repeat([]schemas.GenerationEnd{preempted}, 99), false},
		{"lost often", slices.Repeat([]schemas.GenerationEnd{infra, preempted}, 29), false},
		{"none", nil, false},
		{"two failures", []schemas.GenerationEnd{app(20, false), app(20, false)}, false},
		{"three failures", []schemas.GenerationEnd{app(20, false), app(20, false), app(20, false)}, true},
		{"progress in between", []schemas.GenerationEnd{app(10, false), app(10, false), app(20, false)}, false},
		{"infrastructure and preemption do not count", []schemas.GenerationEnd{app(20, false), infra, infra, preempted, infra, app(20, false)}, false},
		{"nor do they reset", []schemas.GenerationEnd{app(20, false), infra, app(20, false), preempted, app(20, false)}, true},
		{"permanent", []schemas.GenerationEnd{app(20, true)}, true},
		{"poison", []schemas.GenerationEnd{{Cause: schemas.CausePoison, Step: 20}}, true},
		{"an earlier stage's", []schemas.GenerationEnd{app(20, false), app(20, false), {Cause: schemas.CauseDone, Step: 20}, app(20, false)}, false},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			r := gangRun(trainSpec("aaaaaaaa", 1, 2, 2), true, 1, 1)
			r.Head.Step, r.Head.Ended = 20, c.ended
			d := Decide(viewOf(2, r), time.Hour)
			if failed := slices.Contains(kinds(d), ActFail); failed != c.fails {
				t.Fatalf("failed: %v; actions %v", failed, kinds(d))
			}
		})
	}
}

func TestPartBudgets(t *testing.T) {
	fail := func(issue uint64, cause schemas.Cause, permanent bool) schemas.Failure {
		return schemas.Failure{Part: 0, Issue: issue, Cause: cause, Error: schemas.ErrorInfo{Code: schemas.CodeInternal, Permanent: permanent}}
	}
	tests := []struct {
		name  string
		issue uint64
		fails []schemas.Failure
		want  []Kind
	}{
		{"first failure", 1, []schemas.Failure{fail(1, schemas.CauseApplication, false)}, []Kind{ActPartReissue}},
		{"an old failure", 2, []schemas.Failure{fail(1, schemas.CauseApplication, false)}, nil},
		{"third failure", 3, []schemas.Failure{fail(1, schemas.CauseApplication, false), fail(2, schemas.CauseApplication, false), fail(3, schemas.CauseApplication, false)}, []Kind{ActFail}},
		{"preemptions", 3, []schemas.Failure{fail(1, schemas.CausePreempted, false), fail(2, schemas.CausePreempted, false), fail(3, schemas.CauseInfrastructure, false)}, []Kind{ActPartReissue}},
		{"permanent", 1, []schemas.Failure{fail(1, schemas.CauseApplication, true)}, []Kind{ActFail}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			spec := prepSpec("aaaaaaaa", 1)
			h := NewHead(spec)
			h.Stages[0].State = schemas.StageRunning
			h.Stages[0].Issues = map[int]uint64{0: c.issue}
			r := Run{Spec: spec, Head: &h, Stages: map[string]StageView{"prep": {Failures: c.fails}},
				Claims: map[ClaimKey]Claim{{"prep", 0, c.issue}: {Holder: &lease.Owner{}, Ever: true, WasPublished: true}}}
			if d := Decide(viewOf(2, r), time.Hour); !slices.Equal(kinds(d), c.want) {
				t.Fatalf("actions %v, want %v", kinds(d), c.want)
			}
		})
	}
}

func TestEvalReducesAfterAllSlices(t *testing.T) {
	spec := simSpec("aaaaaaaa", 1, 1, 1)
	spec.Stages = spec.Stages[2:3]
	spec.Stages[0].Needs = nil
	h := NewHead(spec)
	h.Stages[0].State = schemas.StageRunning
	r := Run{Spec: spec, Head: &h, Claims: map[ClaimKey]Claim{}, Stages: map[string]StageView{"eval": {Results: map[int]bool{0: true}}}}
	if d := Decide(viewOf(2, r), time.Hour); len(d.Actions) != 1 || len(d.Actions[0].Publish) != 1 || d.Actions[0].Publish[0].Part != 1 {
		t.Fatalf("decision %+v", d)
	}
	r.Stages["eval"].Results[1] = true
	if d := Decide(viewOf(2, r), time.Hour); len(d.Actions) != 1 || d.Actions[0].Publish[0].Part != 2 || d.Actions[0].Publish[0].Parts != 2 {
		t.Fatalf("decision %+v", d)
	}
	r.Stages["eval"].Results[2] = true
	if d := Decide(viewOf(2, r), time.Hour); !slices.Equal(kinds(d), []Kind{ActStageDone}) {
		t.Fatalf("decision %+v", d)
	}
}

func TestStaleActionsAreRefused(t *testing.T) {
	r := gangRun(trainSpec("aaaaaaaa", 1, 2, 2), true, 1, 1)
	h := *r.Head
	h.Rev++
	if err := Transition(&h, Action{Kind: ActGiveBack, Stage: "tune", Rev: r.Head.Rev}, time.Time{}); err == nil {
		t.Fatal("an action decided on another revision was applied")
	}
	h = *r.Head
	h.State = schemas.RunCancelled
	if err := Transition(&h, Action{Kind: ActFail, Stage: "tune", Rev: h.Rev}, time.Time{}); err == nil {
		t.Fatal("a cancelled run was moved")
	}
}
