package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxResultBytes bounds a part's result or failure record.
const maxResultBytes = 16 << 20

// openRun is what a pool remembers of one open run. All of it can be rebuilt from the object store.
type openRun struct {
	key string
	// tenant and run are taken from the key.
	tenant, run string
	submitted   time.Time
	spec        *schemas.RunSpec
	head        *schemas.Head
	// readAt is when HEAD was last read (own clock); 0 = never.
	readAt   time.Duration
	claims   map[ClaimKey]*Claim
	failures map[string]seenFailure
	forming  time.Duration
	asked    time.Duration
	growing  time.Duration
	// steady is since when generation has had its members.
	steady     time.Duration
	generation uint64
	// ended is since when the newest end of a generation is known, ends how many there were.
	ended time.Duration
	ends  int
	// pruned is the manifest that the checkpoints were last pruned at, prunedAt when.
	pruned   string
	prunedAt time.Duration
	// parents remembers the runs of spec.After; ended ones are not looked up again, the others at most every parentEvery.
	parents   map[string]schemas.RunState
	parentsAt time.Duration
	reason    string
	// wanted: the spec of a queued run is to be read, because the run is among the next in line.
	wanted bool
	// broken: its HEAD cannot be decoded; nothing is decided about the run until it can.
	broken bool
}

// pool schedules one pool while this replica owns its ledger.
type pool struct {
	c      *Control
	name   string
	keeper *keeper

	runs map[string]*openRun
	// byName finds a run by "tenant/id".
	byName map[string]*openRun
	// policy is the operator's word, read every policyEvery.
	policy   *schemas.Policy
	policyAt time.Duration
	// pruning holds a token while old checkpoints of a run are deleted in the background.
	pruning chan struct{}
	// reserved is the run that workers are kept for, since reservedAt.
	reserved   string
	reservedAt time.Duration
	// batches are the keys of batches of accepted runs, as of the last listing; see unpack. unreadable ones were reported.
	batches    []string
	batchInfo  map[string]store.Info
	unreadable map[string]bool
	// behind: runs that were never read are left for the next tick, which then comes sooner.
	behind bool
	// missed is how soon what a poke may have been about can be looked at, because it was looked at a moment before; 0: nothing was missed.
	missed time.Duration
	// keys are the keys of runs as of the last listing, in the order of lineUp.
	keys []string
	// listedAt and listCost pace the listing of open objects.
	listedAt time.Duration
	listCost time.Duration
	dirty    bool
	cursor   int
	sweptAt  time.Duration

	boot      string
	bootSince time.Duration
	workers   map[string]Workers
	idle      map[string]time.Duration
	usage     map[string]float64
	usageAt   time.Duration
	last      schemas.PoolView
	shown     string
	shownAt   time.Duration
}

func newPool(c *Control, name string) *pool {
	return &pool{c: c, name: name, pruning: make(chan struct{}, 1), runs: map[string]*openRun{}, byName: map[string]*openRun{}, unreadable: map[string]bool{}, dirty: true,
		workers: map[string]Workers{}, idle: map[string]time.Duration{}, usage: map[string]float64{},
		keeper: &keeper{objects: c.objects, pool: name, owner: c.cfg.Name, ttl: c.cfg.LedgerTTL, clock: c.clock}}
}

// forget drops what was remembered: another replica may have changed everything.
func (p *pool) forget() {
	p.runs, p.byName, p.keys = map[string]*openRun{}, map[string]*openRun{}, nil
	p.batches, p.unreadable = nil, map[string]bool{}
	p.policy, p.policyAt = nil, 0
	p.dirty, p.listedAt, p.boot, p.bootSince = true, 0, "", 0
}

// tick looks at the pool once and applies what Decide says. again asks for another tick at once.
func (p *pool) tick(ctx context.Context, poked bool) (again bool, err error) {
	p.missed = 0
	owned, used, err := p.keeper.own(ctx, p.usage)
	if used {
		p.usage = map[string]float64{}
	}
	if !owned {
		p.forget()
		return false, err
	}
	if err := p.list(ctx, poked); err != nil {
		return false, err
	}
	if err := p.refresh(ctx, poked); err != nil {
		return false, err
	}
	if err := p.unpack(ctx); err != nil {
		return false, err
	}
	view, err := p.view(ctx)
	if err != nil {
		return false, err
	}
	now := p.c.clock()
	if p.reserved != "" {
		view.Reserved, view.ReservedFor = p.reserved, now-p.reservedAt
	}
	decision := Decide(view, now)
	if decision.Reserved != p.reserved {
		p.reserved, p.reservedAt = decision.Reserved, now
	}
	p.account(view)
	p.prune(ctx)
	p.publish(ctx, view, decision)
	var errs []error
	for _, a := range decision.Actions {
		if p.c.clock() >= p.keeper.until {
			errs = append(errs, fmt.Errorf("pool %s: the ledger could not be renewed in time", p.name))
			break
		}
		switch err := p.apply(ctx, a); {
		case err == nil:
			again = again || a.Kind != ActPublish
		case errors.Is(err, errStale):
			p.c.log.Debug("decision is stale", "pool", p.name, "action", a.Kind, "run", a.Run, "error", err)
		default:
			errs = append(errs, fmt.Errorf("cannot apply %s to %s/%s: %w", a.Kind, a.Tenant, a.Run, err))
		}
	}
	return again, errors.Join(errs...)
}

// list brings the set of open runs up to date.
func (p *pool) list(ctx context.Context, poked bool) error {
	now := p.c.clock()
	pause := max(p.c.cfg.Interval, 20*p.listCost)
	if !p.dirty && now-p.listedAt < pause && (!poked || now-p.listedAt < pause/10) {
		if poked {
			p.miss(p.listedAt + pause/10 - now)
		}
		return nil
	}
	seen := map[string]bool{}
	p.batches, p.batchInfo = nil, map[string]store.Info{}
	for info, err := range p.c.objects.List(ctx, schemas.OpenPrefix(p.name)) {
		if err != nil {
			return fmt.Errorf("cannot list open runs of pool %s: %w", p.name, err)
		}
		if schemas.IsOpenBatch(info.Key) {
			if !p.unreadable[info.Key] {
				p.batches = append(p.batches, info.Key)
				p.batchInfo[info.Key] = info
			}
			continue
		}
		seen[info.Key] = true
		p.know(info.Key, info.Modified)
	}
	for key, r := range p.runs {
		if !seen[key] {
			delete(p.runs, key)
			delete(p.byName, r.tenant+"/"+r.run)
		}
	}
	p.keys = lineUp(p.runs)
	p.listedAt, p.listCost, p.dirty = p.c.clock(), listingCost(p.c.clock()-now, len(p.keys)), false
	return nil
}

// miss notes that a poke's tick left out what was read or listed a moment before: it may have changed since.
func (p *pool) miss(left time.Duration) { p.missed = max(p.missed, left) }

// know adds an open run that is not known yet.
func (p *pool) know(key string, submitted time.Time) {
	tenant, run, ok := parseOpen(key)
	if !ok || p.runs[key] != nil {
		return // nothing of ours, or nothing new
	}
	r := &openRun{key: key, tenant: tenant, run: run, submitted: submitted, claims: map[ClaimKey]*Claim{}, failures: map[string]seenFailure{}}
	p.runs[key], p.byName[tenant+"/"+run] = r, r
}

// lineUp lists the keys of runs priority by priority, within one the first run of each tenant, then the second of each, and so on: about the
// order in which they start. Read in this order, those that come next are the first to be known, and no spec is read of one that turns out to
// come later.
func lineUp(runs map[string]*openRun) []string {
	type class struct {
		priority int
		tenant   string
	}
	type place struct{ priority, round int }
	next, at := map[class]int{}, make(map[string]place, len(runs))
	out := slices.Sorted(maps.Keys(runs))
	for _, key := range out {
		c := class{openPriority(key), runs[key].tenant}
		at[key] = place{c.priority, next[c]}
		next[c]++
	}
	slices.SortStableFunc(out, func(a, b string) int {
		x, y := at[a], at[b]
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(x.round, y.round))
	})
	return out
}

// listingCost is what a listing that took so long counts for: no more than its keys explain. The time that a store was away is not the
// listing's; were it counted, new runs would not be looked for until many times the outage had passed.
func listingCost(took time.Duration, keys int) time.Duration {
	return min(took, 50*time.Millisecond+time.Duration(keys)*100*time.Microsecond)
}

// view builds what Decide looks at: leases first, then results, so that a lease that is gone because its work is done comes with the
// result.
func (p *pool) view(ctx context.Context) (*View, error) {
	now := p.c.clock()
	v := &View{Pool: p.name, Limits: p.c.cfg.Limits, Ledger: p.keeper.cur, Policy: p.policy, Wall: store.Now(p.c.objects), Workers: map[string]Workers{}}
	v.Contact = p.contact(ctx, now)
	pools := map[string]bool{p.name: true}
	runs := p.window(v.Wall)
	for _, r := range runs {
		pools[auxPool(r.spec)] = true
	}
	for name := range pools {
		w, err := p.countWorkers(ctx, name)
		if err != nil {
			v.Contact, p.bootSince = 0, 0
		}
		if p.idle[name] = since(p.idle[name], w.Live > w.Busy, now); p.idle[name] > 0 {
			w.Idle = now - p.idle[name]
		}
		v.Workers[name] = w
	}
	p.workers = v.Workers
	holders, err := p.holders(ctx, runs)
	if err != nil {
		v.Contact, p.bootSince = 0, 0
	}
	for _, r := range runs {
		run := Run{Spec: r.spec, Head: r.head, Submitted: r.submitted, Claims: map[ClaimKey]Claim{}, Stages: map[string]StageView{}}
		if err := p.observe(ctx, r, &run); err != nil {
			return nil, err
		}
		p.claims(r, &run, holders, now)
		run.CountHeld()
		p.ages(r, &run, v, now)
		v.Runs = append(v.Runs, run)
	}
	return v, nil
}

// ages tells how long each condition of the run has held.
func (p *pool) ages(r *openRun, run *Run, v *View, now time.Duration) {
	h := r.head
	seats, members := 0, 0
	if h != nil {
		seats, members = len(h.Seats), len(h.Members)
		run.Age = max(0, v.Wall.Sub(h.Created))
	}
	if h != nil && h.Generation != r.generation {
		r.generation, r.steady = h.Generation, 0
	}
	if h != nil && len(h.Ended) != r.ends {
		r.ends, r.ended = len(h.Ended), now
	}
	run.Failed = now - r.ended
	r.forming = since(r.forming, seats > 0 && members == 0 && v.Contact > 0, now)
	r.asked = since(r.asked, h != nil && h.Control != schemas.ControlNone, now)
	r.steady = since(r.steady, members > 0, now)
	r.growing = since(r.growing, members > 0 && seats > members, now)
	for _, x := range []struct {
		at  time.Duration
		out *time.Duration
	}{{r.forming, &run.Forming}, {r.asked, &run.Asked}, {r.steady, &run.Steady}, {r.growing, &run.Growing}} {
		if x.at > 0 {
			*x.out = now - x.at
		}
	}
	run.Parents = r.parents
}

// since keeps the time at which a condition began to hold, 0 while it does not.
func since(at time.Duration, holds bool, now time.Duration) time.Duration {
	switch {
	case !holds:
		return 0
	case at == 0:
		return max(now, 1)
	}
	return at
}

// contact says how long the lease server has been in reach with the same boot id.
func (p *pool) contact(ctx context.Context, now time.Duration) time.Duration {
	ctx, cancel := p.brief(ctx)
	defer cancel()
	boot, err := p.c.leases.Boot(ctx)
	if err != nil {
		p.bootSince = 0
		return 0
	}
	if boot != p.boot || p.bootSince == 0 {
		p.boot, p.bootSince = boot, max(now, 1)
		p.shown = "" // what was shown is gone
		for _, r := range p.runs {
			r.reason = ""
		}
	}
	return now - p.bootSince + 1
}

// brief bounds a call to the lease server, which must never cost the ownership of the ledger.
func (p *pool) brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, min(p.c.cfg.LedgerTTL/6, time.Second))
}

func (p *pool) countWorkers(ctx context.Context, name string) (Workers, error) {
	if p.bootSince == 0 {
		return Workers{}, lease.ErrUnavailable
	}
	ctx, cancel := p.brief(ctx)
	defer cancel()
	list, err := p.c.leases.Workers(ctx, name)
	if err != nil {
		return Workers{}, fmt.Errorf("cannot list workers of pool %s: %w", name, err)
	}
	var w Workers
	for _, x := range list {
		if x.Draining || x.Busy == "" && name == p.name && p.policy.Cordons(x.Name) {
			continue
		}
		w.Live++
		if x.Busy != "" {
			w.Busy++
		}
	}
	return w, nil
}

// active lists the seats and parts of a run that want a holder.
func active(r *openRun, stages map[string]StageView) []ClaimKey {
	if r.head == nil || r.head.State != schemas.RunRunning {
		return nil
	}
	var out []ClaimKey
	for _, s := range r.head.Seats {
		out = append(out, ClaimKey{r.head.Stage, s.Seat, s.Issue})
	}
	for i := range r.head.Stages {
		st := &r.head.Stages[i]
		spec, err := r.spec.StageOf(st.Name)
		if err != nil || st.State != schemas.StageRunning || st.Kind == schemas.KindTrain {
			continue
		}
		for _, part := range unfinished(&Run{Spec: r.spec, Stages: stages}, spec) {
			out = append(out, ClaimKey{st.Name, part, st.PartIssue(part)})
		}
	}
	return out
}

func (p *pool) holders(ctx context.Context, runs []*openRun) (map[string]lease.Owner, error) {
	var keys []string
	for _, r := range runs {
		for k := range r.claims {
			if r.head != nil && r.head.State == schemas.RunRunning {
				keys = append(keys, schemas.LeaseKey(r.spec.Tenant, r.spec.ID, k.Stage, k.Index))
			}
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	if p.bootSince == 0 {
		return nil, lease.ErrUnavailable
	}
	ctx, cancel := p.brief(ctx)
	defer cancel()
	slices.Sort(keys)
	keys = slices.Compact(keys)
	h, err := p.c.leases.Holders(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("cannot read leases of pool %s: %w", p.name, err)
	}
	return h, nil
}

// observe lists what the running stages of a run have stored.
func (p *pool) observe(ctx context.Context, r *openRun, run *Run) error {
	if r.head == nil || r.head.State != schemas.RunRunning {
		return nil
	}
	for i := range r.head.Stages {
		st := &r.head.Stages[i]
		if st.State != schemas.StageRunning || st.Kind == schemas.KindTrain {
			continue
		}
		view := StageView{Results: map[int]bool{}}
		prefix := strings.TrimSuffix(schemas.StageResultKey(r.spec.Tenant, r.spec.ID, st.Name), "result.json")
		for info, err := range p.c.objects.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("cannot list results of %s/%s: %w", r.spec.ID, st.Name, err)
			}
			base := strings.TrimPrefix(info.Key, prefix)
			var part, issue int
			if n, _ := fmt.Sscanf(base, "part-%d.json", &part); n == 1 {
				view.Results[part] = true
			} else if n, _ := fmt.Sscanf(base, "fail-%d-%d.json", &part, &issue); n == 2 {
				f, err := p.failure(ctx, r, info.Key)
				if err != nil {
					return fmt.Errorf("cannot read failure record %s: %w", info.Key, err)
				}
				view.Failures = append(view.Failures, f.Failure)
				view.Failed = append(view.Failed, p.c.clock()-f.seen)
			}
		}
		run.Stages[st.Name] = view
	}
	return nil
}

// seenFailure is a failure record and when it was first seen.
type seenFailure struct {
	schemas.Failure
	seen time.Duration
}

func (p *pool) failure(ctx context.Context, r *openRun, key string) (seenFailure, error) {
	if f, ok := r.failures[key]; ok {
		return f, nil
	}
	data, _, err := p.c.objects.Get(ctx, key, maxResultBytes)
	if err != nil {
		return seenFailure{}, err
	}
	f := seenFailure{seen: p.c.clock()}
	if err := json.Unmarshal(data, &f.Failure); err != nil {
		return seenFailure{}, fmt.Errorf("cannot decode %s: %w", key, err)
	}
	r.failures[key] = f
	return f, nil
}

// claims brings the memory of seats and parts up to date and copies it into the view.
func (p *pool) claims(r *openRun, run *Run, holders map[string]lease.Owner, now time.Duration) {
	want := map[ClaimKey]bool{}
	for _, k := range active(r, run.Stages) {
		want[k] = true
		c := r.claims[k]
		if c == nil {
			// Holders were read before this claim was known: its holder is read in the next tick.
			c = &Claim{Known: now}
			r.claims[k] = c
		}
		c.Holder = nil
		if h, ok := holders[schemas.LeaseKey(r.spec.Tenant, r.spec.ID, k.Stage, k.Index)]; ok && h.Issue == k.Issue {
			c.Holder, c.Seen, c.Ever = &h, now, true
		}
		run.Claims[k] = *c
	}
	for k := range r.claims {
		if !want[k] {
			delete(r.claims, k)
		}
	}
}

// account adds the device-seconds of running gangs to their tenants.
func (p *pool) account(v *View) {
	now := p.c.clock()
	dt := (now - p.usageAt).Seconds()
	p.usageAt = now
	if dt <= 0 || dt > 60 {
		return
	}
	for i := range v.Runs {
		if h := v.Runs[i].Head; h != nil && len(h.Members) > 0 {
			p.usage[h.Tenant] += dt * float64(len(h.Members))
		}
	}
}

// publish shows people and autoscalers what was decided, best effort and only when it changed.
func (p *pool) publish(ctx context.Context, v *View, d Decision) {
	defer func() { p.c.record(ctx, p.last) }()
	ctx, cancel := p.brief(ctx)
	defer cancel()
	for _, r := range p.runs {
		if r.spec == nil || p.bootSince == 0 {
			continue
		}
		of := schemas.RunQueued
		if r.head != nil {
			of = r.head.State
		}
		if why := d.Reasons[r.spec.Tenant+"/"+r.spec.ID]; why != "" && string(of)+why != r.reason {
			if p.c.leases.SetProgress(ctx, r.spec.Tenant, r.spec.ID, map[string]string{"reason": why, "reason_of": string(of)}) == nil {
				r.reason = string(of) + why
			}
		}
	}
	view := schemas.PoolView{Pool: p.name, Owner: p.c.cfg.Name, Turn: v.Ledger.Turn, Workers: v.Workers[p.name].Live, WorkersDemanded: d.Demand, Reason: d.Reason}
	for _, r := range p.runs { // all of them: a view holds those that come first
		if r.head == nil {
			view.Queued++
		} else if r.head.State == schemas.RunRunning {
			view.Running++
		}
	}
	p.last = view
	data, err := json.Marshal(view)
	cordoned, cerr := json.Marshal(p.policy.Cordoned())
	state := string(data) + string(cordoned)
	if err != nil || cerr != nil || p.bootSince == 0 || state == p.shown && p.c.clock()-p.shownAt < 10*time.Second {
		return
	}
	if p.c.leases.SetProgress(ctx, schemas.PoolTenant, p.name, map[string]string{"view": string(data), "cordoned": string(cordoned)}) == nil {
		p.shown, p.shownAt = state, p.c.clock()
	}
}

// parallel calls fn for each item on up to n goroutines and joins the errors.
func parallel[T any](ctx context.Context, n int, items []T, fn func(context.Context, T) error) error {
	if len(items) == 0 {
		return nil
	}
	work := make(chan T)
	errs := make([]error, min(n, len(items)))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for it := range work {
				if err := fn(ctx, it); err != nil {
					errs[i] = errors.Join(errs[i], err)
				}
			}
		})
	}
	for _, it := range items {
		work <- it
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}
