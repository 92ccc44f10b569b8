package control

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// account returns what the run's tenant has.
func (d *decider) account(r *Run) *account {
	m := &r.mark
	if m.account == nil {
		tenant := r.Spec.Tenant
		if m.account = d.tenants[tenant]; m.account == nil {
			m.account = &account{quota: d.v.Policy.Of(tenant)}
			d.tenants[tenant] = m.account
		}
	}
	return m.account
}

// lane is the line of one tenant's runs of one priority that want to start something.
type lane struct {
	tenant  string
	account *account
	// virtual is the tenant's virtual time: device-seconds used, and those that its seats and the starts before in this order are charged
	// in advance, divided by its share. The lane with the least is served next (start-time fair queueing, Goyal et al. 1996, with
	// charges in device-seconds).
	virtual, share float64
	runs           []*Run
}

type lanes []*lane

func (l lanes) Len() int { return len(l) }
func (l lanes) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(l[i].virtual, l[j].virtual), cmp.Compare(l[i].tenant, l[j].tenant)) < 0
}
func (l lanes) Swap(i, j int) { l[i], l[j] = l[j], l[i] }
func (l *lanes) Push(x any)   { *l = append(*l, x.(*lane)) }
func (l *lanes) Pop() any {
	old := *l
	last := old[len(old)-1]
	*l = old[:len(old)-1]
	return last
}

// order lists the runs by priority; within one, first those that have a gang, by time of submission, then the others as their tenants'
// virtual times say: O(n log n).
func (d *decider) order() []*Run {
	var classes [4][]*Run
	for i := range d.v.Runs {
		r := &d.v.Runs[i]
		p := min(max(r.Spec.Priority, 0), 3)
		classes[p] = append(classes[p], r)
	}
	out := make([]*Run, 0, len(d.v.Runs))
	for _, runs := range classes {
		out = d.fair(runs, out)
	}
	return out
}

func bySubmission(a, b *Run) int {
	if c := a.Submitted.Compare(b.Submitted); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Spec.Tenant, b.Spec.Tenant), cmp.Compare(a.Spec.ID, b.Spec.ID))
}

func sortRuns(runs []*Run) {
	if !slices.IsSortedFunc(runs, bySubmission) {
		slices.SortFunc(runs, bySubmission)
	}
}

// fair appends runs of one priority in the order in which they are to be served.
func (d *decider) fair(runs []*Run, out []*Run) []*Run {
	var h lanes
	first := len(out)
	quantum := d.v.Limits.Quantum.Seconds()
	for _, r := range runs {
		if r.mark.placed {
			out = append(out, r)
			continue
		}
		a := d.account(r)
		l := a.lane
		if l == nil {
			used := d.v.Ledger.Usage[r.Spec.Tenant] + quantum*float64(a.devices) + a.charged
			l = &lane{tenant: r.Spec.Tenant, account: a, share: a.quota.Share, virtual: used / a.quota.Share}
			a.lane = l
			h = append(h, l)
		}
		l.runs = append(l.runs, r)
	}
	sortRuns(out[first:])
	for _, l := range h {
		sortRuns(l.runs)
		l.account.lane = nil
	}
	heap.Init(&h)
	for len(h) > 0 {
		l := h[0]
		r := l.runs[0]
		out = append(out, r)
		charge := quantum * float64(d.wanted(r))
		l.account.charged += charge
		l.virtual += charge / l.share
		if l.runs = l.runs[1:]; len(l.runs) == 0 {
			heap.Pop(&h)
		} else {
			heap.Fix(&h, 0)
		}
	}
	return out
}

// wanted is the least number of workers that the run's next start takes.
func (d *decider) wanted(r *Run) int {
	if s, _ := d.wants(r); s != nil {
		return max(1, s.Train.World.Min)
	}
	return 1
}

// early handles queued runs that may not start yet or never will; it reports whether nothing is to be done about the run otherwise.
func (d *decider) early(r *Run) bool {
	if r.Head != nil {
		return false
	}
	if !r.Spec.NotBefore.IsZero() && r.Spec.NotBefore.After(d.v.Wall) {
		d.why(r, "waiting until %s", r.Spec.NotBefore.UTC().Format(time.RFC3339))
		return true
	}
	for _, p := range r.Spec.After {
		state := r.Parents[p.Run]
		switch ok, never := p.Met(state); {
		case never:
			d.act(r, ActSkip, Action{Reason: fmt.Sprintf("skipped: run %s, which must succeed first, is %s", p.Run, state)})
			return true
		case !ok:
			d.why(r, "waiting for run %s", p.Run)
			return true
		}
	}
	return false
}

// refused says why the run may not start anything now whatever is free, "" when it may.
func (d *decider) refused(r *Run) string {
	if p := d.v.Policy; p != nil && (p.Cordon || p.Drain) {
		return "waiting: pool " + d.v.Pool + " is cordoned"
	}
	a := d.account(r)
	if r.Head == nil && a.quota.Running > 0 && a.running >= a.quota.Running {
		return fmt.Sprintf("waiting: tenant %s runs %d of at most %d runs", r.Spec.Tenant, a.running, a.quota.Running)
	}
	return ""
}

// allowance is how many seats a gang of the tenant may have beyond those that it has, and why not more.
func (d *decider) allowance(r *Run, most int) (int, string) {
	a, tenant := d.account(r), r.Spec.Tenant
	why := ""
	if q := a.quota.Devices; q > 0 && a.devices+most > q {
		most = max(0, q-a.devices)
		why = fmt.Sprintf("tenant %s has %d of at most %d devices", tenant, a.devices, q)
	}
	if q := a.quota.DeviceHours; q > 0 && d.v.Ledger.Month == month(d.v.Wall) && d.v.Ledger.Spent[tenant] >= q*3600 {
		most, why = 0, fmt.Sprintf("tenant %s has used its %g device-hours of %s", tenant, q, d.v.Ledger.Month)
	}
	return most, why
}

// month is the accounting period of a time.
func month(t time.Time) string { return t.UTC().Format("2006-01") }

// current is the stage that a failure of the whole run is reported for.
func current(h *schemas.Head) string {
	if h.Stage != "" {
		return h.Stage
	}
	for _, want := range []schemas.StagePhase{schemas.StageRunning, schemas.StagePending} {
		for i := range h.Stages {
			if h.Stages[i].State == want {
				return h.Stages[i].Name
			}
		}
	}
	if len(h.Stages) > 0 {
		return h.Stages[0].Name
	}
	return ""
}
