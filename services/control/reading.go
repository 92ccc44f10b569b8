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
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Bounds of the reading of one pool (see pacer for those of all). Of the GETs of one tick at most maxReads are for runs read for the first
// time and maxRechecks for queued and paused ones looked at again. A decision considers maxQueued queued runs that may start and maxBlocked
// that may not yet.
const (
	maxReads    = 200
	maxRechecks = 20
	// fewRechecks bounds looking again at paused runs while others wait to be read for the first time and nobody says that one changed. Queued
	// ones are then not looked at again at all: the start of a run is a write that fails where HEAD is there.
	fewRechecks = 2
	readers     = 32 // GETs at a time
	maxQueued   = 2000
	maxBlocked  = 500
	// aheadWhileBehind bounds the specs that are read in advance while runs are unread, beside two for each worker: who comes first is not
	// known before all are (some have started, policies and usage differ), and what turns out to come later was read for nothing.
	aheadWhileBehind = 200

	// rereadAfter is the least time between two readings of one run, so that a few runs that change do not use up what all may read.
	rereadAfter = 50 * time.Millisecond

	policyEvery = 2 * time.Second
	parentEvery = 2 * time.Second
)

// refresh reads HEADs, and the specs that are needed: first of runs that are about to change (forming, asked to stop), then of runs never
// read, then of those that run, the one read longest ago first, and of queued and paused ones in turns.
func (p *pool) refresh(ctx context.Context, poked bool) error {
	now := p.c.clock()
	if now-p.sweptAt >= p.c.cfg.SweepEvery {
		p.sweptAt = now
		for _, r := range p.runs {
			r.readAt = 0
		}
	}
	if err := p.readPolicy(ctx, now); err != nil {
		return err
	}
	pause := 2 * time.Second
	if poked {
		pause = 50 * time.Millisecond
	}
	var hot, fresh, running []*openRun
	// Those of the first priorities, and of each tenant its first, are known first.
	more := false
	for _, key := range p.keys {
		if r := p.runs[key]; r != nil && (r.readAt == 0 || r.wanted && r.spec == nil) {
			if more = len(fresh) == maxReads; more {
				break
			}
			fresh = append(fresh, r)
		}
	}
	again, from, least := maxRechecks, p.cursor, rereadAfter
	first := more && !poked
	if first { // ticks come as fast as the store may be read; what is known is looked at no oftener than at other times
		again, least = fewRechecks, max(least, p.c.cfg.Interval)
	}
	for i := range p.keys {
		n := (i + from) % len(p.keys) // each once: the cursor moves meanwhile
		r := p.runs[p.keys[n]]
		switch {
		case r == nil: // closed since the listing
		case r.readAt == 0 || r.wanted && r.spec == nil: // in fresh, now or later
		case now-r.readAt < least:
			if poked {
				p.miss(r.readAt + least - now)
			}
		case r.head != nil && r.head.State != schemas.RunPaused:
			if len(r.head.Seats) != len(r.head.Members) || r.head.Control != schemas.ControlNone {
				hot = append(hot, r)
			} else {
				running = append(running, r)
			}
		case first && r.head == nil:
		case now-r.readAt < pause:
		default:
			if again--; again < 0 {
				continue
			}
			if again == 0 {
				p.cursor = n
			}
			running = append(running, r)
		}
	}
	slices.SortStableFunc(running, func(a, b *openRun) int { return cmp.Compare(a.readAt, b.readAt) })
	p.behind = more
	var late atomic.Bool
	for i, runs := range [][]*openRun{hot, fresh, running} {
		err := parallel(ctx, readers, runs, func(ctx context.Context, r *openRun) error {
			done, err := p.read(ctx, r, now)
			if !done && i < 2 {
				late.Store(true)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	p.behind = p.behind || late.Load()
	return p.readParents(ctx, now)
}

// read brings one run up to date: HEAD, and the spec of a run that has one or is wanted. done is false when it must wait for its turn. A run
// that is known to be queued and is only wanted has its spec read alone: should HEAD be there by now, its start fails and shows it.
func (p *pool) read(ctx context.Context, r *openRun, now time.Duration) (done bool, err error) {
	if r.readAt > 0 && r.wanted && r.spec == nil && r.head == nil && !r.broken {
		if !p.c.pace.take(1, true) {
			return false, nil
		}
		return true, p.readSpec(ctx, r)
	}
	// A few runs more whose HEAD turns out to be there cost a second GET; the pacer counts it.
	withSpec := r.spec == nil && (r.head != nil || r.wanted || len(p.runs) <= maxQueued)
	cost := 1
	if withSpec {
		cost++
	}
	if !p.c.pace.take(cost, r.readAt == 0 || withSpec) {
		return false, nil
	}
	head, _, err := p.c.paced.Read(ctx, r.tenant, r.run)
	r.broken = false
	switch {
	case errors.Is(err, store.ErrNotFound):
	case errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil:
		return true, err
	case err != nil:
		p.c.log.Error("HEAD cannot be read", "tenant", r.tenant, "run", r.run, "error", err)
		r.broken = true
	default:
		if r.head == nil || r.head.Rev <= head.Rev {
			r.head = head
		}
	}
	if r.spec == nil && (withSpec || r.head != nil) {
		if !withSpec {
			p.c.pace.spend()
		}
		if err := p.readSpec(ctx, r); err != nil {
			return true, err
		}
	}
	r.readAt = max(now, 1)
	return true, nil
}

func (p *pool) readSpec(ctx context.Context, r *openRun) error {
	data, _, err := p.c.paced.Objects().Get(ctx, r.key, schemas.MaxSpecBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil // closed since the listing
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", r.key, err)
	}
	spec, err := schemas.DecodeSpec(data)
	if err == nil && (spec.Tenant != r.tenant || spec.ID != r.run) {
		err = fmt.Errorf("it is the spec of %s/%s", spec.Tenant, spec.ID)
	}
	if err != nil {
		p.c.log.Error("an open object is no spec of its run", "key", r.key, "error", err)
		r.broken = true
		return nil
	}
	r.spec = spec
	return nil
}

// window lists the runs that the next decision considers: all that have started, and of the queued ones the first of each tenant, then the
// second of each, and so on, priority by priority. The specs of those that come next and are not known are asked for.
func (p *pool) window(wall time.Time) []*openRun {
	var out []*openRun
	var classes [4]map[string][]*openRun
	blocked := 0
	for _, key := range p.keys {
		r := p.runs[key]
		if r == nil || r.readAt == 0 || r.broken {
			continue
		}
		switch {
		case r.head != nil:
			if r.spec != nil {
				out = append(out, r)
			}
		case r.spec != nil && waits(r, wall):
			if blocked++; blocked <= maxBlocked {
				out = append(out, r)
			}
		default:
			c := min(max(openPriority(key), 0), 3)
			if classes[c] == nil {
				classes[c] = map[string][]*openRun{}
			}
			classes[c][r.tenant] = append(classes[c][r.tenant], r)
		}
	}
	left, ahead := maxQueued, maxQueued
	if p.behind {
		ahead = min(maxQueued, aheadWhileBehind+2*p.workers[p.name].Live)
	}
	for _, class := range classes {
		tenants := slices.Sorted(maps.Keys(class))
		for round := 0; left > 0 && len(tenants) > 0; round++ {
			tenants = slices.DeleteFunc(tenants, func(t string) bool { return round >= len(class[t]) })
			for _, t := range tenants[:min(len(tenants), left)] {
				left--
				if r := class[t][round]; r.spec != nil {
					out = append(out, r)
				} else if maxQueued-left <= ahead {
					r.wanted = true
				}
			}
		}
	}
	return out
}

// waits reports whether a queued run has a start condition that is not fulfilled as far as is known.
func waits(r *openRun, wall time.Time) bool {
	if r.spec.NotBefore.After(wall) {
		return true
	}
	return slices.ContainsFunc(r.spec.After, func(d schemas.Dependency) bool {
		ok, never := d.Met(r.parents[d.Run])
		return !ok && !never
	})
}

// openPriority is the priority in the key of an open object.
func openPriority(key string) int {
	if i := strings.LastIndexByte(key, '/'); i+1 < len(key) {
		return int(key[i+1] - '0')
	}
	return 3
}

// readPolicy reads the operator's word. A policy that cannot be decoded is reported and changes nothing.
func (p *pool) readPolicy(ctx context.Context, now time.Duration) error {
	if p.policyAt > 0 && now-p.policyAt < policyEvery {
		return nil
	}
	policy, _, err := readPolicy(ctx, p.c.objects, p.name)
	switch {
	case errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil:
		return err
	case err != nil:
		p.c.log.Error("the policy cannot be read", "pool", p.name, "error", err)
	default:
		p.policy = policy
	}
	p.policyAt = max(now, 1)
	return nil
}

// maxPolicyBytes bounds a policy.
const maxPolicyBytes = 16 << 20

// readPolicy returns a pool's policy, nil when it has none, and the ETag for the next swap.
func readPolicy(ctx context.Context, objects store.Objects, pool string) (*schemas.Policy, string, error) {
	data, info, err := objects.Get(ctx, schemas.PolicyKey(pool), maxPolicyBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the policy of pool %s: %w", pool, err)
	}
	var out schemas.Policy
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, "", fmt.Errorf("cannot decode the policy of pool %s: %w", pool, err)
	}
	return &out, info.ETag, out.Validate()
}

// readParents looks up the runs that queued ones wait for, as far as the budget goes.
func (p *pool) readParents(ctx context.Context, now time.Duration) error {
	var due []*openRun
	for _, r := range p.runs {
		if r.spec == nil || r.head != nil || len(r.spec.After) == 0 || r.parentsAt > 0 && now-r.parentsAt < parentEvery {
			continue
		}
		due = append(due, r)
	}
	slices.SortFunc(due, func(a, b *openRun) int {
		return cmp.Or(cmp.Compare(a.parentsAt, b.parentsAt), cmp.Compare(a.key, b.key))
	})
	for _, r := range due {
		known := maps.Clone(r.parents)
		for _, d := range r.spec.After {
			if known[d.Run].Terminal() {
				continue
			}
			if !p.c.pace.take(1, false) {
				return nil
			}
			head, _, err := p.c.paced.Read(ctx, r.tenant, d.Run)
			switch {
			case errors.Is(err, store.ErrNotFound):
				continue
			case err != nil:
				return fmt.Errorf("cannot read HEAD of run %s, which run %s waits for: %w", d.Run, r.run, err)
			}
			if known == nil {
				known = map[string]schemas.RunState{}
			}
			known[d.Run] = head.State
		}
		// A new map: the view of an earlier decision keeps its own.
		r.parents, r.parentsAt = known, max(now, 1)
	}
	return nil
}
