package control

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// gang follows the train stage that HEAD names; it reports whether it swaps HEAD.
func (d *decider) gang(r *Run) bool {
	h := r.Head
	if m := h.Manifest; m != nil && m.Final && m.Stage == h.Stage {
		d.act(r, ActTrainDone, Action{Stage: h.Stage, Delete: d.seatMessages(r), Reason: h.Stage + " is done"})
		return true
	}
	if info, failed := d.exhausted(h); failed {
		d.act(r, ActFail, Action{Stage: h.Stage, Error: info, Delete: d.seatMessages(r), Reason: h.Stage + " failed: " + info.Message})
		return true
	}
	spec, err := r.Spec.StageOf(h.Stage)
	if err != nil || spec.Train == nil {
		d.act(r, ActFail, Action{Stage: h.Stage, Error: schemas.Errorf(schemas.CodeInternal, h.Stage, "HEAD names a train stage that the spec does not have"), Delete: d.seatMessages(r)})
		return true
	}
	if h.Control == schemas.ControlPreempt {
		if len(h.Members) == 0 || r.Asked >= d.v.Limits.PauseGrace {
			d.act(r, ActGiveBack, Action{Stage: h.Stage, Delete: d.seatMessages(r), Reason: h.Stage + ": yields " + d.yieldsFor(h)})
			return true
		}
		d.why(r, "%s: yields at its next commit %s", h.Stage, d.yieldsFor(h))
		return false
	}
	if p := d.v.Policy; p != nil && p.Drain && h.Control == schemas.ControlNone && len(h.Seats) > 0 {
		d.act(r, ActPreempt, Action{Stage: h.Stage, Reason: h.Stage + ": asked to yield, the pool is drained"})
		return true
	}
	if w := d.drained(h); w != "" && h.Control == schemas.ControlNone {
		d.act(r, ActPreempt, Action{Stage: h.Stage, Reason: h.Stage + ": asked to yield, worker " + w + " is drained"})
		return true
	}
	if len(h.Seats) == 0 {
		return false
	}
	if h.Unjudged() && len(h.Members) == 0 {
		n := d.failures(h)
		d.act(r, ActGiveBack, Action{Stage: h.Stage, Delete: d.seatMessages(r), Reason: fmt.Sprintf("%s: failed %d of %d times in a row, tried again in %s", h.Stage, n,
			d.v.Limits.Attempts, d.v.Limits.retryAfter(n))})
		return true
	}
	if swaps, handled := d.growth(r); handled {
		return swaps
	}
	if len(h.Members) == len(h.Seats) && r.Held == len(h.Seats) {
		d.why(r, "%s", trainingReason(h))
		return false
	}
	again := Action{Stage: h.Stage}
	publish := Action{Stage: h.Stage}
	retire := Action{Stage: h.Stage}
	spare := d.available(r.Spec.Priority)
	left := len(h.Seats)
	for _, s := range h.Seats {
		c := r.Claims[ClaimKey{h.Stage, s.Seat, s.Issue}]
		if len(h.Members) > 0 && !member(h, s) {
			continue // see growth
		}
		switch {
		case d.lapsed(c, d.v.Pool):
			// A worker that came up since is not claimed by anything yet; the lost one still counts as a claim of this gang.
			if free := d.v.Workers[d.v.Pool]; spare == 0 && free.Live <= free.Busy && left > spec.Train.World.Min {
				left--
				retire.Seats = append(retire.Seats, s)
				retire.Delete = append(retire.Delete, seatMessage(r, h.Stage, s))
				continue
			}
			next := schemas.Seat{Seat: s.Seat, Issue: h.LastIssue + 1}
			again.Seats = append(again.Seats, next)
			again.Delete = append(again.Delete, seatMessage(r, h.Stage, s))
			again.Publish = append(again.Publish, seatMessage(r, h.Stage, next))
		case c.Holder == nil && d.due(c):
			publish.Publish = append(publish.Publish, seatMessage(r, h.Stage, s))
		}
	}
	if len(publish.Publish) > 0 {
		d.act(r, ActPublish, publish)
	}
	switch {
	case len(again.Seats) > 0:
		again.Reason = fmt.Sprintf("%s: %d of %d seats lost their holders and are given out again", h.Stage, len(again.Seats), len(h.Seats))
		d.act(r, ActSeatReissue, again)
		return true
	case len(retire.Seats) > 0:
		retire.Reason = fmt.Sprintf("%s: goes on with %d seats", h.Stage, left)
		d.act(r, ActRetire, retire)
		return true
	case len(h.Members) > 0:
		d.why(r, "%s", trainingReason(h))
	}
	return false
}

// drained names a member of the gang whose worker is to give back what it holds, "" when there is none.
func (d *decider) drained(h *schemas.Head) string {
	if p := d.v.Policy; p != nil && len(p.DrainedWorkers) > 0 {
		for _, m := range h.Members {
			if p.DrainsWorker(m.Worker) {
				return m.Worker
			}
		}
	}
	return ""
}

// yieldsFor says what a gang that was asked to yield does it for.
func (d *decider) yieldsFor(h *schemas.Head) string {
	if p := d.v.Policy; p != nil && p.Drain {
		return "because the pool is drained"
	}
	if w := d.drained(h); w != "" {
		return "because worker " + w + " is drained"
	}
	return "to a gang of higher priority, or to a drain"
}

// calm reports whether gang would find nothing to do or to say but that the run trains.
func (d *decider) calm(r *Run) bool {
	h := r.Head
	n := len(h.Members)
	if n == 0 || n != len(h.Seats) || n != r.Held || h.State != schemas.RunRunning || h.Stage == "" || h.Control != schemas.ControlNone || r.Spec.MaxRuntimeS > 0 {
		return false
	}
	if m := h.Manifest; m != nil && m.Final && m.Stage == h.Stage {
		return false
	}
	if e := len(h.Ended) - 1; e >= 0 && h.Ended[e].Step == h.Step && h.Ended[e].Cause != schemas.CauseDone {
		return false
	}
	if p := d.v.Policy; p != nil && p.Drain || d.drained(h) != "" {
		return false
	}
	spec, err := r.Spec.StageOf(h.Stage)
	return err == nil && spec.Train != nil
}

// exhausted reports whether the gang may not be formed again, and the error to fail with: a permanent error or poison at once, otherwise
// Limits.Attempts application errors, or Limits.Losses ends of any kind but preemption, in a row without a step of progress.
func (d *decider) exhausted(h *schemas.Head) (*schemas.ErrorInfo, bool) {
	n, lost := 0, 0
	for i := len(h.Ended) - 1; i >= 0; i-- {
		e := h.Ended[i]
		if e.Cause == schemas.CauseDone || e.Step != h.Step {
			break
		}
		if e.Cause == schemas.CauseInfrastructure {
			if lost++; lost >= d.v.Limits.Losses {
				return schemas.Errorf(schemas.CodeRunFailed, h.Stage, "%d generations were lost without a step of progress", lost).
					WithHint("see the workers' logs: memory, devices and network of the hosts"), true
			}
		}
		if e.Cause != schemas.CauseApplication && e.Cause != schemas.CausePoison {
			continue
		}
		n++
		info := e.Error
		if info == nil {
			info = schemas.Errorf(schemas.CodeInternal, h.Stage, "the gang failed without saying why")
		}
		if info.Permanent || e.Cause == schemas.CausePoison || n >= d.v.Limits.Attempts {
			return info, true
		}
	}
	return nil, false
}

// failures counts the application errors in a row without a step of progress.
func (d *decider) failures(h *schemas.Head) int {
	n := 0
	for i := len(h.Ended) - 1; i >= 0 && h.Ended[i].Step == h.Step && h.Ended[i].Cause != schemas.CauseDone; i-- {
		if h.Ended[i].Cause == schemas.CauseApplication {
			n++
		}
	}
	return n
}

// retryAfter is how long the n-th failure in a row is waited for.
func (l Limits) retryAfter(n int) time.Duration {
	d := l.Retry
	for ; n > 1 && d < l.RetryMost; n-- {
		d *= 2
	}
	return min(d, l.RetryMost)
}

// recovering says how long a gang that failed still waits for its next try, 0 when it may form.
func (d *decider) recovering(r *Run) time.Duration {
	h := r.Head
	if h == nil || len(h.Ended) == 0 {
		return 0
	}
	if e := h.Ended[len(h.Ended)-1]; e.Cause != schemas.CauseApplication || e.Generation != h.Generation || e.Step != h.Step {
		return 0
	}
	return max(0, d.v.Limits.retryAfter(d.failures(h))-r.Failed)
}

// holder is the run that has the turn, nil when it is not open any more.
func (d *decider) holder(t *schemas.Turn) *Run {
	for i := range d.v.Runs {
		if s := d.v.Runs[i].Spec; s.ID == t.Run && s.Tenant == t.Tenant {
			return &d.v.Runs[i]
		}
	}
	return nil
}

// wants returns the train stage that the run wants a turn for: one that lost its generation or seats, else the first ready one.
func wants(r *Run) (stage *schemas.Stage, reform bool) {
	if r.Head != nil && r.Head.Stage != "" {
		if len(r.Head.Members) > 0 {
			return nil, false
		}
		s, err := r.Spec.StageOf(r.Head.Stage)
		if err != nil || s.Train == nil {
			return nil, false
		}
		return s, len(r.Head.Seats) > 0
	}
	var states []schemas.StageState
	if r.Head != nil {
		if r.Head.State != schemas.RunRunning {
			return nil, false
		}
		states = r.Head.Stages
	}
	for s := range schemas.Ready(r.Spec, states) {
		if s.Kind == schemas.KindTrain && s.Train != nil {
			return s, false
		}
	}
	return nil, false
}

// maxAdmit bounds the gangs that one decision starts.
const maxAdmit = 500

// turns is the state of the walk over the gangs that want to form.
type turns struct {
	// taken: the turn is somebody's, of this decision or an earlier one.
	taken bool
	// first is the gang at the head of the line that does not fit, firstMin what it needs.
	first    *Run
	firstMin int
	// admitted counts the gangs started in this decision.
	admitted int
	why      string
}

// turn moves the gang that has the turn, or gives a free turn away: to a gang that must form again before a new one. New gangs for which
// enough workers are idle start beside it: no seat of theirs competes with one of another gang.
func (d *decider) turn(order []*Run) {
	t := d.v.Ledger.Turn
	var holder *Run // has the turn
	if t != nil {
		holder = d.holder(t)
		d.d.Demand += d.forming(t, holder)
	}
	w := &turns{taken: t != nil}
	for _, r := range order {
		if r.mark.busy || r.mark.calm || !r.mark.seated || r == holder {
			continue
		}
		if stage, reform := d.wants(r); stage != nil && reform {
			r.mark.busy = true
			d.reform(r, stage, w)
		}
	}
	for _, r := range d.reservedFirst(order) {
		if r.mark.busy || r.mark.seated || r == holder {
			continue
		}
		if stage, reform := d.wants(r); stage != nil && !reform {
			r.mark.busy = true
			d.fresh(r, stage, w)
		}
	}
	switch {
	case w.first != nil && t == nil:
		d.preempt(w.first, w.firstMin, order)
	case w.first == nil && !w.taken && w.admitted == 0:
		d.grow(order)
	}
	if t != nil {
		d.d.Reason = fmt.Sprintf("forming %s of %s/%s", t.Stage, t.Tenant, t.Run)
	} else {
		d.d.Reason = w.why
	}
}

// reform handles a gang that has seats and no generation, and not the turn.
func (d *decider) reform(r *Run, stage *schemas.Stage, w *turns) {
	switch {
	case r.Head.Generation == 0 && r.Forming < d.v.Limits.Forming/6:
		d.why(r, "%s: forming", stage.Name) // it was started beside others a moment ago, on idle workers
	case w.taken && r.Forming >= d.v.Limits.ReformYield:
		d.act(r, ActGiveBack, Action{Stage: stage.Name, Delete: d.seatMessages(r), Reason: stage.Name + ": yields its seats to the gang that has the turn"})
	case !w.taken:
		d.giveTurn(r, stage, len(r.Head.Seats), true, w)
	default:
		d.why(r, "%s: lost members, waits for the turn", stage.Name)
	}
}

// fresh starts a gang that has no seats, or says what it waits for.
func (d *decider) fresh(r *Run, stage *schemas.Stage, w *turns) {
	if why := d.refused(r); why != "" {
		d.why(r, "%s", why)
		return
	}
	if left := d.recovering(r); left > 0 {
		d.why(r, "waiting: %s failed and is tried again in %s", stage.Name, left.Round(time.Second))
		return
	}
	world := stage.Train.World
	most, why := d.allowance(r, world.Max)
	if most < world.Min {
		d.why(r, "waiting: %s", why)
		return
	}
	d.d.Demand += most
	idle, live := d.available(r.Spec.Priority), d.v.Workers[d.v.Pool].Live
	n := min(most, idle)
	if w.first != nil {
		n = min(n, world.Min)
	}
	// Beside the reservation, with what others hold; or on the workers that it will need, while it has not waited long.
	beside := w.first == nil || d.seats+world.Min <= live-w.firstMin || d.waited(w.first) < d.v.Limits.Reserve
	switch {
	case n >= world.Min && beside && w.admitted < maxAdmit:
		d.start(r, stage, n, w)
		return
	case idle < world.Min:
		if !d.v.Terse {
			d.d.Reasons[name(r)] = d.line(stage.Name, world.Min, max(0, idle), live)
		}
	default:
		d.why(r, "waiting: %s is next in line", stage.Name)
	}
	if w.why == "" {
		w.why = fmt.Sprintf("%s waits for %d workers", name(r), world.Min)
	}
	if w.first == nil && live >= world.Min && idle < world.Min {
		// The first that the pool could serve is a reservation; one that is larger than the pool keeps nobody waiting.
		w.first, w.firstMin = r, world.Min
		d.d.Reserved = name(r)
		d.held = min(d.held, r.Spec.Priority)
	}
}

// line is what many gangs of a size wait for.
func (d *decider) line(stage string, need, idle, live int) string {
	key := stage + "/" + strconv.Itoa(need) + "/" + strconv.Itoa(idle)
	s, ok := d.lines[key]
	if !ok {
		s = fmt.Sprintf("waiting: %s needs %d idle workers of pool %s, %d of %d are idle", stage, need, d.v.Pool, idle, live)
		d.lines[key] = s
	}
	return s
}

// start gives a gang the free turn, or its seats at once.
func (d *decider) start(r *Run, stage *schemas.Stage, n int, w *turns) {
	w.admitted++
	d.seats += n
	a := d.account(r)
	a.devices += n
	if r.Head == nil {
		a.running++
	}
	if !w.taken {
		d.giveTurn(r, stage, n, false, w)
		return
	}
	action := d.seatAction(r, stage.Name, n)
	kind := ActSeats
	if r.Head == nil {
		kind = ActStart
	}
	d.act(r, kind, action)
}

// seatAction issues the first n seats of a gang.
func (d *decider) seatAction(r *Run, stage string, n int) Action {
	a := Action{Stage: stage, Reason: fmt.Sprintf("%s: forming a gang of %d", stage, n)}
	issue := uint64(1)
	if r.Head != nil {
		issue = r.Head.LastIssue + 1
	}
	for seat := range n {
		s := schemas.Seat{Seat: seat, Issue: issue}
		a.Seats = append(a.Seats, s)
		a.Publish = append(a.Publish, seatMessage(r, stage, s))
	}
	return a
}

// preempt asks gangs to yield when that makes room for the gang that waits first: those of lower priority, the lowest and latest first,
// and, once it has waited for Limits.Reserve, those of its own priority that started while it waited.
func (d *decider) preempt(first *Run, need int, order []*Run) {
	need -= d.available(first.Spec.Priority)
	var victims []*Run
	for _, r := range slices.Backward(order) {
		h := r.Head
		if need <= 0 || r.Spec.Priority < first.Spec.Priority {
			break
		}
		if h == nil || h.State != schemas.RunRunning || len(h.Seats) == 0 {
			continue
		}
		if r.Spec.Priority == first.Spec.Priority && !d.backfilled(r, first) {
			continue
		}
		need -= len(h.Seats) // those that yield already are counted, not asked again
		if (h.Control == schemas.ControlNone || h.Control == schemas.ControlRegroup) && !r.mark.busy {
			victims = append(victims, r)
		}
	}
	if need > 0 {
		return
	}
	for _, r := range victims {
		r.mark.busy = true
		d.act(r, ActPreempt, Action{Stage: r.Head.Stage, Reason: fmt.Sprintf("%s: asked to yield to %s", r.Head.Stage, name(first))})
	}
}

// waited is how long a run has been the one that waits first.
func (d *decider) waited(first *Run) time.Duration {
	tenant, id := first.Spec.Tenant, first.Spec.ID
	if n, s := len(tenant), d.v.Reserved; len(s) == n+1+len(id) && s[:n] == tenant && s[n] == '/' && s[n+1:] == id {
		return d.v.ReservedFor
	}
	return 0
}

// reservedFirst moves the run that workers are kept for to the front of its priority: until it starts nobody overtakes it, whatever the
// tenants use meanwhile.
func (d *decider) reservedFirst(order []*Run) []*Run {
	tenant, id, _ := strings.Cut(d.v.Reserved, "/")
	at := slices.IndexFunc(order, func(r *Run) bool { return r.Spec.ID == id && r.Spec.Tenant == tenant })
	if d.v.Reserved == "" || at < 0 {
		return order
	}
	r := order[at]
	to := slices.IndexFunc(order, func(o *Run) bool { return o.Spec.Priority == r.Spec.Priority })
	out := slices.Delete(slices.Clone(order), at, at+1)
	return slices.Insert(out, to, r)
}

// backfilled reports whether a gang started on workers that the waiting one will need, while that one waited, and has waited enough.
func (d *decider) backfilled(r, first *Run) bool {
	waited := d.waited(first)
	if waited < d.v.Limits.Reserve {
		return false
	}
	for _, s := range r.Head.Seats {
		if c, ok := r.Claims[ClaimKey{r.Head.Stage, s.Seat, s.Issue}]; ok && c.Known <= d.now-waited {
			return false
		}
	}
	return true
}

func (d *decider) giveTurn(r *Run, stage *schemas.Stage, seats int, reform bool, w *turns) {
	w.taken = true
	reason := fmt.Sprintf("%s: has the turn for %d seats", stage.Name, seats)
	d.d.Reasons[name(r)] = reason
	d.d.Actions = append(d.d.Actions, Action{
		Kind: ActTurn, Tenant: r.Spec.Tenant, Run: r.Spec.ID, Stage: stage.Name,
		Turn: &schemas.Turn{Tenant: r.Spec.Tenant, Run: r.Spec.ID, Stage: stage.Name, Seats: seats, Reform: reform, Reason: reason},
	})
}

// forming moves the gang that has the turn and returns how many workers it wants beyond the seats it has.
func (d *decider) forming(t *schemas.Turn, r *Run) int {
	end := func(reason string) {
		d.d.Actions = append(d.d.Actions, Action{Kind: ActTurnEnd, Tenant: t.Tenant, Run: t.Run, Stage: t.Stage, Reason: reason})
	}
	if r == nil {
		end("the run has ended")
		return 0
	}
	if r.Head != nil && (r.Head.State != schemas.RunRunning || r.Head.Stage == t.Stage && len(r.Head.Members) > 0) {
		end("the gang has formed or the run does not run")
		return 0
	}
	if r.mark.busy {
		return 0 // its seats change in this decision
	}
	stage, _ := d.wants(r)
	if stage == nil || stage.Name != t.Stage {
		end("the stage does not want the turn any more")
		return 0
	}
	r.mark.busy = true
	w := stage.Train.World
	if r.Head == nil || len(r.Head.Seats) == 0 {
		most, why := d.allowance(r, w.Max)
		if refused := d.refused(r); refused != "" || most < w.Min {
			end(cmp.Or(refused, why))
			return 0
		}
		if d.recovering(r) > 0 {
			end("the gang failed and waits for its next try")
			return 0
		}
		idle := d.available(r.Spec.Priority)
		n := min(most, idle, max(t.Seats, w.Min))
		if n < w.Min {
			end(fmt.Sprintf("%d workers are idle, %d are needed", max(0, idle), w.Min))
			return most
		}
		a := d.account(r)
		a.devices += n
		d.seats += n
		if r.Head == nil {
			a.running++
			d.act(r, ActStart, d.seatAction(r, t.Stage, n))
		} else {
			d.act(r, ActSeats, d.seatAction(r, t.Stage, n))
		}
		return most
	}
	var open []schemas.Seat
	for _, s := range r.Head.Seats {
		if r.Claims[ClaimKey{t.Stage, s.Seat, s.Issue}].Holder == nil {
			open = append(open, s)
		}
	}
	held := len(r.Head.Seats) - len(open)
	d.why(r, "%s: forming, %d of %d seats are held", t.Stage, held, len(r.Head.Seats))
	limit := d.v.Limits.Forming
	switch {
	case d.v.Contact == 0 || r.Forming < limit:
	case held >= w.Min && len(open) > 0:
		a := Action{Stage: t.Stage, Seats: open, Reason: fmt.Sprintf("%s: starts with %d seats", t.Stage, held)}
		for _, s := range open {
			a.Delete = append(a.Delete, seatMessage(r, t.Stage, s))
		}
		d.act(r, ActRetire, a)
	case held < w.Min || r.Forming >= 3*limit:
		d.act(r, ActGiveBack, Action{Stage: t.Stage, Delete: d.seatMessages(r), Reason: fmt.Sprintf("%s: %d of %d seats found a holder in %s: all are given back", t.Stage, held, len(r.Head.Seats), r.Forming.Round(1e9))})
		end("the gang did not form in time")
	}
	return 0
}
