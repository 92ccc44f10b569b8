package control

import (
	"fmt"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// minOutstanding is how many part messages a pool may have outstanding before more stages are started, however few workers it has.
const minOutstanding = 4

// decider is the state of one decision.
type decider struct {
	v   *View
	now time.Duration
	d   Decision
	// outstanding counts, per pool, the unfinished parts of running stages; leased those of them, by priority, that somebody works on.
	outstanding map[string]int
	leased      [4]int
	// seats counts the wanted seats of the pool, held those with a holder.
	seats, seated int
	// held is the priority of the best gang that waits for workers and could have them (4: none).
	held int
	// tenants counts what each tenant has.
	tenants map[string]*account
	// lines is the wording of what gangs of a size wait for.
	lines map[string]string
}

// mark is what one decision remembers of a run: what the walks over all runs ask is found once, while HEAD and spec are at hand.
type mark struct {
	// account is its tenant's.
	account *account
	// wish is what it wants a turn for, once it was looked for.
	wish   wish
	looked bool
	// busy: nothing more is to be decided about it.
	busy bool
	// calm: its gang trains, with every member, and nothing is asked of it.
	calm bool
	// seated: HEAD wants seats. placed: its place in its class is by submission, not by its tenant's use.
	seated, placed bool
	// trains: it has train stages only.
	trains bool
}

// wish is the train stage that a run wants a turn for, nil when it wants none.
type wish struct {
	stage  *schemas.Stage
	reform bool
}

func (d *decider) wants(r *Run) (stage *schemas.Stage, reform bool) {
	m := &r.mark
	if !m.looked {
		m.wish.stage, m.wish.reform = wants(r)
		m.looked = true
	}
	return m.wish.stage, m.wish.reform
}

// account is what a tenant has in the pool.
type account struct {
	quota schemas.Quota
	// running counts its running runs, devices the seats that they want.
	running, devices int
	// charged is what the starts before in this order charge it in advance, in device-seconds; lane its line of the priority being ordered.
	charged float64
	lane    *lane
}

// Decide says what to do next about the runs of one pool. It is pure: the same view and time give the same decision. No run gets two
// actions that swap HEAD in one decision.
func Decide(v *View, now time.Duration) Decision {
	d := newDecider(v, now)
	d.count()
	order := d.order()
	for _, r := range order {
		if d.settled(r) || d.early(r) {
			r.mark.busy = true
		}
	}
	d.turn(order)
	for _, r := range order {
		if !r.mark.busy && !r.mark.trains {
			d.aux(r)
		}
	}
	return d.d
}

func newDecider(v *View, now time.Duration) *decider {
	d := &decider{v: v, now: now, outstanding: map[string]int{}, held: 4, tenants: map[string]*account{}, lines: map[string]string{}}
	reasons := len(v.Runs)
	if v.Terse {
		reasons = 0
	}
	d.d.Reasons = make(map[string]string, reasons)
	return d
}

func name(r *Run) string { return r.Spec.Tenant + "/" + r.Spec.ID }

// count adds up what claims workers.
func (d *decider) count() {
	for i := range d.v.Runs {
		r := &d.v.Runs[i]
		h := r.Head
		r.mark = mark{trains: onlyTrains(r.Spec)}
		if h != nil {
			r.mark.seated = len(h.Seats) > 0
			r.mark.placed = r.mark.seated || h.State != schemas.RunRunning
			r.mark.calm = d.calm(r)
		}
		if !r.mark.placed {
			d.wants(r)
		}
		a := d.account(r)
		if h == nil || h.State != schemas.RunRunning {
			continue
		}
		a.running++
		a.devices += len(h.Seats)
		d.seats += len(h.Seats)
		d.d.Demand += len(h.Seats)
		d.seated += r.Held
		for i := range h.Stages {
			st := &h.Stages[i]
			if st.State != schemas.StageRunning || st.Kind == schemas.KindTrain {
				continue
			}
			spec, err := r.Spec.StageOf(st.Name)
			if err != nil {
				continue
			}
			n := len(unfinished(r, spec))
			d.outstanding[auxPool(r.Spec)] += n
			if auxPool(r.Spec) != d.v.Pool {
				continue
			}
			d.d.Demand += n
			for k, c := range r.Claims {
				if k.Stage == st.Name && c.Holder != nil {
					d.leased[min(max(r.Spec.Priority, 0), 3)]++
				}
			}
		}
	}
}

// available is how many workers a gang of that priority can count on: all but those that hold or are wanted for seats, work for other pools'
// runs, or work on parts of equal or higher priority. Workers on other parts come when the part ends, and then take seats before parts.
func (d *decider) available(priority int) int {
	w := d.v.Workers[d.v.Pool]
	parts, above := 0, 0
	for p, n := range d.leased {
		parts += n
		if p <= priority {
			above += n
		}
	}
	foreign := max(0, w.Busy-d.seated-parts)
	return max(0, w.Live-d.seats-foreign-above)
}

// act adds an action about a run.
func (d *decider) act(r *Run, kind Kind, a Action) {
	a.Kind, a.Tenant, a.Run = kind, r.Spec.Tenant, r.Spec.ID
	if r.Head != nil {
		a.Rev = r.Head.Rev
	}
	d.d.Actions = append(d.d.Actions, a)
	if a.Reason != "" && !d.v.Terse {
		d.d.Reasons[name(r)] = a.Reason
	}
}

func (d *decider) why(r *Run, format string, args ...any) {
	if d.v.Terse {
		return
	}
	d.d.Reasons[name(r)] = fmt.Sprintf(format, args...)
}

// settled handles what needs no turn: ended and paused runs, failed stages, the gang of a running train stage. It reports whether the run
// needs nothing else in this decision.
func (d *decider) settled(r *Run) bool {
	h := r.Head
	switch {
	case h == nil || r.mark.calm && d.v.Terse:
		return false
	case h.State.Terminal():
		d.act(r, ActClose, Action{Delete: d.messages(r)})
		return true
	case h.State == schemas.RunPaused:
		d.why(r, "paused")
		return true
	case r.Spec.MaxRuntimeS > 0 && r.Age >= time.Duration(r.Spec.MaxRuntimeS)*time.Second:
		d.act(r, ActFail, Action{Stage: current(h), Error: schemas.Errorf(schemas.CodeTimeout, "max_runtime_s", "the run has not ended within %s", time.Duration(r.Spec.MaxRuntimeS)*time.Second),
			Delete: d.messages(r), Reason: "the run took longer than its max_runtime_s"})
		return true
	case h.Control == schemas.ControlPause:
		if len(h.Members) == 0 || r.Asked >= d.v.Limits.PauseGrace {
			d.act(r, ActPaused, Action{Delete: d.seatMessages(r), Reason: "paused on request"})
		} else {
			d.why(r, "pausing at the next commit")
		}
		return true
	case h.Stage != "":
		return d.gang(r)
	}
	return false
}

// messages lists every message of the run that may still be queued.
func (d *decider) messages(r *Run) []schemas.Message {
	out := d.seatMessages(r)
	for i := range r.Head.Stages {
		st := &r.Head.Stages[i]
		spec, err := r.Spec.StageOf(st.Name)
		if err != nil || st.Kind == schemas.KindTrain || st.Started.IsZero() || st.State == schemas.StageSucceeded {
			continue
		}
		for part := range parts(spec) + reduces(spec) {
			out = append(out, partMessage(r, spec, part, st.PartIssue(part)))
		}
	}
	return out
}

func (d *decider) seatMessages(r *Run) []schemas.Message {
	var out []schemas.Message
	for _, s := range r.Head.Seats {
		out = append(out, seatMessage(r, r.Head.Stage, s))
	}
	return out
}

// aux handles the prep, eval and export stages of a run, and the first transition of a queued one whose first stage is such.
func (d *decider) aux(r *Run) {
	pool := auxPool(r.Spec)
	running := false
	if r.Head != nil {
		for i := range r.Head.Stages {
			st := &r.Head.Stages[i]
			if st.State != schemas.StageRunning || st.Kind == schemas.KindTrain {
				continue
			}
			running = true
			if spec, err := r.Spec.StageOf(st.Name); err == nil && d.parts(r, spec, st) {
				return
			}
		}
	}
	var next *schemas.Stage
	var states []schemas.StageState
	if r.Head != nil {
		states = r.Head.Stages
	}
	for spec := range schemas.Ready(r.Spec, states) {
		if spec.Kind != schemas.KindTrain {
			next = spec
			break
		}
	}
	if next == nil {
		return
	}
	if why := d.refused(r); why != "" {
		d.why(r, "%s", why)
		return
	}
	if room := max(minOutstanding, 2*d.v.Workers[pool].Live) - d.outstanding[pool]; room <= 0 {
		d.why(r, "waiting: pool %s has %d parts outstanding", pool, d.outstanding[pool])
		return
	}
	if d.held <= r.Spec.Priority && pool == d.v.Pool && !running {
		d.why(r, "waiting: a gang of priority %d comes first in pool %s", d.held, pool)
		return
	}
	d.outstanding[pool] += parts(next)
	if r.Head == nil {
		d.account(r).running++
		d.act(r, ActStart, Action{Stage: next.Name, Reason: "starting " + next.Name})
		return
	}
	a := Action{Stage: next.Name, Reason: "running " + next.Name}
	for part := range parts(next) {
		a.Publish = append(a.Publish, partMessage(r, next, part, 1))
	}
	d.act(r, ActStageStart, a)
}

// onlyTrains reports whether the run has no other stages.
func onlyTrains(s *schemas.RunSpec) bool {
	for i := range s.Stages {
		if s.Stages[i].Kind != schemas.KindTrain {
			return false
		}
	}
	return true
}

// parts follows the parts of a running stage; it reports whether it swaps HEAD.
func (d *decider) parts(r *Run, spec *schemas.Stage, st *schemas.StageState) bool {
	view := r.Stages[spec.Name]
	for _, f := range view.Failures {
		if view.Results[f.Part] {
			continue
		}
		n, lost := 0, 0
		for _, g := range view.Failures {
			switch {
			case g.Part != f.Part || g.Cause == schemas.CausePreempted:
			case g.Cause == schemas.CauseApplication:
				n++
				lost++
			default:
				lost++
			}
		}
		if f.Error.Permanent || f.Cause == schemas.CausePoison || n >= d.v.Limits.Attempts || lost >= d.v.Limits.Losses {
			info := f.Error
			d.act(r, ActFail, Action{Stage: spec.Name, Error: &info, Delete: d.messages(r), Reason: fmt.Sprintf("part %d of %s failed: %s", f.Part, spec.Name, f.Error.Message)})
			return true
		}
	}
	todo := unfinished(r, spec)
	if len(todo) == 0 {
		d.act(r, ActStageDone, Action{Stage: spec.Name, Reason: spec.Name + " is done"})
		return true
	}
	reissue := Action{Stage: spec.Name}
	publish := Action{Stage: spec.Name}
	waiting := 0
	for _, part := range todo {
		issue := st.PartIssue(part)
		c := r.Claims[ClaimKey{spec.Name, part, issue}]
		failed, waits := d.failed(view, part, issue)
		switch {
		case waits > 0: // no message, no worker
			waiting++
		case failed || d.lapsed(c, auxPool(r.Spec)):
			reissue.Parts = append(reissue.Parts, schemas.Seat{Seat: part, Issue: issue + 1})
			reissue.Delete = append(reissue.Delete, partMessage(r, spec, part, issue))
			reissue.Publish = append(reissue.Publish, partMessage(r, spec, part, issue+1))
		case c.Holder == nil && d.due(c):
			publish.Publish = append(publish.Publish, partMessage(r, spec, part, issue))
		}
	}
	if d.why(r, "running %s: %d of %d parts to go", spec.Name, len(todo), parts(spec)+reduces(spec)); waiting > 0 {
		d.why(r, "running %s: %d of %d parts to go, %d failed and are tried again soon", spec.Name, len(todo), parts(spec)+reduces(spec), waiting)
	}
	if len(publish.Publish) > 0 {
		d.act(r, ActPublish, publish)
	}
	if len(reissue.Parts) > 0 {
		reissue.Reason = fmt.Sprintf("%s: %d parts are given out again", spec.Name, len(reissue.Parts))
		d.act(r, ActPartReissue, reissue)
		return true
	}
	return false
}

// failed reports whether a part has failed at its issue, and how long it still waits for the next try: only errors of its own are waited for.
func (d *decider) failed(v StageView, part int, issue uint64) (failed bool, waits time.Duration) {
	n := 0
	for _, f := range v.Failures {
		if f.Part == part && f.Cause == schemas.CauseApplication {
			n++
		}
	}
	for i, f := range v.Failures {
		if f.Part != part || f.Issue != issue {
			continue
		}
		failed = true
		if f.Cause == schemas.CauseApplication && i < len(v.Failed) {
			waits = max(0, d.v.Limits.retryAfter(n)-v.Failed[i])
		}
	}
	return failed, waits
}

// due reports whether the message of an unleased claim is to be published (again).
func (d *decider) due(c Claim) bool {
	return !c.WasPublished || d.now-c.Published >= d.v.Limits.Republish
}

// lapsed reports whether the holder of a claim must be taken for dead: its lease was seen and is gone, or nobody took the message though
// workers have been idle for a TTL: it was delivered to one that died with it. Of a lease that was not seen, absence counts only after two TTLs
// of unbroken contact with the same lease server; one that was seen within that contact has lapsed or was released (deploy/adr/0005).
func (d *decider) lapsed(c Claim, pool string) bool {
	ttl := d.v.Limits.LeaseTTL
	if c.Holder != nil || d.v.Contact == 0 {
		return false
	}
	if c.Ever && c.Seen > d.now-d.v.Contact {
		return d.now-c.Seen >= d.v.Limits.LapseGrace
	}
	if d.v.Contact < 2*ttl {
		return false
	}
	if c.Ever {
		return d.now-c.Seen >= d.v.Limits.LapseGrace
	}
	return c.WasPublished && d.now-c.Known >= 2*ttl && d.v.Workers[pool].Idle >= ttl
}

// unfinished lists the parts of a stage that have no result yet, in order; the reduce step comes when all others are there.
func unfinished(r *Run, spec *schemas.Stage) []int {
	var out []int
	results := r.Stages[spec.Name].Results
	n := parts(spec)
	for part := range n {
		if !results[part] {
			out = append(out, part)
		}
	}
	if len(out) == 0 && reduces(spec) == 1 && !results[n] {
		out = append(out, n)
	}
	return out
}

// parts is the number of parts of a prep, eval or export stage, without the reduce step.
func parts(s *schemas.Stage) int {
	switch {
	case s.Kind == schemas.KindPrep && s.Prep != nil:
		return max(1, s.Prep.Parts)
	case s.Kind == schemas.KindEval && s.Eval != nil:
		return max(1, s.Eval.Slices)
	}
	return 1
}

// reduces is 1 for a stage with a reduce step.
func reduces(s *schemas.Stage) int {
	if s.Kind == schemas.KindEval {
		return 1
	}
	return 0
}

func auxPool(s *schemas.RunSpec) string {
	if s.AuxPool != "" {
		return s.AuxPool
	}
	return s.Pool
}

func partMessage(r *Run, s *schemas.Stage, part int, issue uint64) schemas.Message {
	return schemas.Message{
		Version: 1, Kind: s.Kind, Pool: auxPool(r.Spec), Tenant: r.Spec.Tenant, Run: r.Spec.ID, Stage: s.Name,
		Spec: schemas.SpecKey(r.Spec.Tenant, r.Spec.ID), Issue: issue, Part: part, Parts: parts(s),
	}
}

func seatMessage(r *Run, stage string, s schemas.Seat) schemas.Message {
	return schemas.Message{
		Version: 1, Kind: schemas.KindTrain, Pool: r.Spec.Pool, Tenant: r.Spec.Tenant, Run: r.Spec.ID, Stage: stage,
		Spec: schemas.SpecKey(r.Spec.Tenant, r.Spec.ID), Seat: s.Seat, Issue: s.Issue,
	}
}
