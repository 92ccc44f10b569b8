package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// sim is a pure world around Decide: HEADs, ledger, messages, leases and workers, without any I/O. Time passes in steps of a tick.
type sim struct {
	t      *rapid.T
	now    time.Duration
	limits Limits
	ledger schemas.Ledger
	runs   []*simRun
	stream map[string]schemas.Message
	// workers by name; a worker holds at most one message.
	workers map[string]*schemas.Message
	nworker int
	issued  map[string]bool
	idle    time.Duration

	reserved   string
	reservedAt time.Duration
}

type simRun struct {
	spec            *schemas.RunSpec
	head            *schemas.Head
	open            bool
	claims          map[ClaimKey]*Claim
	results         map[string]map[int]bool
	fails           map[string][]schemas.Failure
	forming         time.Duration
	asked           time.Duration
	steady, growing time.Duration
	generation      uint64
	steps           int64
	// final is the terminal state once it was reached.
	final schemas.RunState
	ends  int
	ended time.Duration
}

const simTick = 500 * time.Millisecond

func simSpec(id string, prio, min, max int) *schemas.RunSpec {
	return &schemas.RunSpec{Version: 1, ID: id, Tenant: "t", Pool: "cpu", Priority: prio, Stages: []schemas.Stage{
		{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{Parts: 3}},
		{Name: "tune", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: &schemas.TrainStage{World: schemas.World{Min: min, Max: max}}},
		{Name: "eval", Kind: schemas.KindEval, Needs: []string{"tune"}, Eval: &schemas.EvalStage{Slices: 2}},
		{Name: "export", Kind: schemas.KindExport, Needs: []string{"tune"}, Export: &schemas.ExportStage{}},
	}}
}

func newSim(t *rapid.T) *sim {
	return &sim{t: t, limits: Limits{}.WithDefaults(), stream: map[string]schemas.Message{}, workers: map[string]*schemas.Message{}, issued: map[string]bool{}, now: time.Minute}
}

func (s *sim) submit(spec *schemas.RunSpec) {
	s.runs = append(s.runs, &simRun{spec: spec, open: true, claims: map[ClaimKey]*Claim{}, results: map[string]map[int]bool{}, fails: map[string][]schemas.Failure{}})
}

func (s *sim) addWorker() {
	s.nworker++
	s.workers[fmt.Sprintf("w%03d", s.nworker)] = nil
}

func (s *sim) names() []string {
	var out []string
	for n := range s.workers {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (s *sim) holder(r *simRun, k ClaimKey) *lease.Owner {
	for _, n := range s.names() {
		if m := s.workers[n]; m != nil && m.Run == r.spec.ID && m.Stage == k.Stage && m.Index() == k.Index && m.Issue == k.Issue {
			return &lease.Owner{Worker: n, Incarnation: n, Issue: k.Issue}
		}
	}
	return nil
}

func (s *sim) view() *View {
	v := &View{Pool: "cpu", Limits: s.limits, Ledger: s.ledger, Contact: time.Hour, Workers: map[string]Workers{}}
	w := Workers{Live: len(s.workers)}
	for _, m := range s.workers {
		if m != nil {
			w.Busy++
		}
	}
	if s.idle = since(s.idle, w.Live > w.Busy, s.now); s.idle > 0 {
		w.Idle = s.now - s.idle
	}
	v.Workers["cpu"] = w
	for i, r := range s.runs {
		if !r.open {
			continue
		}
		run := Run{Spec: r.spec, Head: r.head, Submitted: time.Unix(int64(i), 0), Claims: map[ClaimKey]Claim{}, Stages: map[string]StageView{}}
		if r.head != nil {
			for _, st := range r.head.Stages {
				run.Stages[st.Name] = StageView{Results: r.results[st.Name], Failures: r.fails[st.Name]}
			}
		}
		want := map[ClaimKey]bool{}
		for _, k := range active(&openRun{spec: r.spec, head: r.head}, run.Stages) {
			want[k] = true
			c := r.claims[k]
			if c == nil {
				c = &Claim{Known: s.now}
				r.claims[k] = c
			}
			if c.Holder = s.holder(r, k); c.Holder != nil {
				c.Seen, c.Ever = s.now, true
			}
			run.Claims[k] = *c
		}
		for k := range r.claims {
			if !want[k] {
				delete(r.claims, k)
			}
		}
		run.CountHeld()
		r.forming = since(r.forming, r.head != nil && len(r.head.Seats) > 0 && len(r.head.Members) == 0, s.now)
		r.asked = since(r.asked, r.head != nil && r.head.Control != schemas.ControlNone, s.now)
		members, seats := 0, 0
		if r.head != nil {
			members, seats = len(r.head.Members), len(r.head.Seats)
			if len(r.head.Ended) != r.ends {
				r.ends, r.ended = len(r.head.Ended), s.now
			}
			run.Failed = s.now - r.ended
			if r.head.Generation != r.generation {
				r.generation, r.steady = r.head.Generation, 0
			}
		}
		r.steady = since(r.steady, members > 0, s.now)
		r.growing = since(r.growing, members > 0 && seats > members, s.now)
		for at, out := range map[*time.Duration]*time.Duration{&r.forming: &run.Forming, &r.asked: &run.Asked, &r.steady: &run.Steady, &r.growing: &run.Growing} {
			if *at > 0 {
				*out = s.now - *at
			}
		}
		v.Runs = append(v.Runs, run)
	}
	return v
}

func (s *sim) find(id string) *simRun {
	for _, r := range s.runs {
		if r.spec.ID == id {
			return r
		}
	}
	return nil
}

// tick decides and applies; crash > 0 stops after so many writes, as a killed control would.
func (s *sim) tick(crash int) bool {
	s.now += simTick
	v := s.view()
	v.Reserved, v.ReservedFor = s.reserved, s.now-s.reservedAt
	d := Decide(v, s.now)
	if d.Reserved != s.reserved {
		s.reserved, s.reservedAt = d.Reserved, s.now
	}
	s.checkDecision(d)
	writes := 0
	write := func() bool { writes++; return crash == 0 || writes < crash }
	for _, a := range d.Actions {
		r := s.find(a.Run)
		switch a.Kind {
		case ActTurn:
			s.ledger.Turn = a.Turn
		case ActTurnEnd:
			s.ledger.Turn = nil
		case ActStart:
			h := StartHead(r.spec, a, time.Unix(0, int64(s.now)))
			h.Rev = 1
			empty := NewHead(r.spec)
			r.head = &empty
			s.seats(r, &h)
			r.head = &h
		case ActPublish:
		case ActClose:
			r.open = false
		default:
			next := clone(r.head)
			if err := Transition(next, a, time.Unix(0, int64(s.now))); err != nil {
				s.t.Fatalf("%s on %s: %v", a.Kind, a.Run, err)
			}
			next.Rev++
			if a.Kind == ActSeatReissue && slices.Equal(next.Seats, r.head.Seats) {
				s.t.Fatalf("seats %v of %s keep their issues %v", a.Seats, a.Run, next.Seats)
			}
			s.seats(r, next)
			r.head = next
			if r.steps > 0 && next.Stage == "" {
				r.steps = 0
			}
		}
		if !write() {
			return len(d.Actions) > 0
		}
		for _, m := range a.Delete {
			delete(s.stream, schemas.WorkSubject(m))
			if !write() {
				return true
			}
		}
		for _, m := range a.Publish {
			s.stream[schemas.WorkSubject(m)] = m
			k := ClaimKey{m.Stage, m.Index(), m.Issue}
			if r.claims[k] == nil {
				r.claims[k] = &Claim{Known: s.now}
			}
			r.claims[k].Published, r.claims[k].WasPublished = s.now, true
			if !write() {
				return true
			}
		}
	}
	return len(d.Actions) > 0
}

// checkDecision: at most one HEAD swap a run, at most one turn.
func (s *sim) checkDecision(d Decision) {
	swaps, turns := map[string]Kind{}, 0
	for _, a := range d.Actions {
		switch a.Kind {
		case ActTurn:
			turns++
			if s.ledger.Turn != nil {
				s.t.Fatalf("the turn is given to %s while %s has it", a.Run, s.ledger.Turn.Run)
			}
		case ActTurnEnd, ActPublish:
		default:
			if k, ok := swaps[a.Run]; ok {
				s.t.Fatalf("run %s gets %s and %s in one decision", a.Run, k, a.Kind)
			}
			swaps[a.Run] = a.Kind
		}
	}
	if turns > 1 {
		s.t.Fatalf("%d turns in one decision", turns)
	}
}

// seats checks that no seat gets an issue that it, or another seat at another time, had before, and that no more seats are issued than
// there are workers which hold no other seat.
func (s *sim) seats(r *simRun, next *schemas.Head) {
	for _, n := range next.Seats {
		if slices.Contains(r.head.Seats, n) {
			continue
		}
		key := fmt.Sprintf("%s/%d/%d", r.spec.ID, n.Seat, n.Issue)
		if s.issued[key] {
			s.t.Fatalf("seat %s is issued twice", key)
		}
		s.issued[key] = true
		if n.Issue <= r.head.LastIssue {
			s.t.Fatalf("seat %s: the last issue was %d", key, r.head.LastIssue)
		}
	}
	if len(r.head.Seats) == 0 && len(next.Seats) > 0 {
		total := len(next.Seats)
		for _, o := range s.runs {
			if o != r && o.head != nil && o.head.State == schemas.RunRunning {
				total += len(o.head.Seats)
			}
		}
		if total > len(s.workers) {
			s.t.Fatalf("%d seats are wanted of %d workers", total, len(s.workers))
		}
	}
}

func clone(h *schemas.Head) *schemas.Head {
	c := *h
	c.Stages = slices.Clone(h.Stages)
	c.Seats = slices.Clone(h.Seats)
	c.Members = slices.Clone(h.Members)
	c.Ended = slices.Clone(h.Ended)
	return &c
}

// pull lets an idle worker take a message, train first, or drop an obsolete one.
func (s *sim) pull(n string) {
	if m, ok := s.workers[n]; !ok || m != nil {
		return
	}
	var subjects []string
	for sub := range s.stream {
		subjects = append(subjects, sub)
	}
	slices.Sort(subjects)
	slices.Reverse(subjects)
	for _, sub := range subjects {
		m := s.stream[sub]
		taken := false
		for _, o := range s.workers {
			taken = taken || o != nil && schemas.WorkSubject(*o) == sub
		}
		if taken {
			continue
		}
		r := s.find(m.Run)
		if s.obsolete(r, m) {
			delete(s.stream, sub)
			continue
		}
		s.workers[n] = &m
		return
	}
}

func (s *sim) obsolete(r *simRun, m schemas.Message) bool {
	if m.Kind == schemas.KindTrain {
		return !r.head.WantsSeat(m.Stage, m.Seat, m.Issue)
	}
	return r.results[m.Stage][m.Part] || !r.head.WantsPart(m.Stage, m.Part, m.Issue)
}

// work lets a busy worker advance: finish a part, form a gang, commit, or let an obsolete message go. fail makes a part or gang fail.
func (s *sim) work(n string, fail bool) {
	m := s.workers[n]
	if m == nil {
		return
	}
	r := s.find(m.Run)
	switch {
	case s.obsolete(r, *m):
		delete(s.stream, schemas.WorkSubject(*m))
		s.workers[n] = nil
	case m.Kind != schemas.KindTrain && fail:
		r.fails[m.Stage] = append(r.fails[m.Stage], schemas.Failure{Stage: m.Stage, Part: m.Part, Issue: m.Issue, Cause: schemas.CauseApplication, Error: schemas.ErrorInfo{Code: schemas.CodeInternal}})
		delete(s.stream, schemas.WorkSubject(*m))
		s.workers[n] = nil
	case m.Kind != schemas.KindTrain:
		if r.results[m.Stage] == nil {
			r.results[m.Stage] = map[int]bool{}
		}
		r.results[m.Stage][m.Part] = true
		delete(s.stream, schemas.WorkSubject(*m))
		s.workers[n] = nil
	default:
		s.train(r, fail)
	}
}

func (s *sim) train(r *simRun, fail bool) {
	h := clone(r.head)
	h.Rev++
	if len(h.Members) == 0 {
		for _, seat := range h.Seats {
			o := s.holder(r, ClaimKey{h.Stage, seat.Seat, seat.Issue})
			if o == nil {
				return
			}
			h.Members = append(h.Members, schemas.Member{Rank: len(h.Members), Seat: seat.Seat, Issue: seat.Issue, Worker: o.Worker})
		}
		h.Generation++
		r.head = h
		return
	}
	for _, m := range h.Members {
		if s.holder(r, ClaimKey{h.Stage, m.Seat, m.Issue}) == nil {
			return // a dead member: nothing advances
		}
	}
	if h.Control != schemas.ControlNone {
		h.Ended = append(h.Ended, schemas.GenerationEnd{Generation: h.Generation, Cause: schemas.CausePreempted, Step: h.Step})
		h.Members = nil
		r.head = h
		return
	}
	if fail {
		h.Ended = append(h.Ended, schemas.GenerationEnd{Generation: h.Generation, Cause: schemas.CauseApplication, Step: h.Step, Error: &schemas.ErrorInfo{Code: schemas.CodeInternal}})
		h.Members = nil
		r.head = h
		return
	}
	h.Step += 10
	h.Manifest = &schemas.ManifestRef{Key: fmt.Sprint(h.Step), Stage: h.Stage, Step: h.Step, Generation: h.Generation, Final: h.Step >= 40}
	r.head = h
}

// invariants: a run that has ended stays as it is.
func (s *sim) invariants() {
	for _, r := range s.runs {
		if r.head == nil {
			continue
		}
		if r.final != "" && r.head.State != r.final {
			s.t.Fatalf("run %s was %s and is %s", r.spec.ID, r.final, r.head.State)
		}
		if r.head.State.Terminal() {
			r.final = r.head.State
		}
		seen := map[uint64]bool{}
		for _, e := range r.head.Ended {
			if seen[e.Generation] {
				s.t.Fatalf("run %s: generation %d ended twice", r.spec.ID, e.Generation)
			}
			seen[e.Generation] = true
		}
	}
}

// TestWorldUnderChaos runs random worlds: workers come and die, the stream is wiped, control crashes between writes and forgets, users
// cancel and pause. Nothing may be booked twice, issues never repeat, an end is final; and when the chaos ends, every run ends.
func TestWorldUnderChaos(t *testing.T) {
	seeded(t)
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t)
		for i := range rapid.IntRange(1, 4).Draw(t, "runs") {
			lo := rapid.IntRange(1, 3).Draw(t, "min")
			s.submit(simSpec(fmt.Sprintf("run%05d", i), rapid.IntRange(0, 3).Draw(t, "priority"), lo, lo+rapid.IntRange(0, 2).Draw(t, "more")))
		}
		for range rapid.IntRange(1, 4).Draw(t, "workers") {
			s.addWorker()
		}
		steps := rapid.SliceOfN(rapid.IntRange(0, 99), 20, 200).Draw(t, "steps")
		for i, x := range steps {
			names := s.names()
			pick := func() string {
				if len(names) == 0 {
					return ""
				}
				return names[(x*7+i)%len(names)]
			}
			switch {
			case x < 35:
				s.tick(0)
			case x < 40:
				s.tick(1 + x%3)
				for _, r := range s.runs { // the next control remembers nothing
					r.claims = map[ClaimKey]*Claim{}
					r.forming, r.asked = 0, 0
				}
			case x < 60:
				s.pull(pick())
			case x < 80:
				s.work(pick(), x == 79)
			case x < 84:
				delete(s.workers, pick())
			case x < 88:
				s.addWorker()
			case x < 90:
				s.stream = map[string]schemas.Message{}
			case x < 92:
				s.now += 15 * time.Second
			case x == 92:
				s.change(func(h *schemas.Head) error { return cancel(h, "", time.Time{}) }, i)
			case x == 93:
				s.change(pauseHead, i)
			case x == 94:
				s.change(resumeHead, i)
			}
			s.oneSeat()
			s.invariants()
		}
		for len(s.workers) < 6 {
			s.addWorker()
		}
		for i := range s.runs {
			s.change(resumeHead, i)
		}
		for range 1500 {
			s.tick(0)
			for _, n := range s.names() {
				s.pull(n)
				s.work(n, false)
			}
			s.invariants()
		}
		for _, r := range s.runs {
			if r.open || r.head == nil || !r.head.State.Terminal() {
				t.Fatalf("run %s does not end: turn %+v, HEAD %+v", r.spec.ID, s.ledger.Turn, r.head)
			}
		}
		for _, n := range s.names() {
			if s.workers[n] != nil {
				t.Fatalf("worker %s still holds %+v", n, s.workers[n])
			}
		}
		if d := Decide(s.view(), s.now); s.ledger.Turn != nil && len(d.Actions) == 0 || d.Demand != 0 {
			t.Fatalf("turn %+v and demand %d are left over", s.ledger.Turn, d.Demand)
		}
	})
}

// change applies a user's wish to a run as the service does.
func (s *sim) change(mutate func(*schemas.Head) error, i int) {
	r := s.runs[i%len(s.runs)]
	if !r.open || r.head == nil {
		return
	}
	h := clone(r.head)
	if mutate(h) == nil {
		h.Rev++
		r.head = h
	}
}
