package check

import (
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// deletes judges that nothing is deleted that is still needed: the open object of a run that has not ended, a part that HEAD names.
func (c *checker) deletes() {
	for _, e := range c.history {
		if e.Kind != KindDelete || e.Told == "error" {
			continue
		}
		switch {
		case strings.HasPrefix(e.Key, "open/"):
			c.count("I1")
			if schemas.IsOpenBatch(e.Key) {
				c.unpacked(e)
				continue
			}
			r := c.runOfOpen(e.Key)
			if r == nil {
				continue
			}
			if !slices.ContainsFunc(r.versions, func(v version) bool { return v.write.At <= e.At && v.head.State.Terminal() }) {
				c.fail("I1", r.name, e.At, "%s deleted the open object of a run that had not ended: nothing would find the run again", e.Proc)
			}
		case strings.HasPrefix(e.Key, "runs/") && strings.Contains(e.Key, "/ckpt/"):
			c.count("I5")
			c.needed(e)
		}
	}
}

// openRun takes the key of an open object apart: open/<pool>/<priority>-<tenant>-<id>.json. A tenant may contain "-", an id does not.
func openRun(key string) (tenant, id string, ok bool) {
	name, ok := strings.CutSuffix(key[strings.LastIndex(key, "/")+1:], ".json")
	f := strings.Split(name, "-")
	if !ok || !strings.HasPrefix(key, "open/") || len(f) < 3 {
		return "", "", false
	}
	return strings.Join(f[1:len(f)-1], "-"), f[len(f)-1], true
}

func (c *checker) runOfOpen(key string) *run {
	tenant, id, _ := openRun(key)
	return c.runs[tenant+"/"+id]
}

// needed judges the deletion of a part: from when HEAD names its checkpoint until two commits later it must stay.
func (c *checker) needed(e Event) {
	f := strings.Split(e.Key, "/") // runs/<tenant>/<run>/ckpt/<name>/<part>
	if len(f) != 6 {
		return
	}
	r := c.runs[f[1]+"/"+f[2]]
	if r == nil {
		return
	}
	manifest := strings.Join(f[:5], "/") + "/manifest.json"
	var at *schemas.Head
	for _, v := range r.versions {
		// The version that stood when the deletion was asked for: one whose writing had begun later cannot have been known.
		if v.write.At > e.At {
			break
		}
		at = v.head
	}
	if at == nil {
		return
	}
	refs := []*schemas.ManifestRef{at.Manifest, at.Previous}
	for i := range at.Stages {
		refs = append(refs, at.Stages[i].Manifest)
	}
	if slices.ContainsFunc(refs, func(m *schemas.ManifestRef) bool { return m != nil && m.Key == manifest }) {
		c.fail("I5", r.name, e.At, "%s deleted %s, which HEAD needs", e.Proc, e.Key)
	}
}

// harmless judges windows in which a fault was alone over which no gang may lose its generation: trouble of the lease server (R7), and wall
// clocks that jump (R11).
func (c *checker) harmless() {
	c.alone(rowRedis, "R7", "only the lease server was away")
	c.alone(rowClocks, "R11", "only wall clocks jumped")
}

// Rows of harmless faults.
const (
	rowClocks = 7
	rowRedis  = 16
)

// rowAcks is that of answers to the broker for somebody else's message.
const rowAcks = 14

func (c *checker) alone(row int, rule, what string) {
	type window struct{ from, to float64 }
	var alone []window
	for i, e := range c.history {
		if e.Kind != KindFault || e.Row != row || strings.HasPrefix(e.Fault, OutOfMemory) {
			continue
		}
		w := window{e.At, 0}
		lonely := true
		for _, o := range c.history[:i] {
			disturbs := o.Kind == KindFault || o.Kind == KindHeal || o.Kind == KindKill
			lonely = lonely && (!disturbs || o.At < e.At-settle)
		}
		for _, o := range c.history[i+1:] {
			if o.Kind == KindHeal && o.Row == row {
				w.to = o.At
				break
			}
			if (o.Kind == KindFault || o.Kind == KindKill) && o.Proc != e.Proc {
				lonely = false
				break
			}
		}
		if lonely && w.to > 0 {
			alone = append(alone, w)
		}
	}
	for _, w := range alone {
		for _, r := range c.runs {
			c.unharmed(r, row, w.from, w.to, rule, what)
		}
	}
}

// settle is how long before a harmless fault nothing else may have happened, in seconds.
const settle = 4

func (c *checker) unharmed(r *run, row int, from, to float64, rule, what string) {
	for i := 1; i < len(r.versions); i++ {
		prev, v := r.versions[i-1], r.versions[i]
		if prev.write.At > from || v.write.At < from || len(prev.head.Members) == 0 {
			continue
		}
		if c.maimed(r, prev.head, from) || row == rowRedis && c.robbed(r, prev.head, from) {
			return
		}
		// A gang that stood when the fault began.
		c.count(rule)
		for _, v := range r.versions[i:] {
			if v.write.At > to {
				return
			}
			for _, e := range v.head.Ended {
				if e.Generation == prev.head.Generation && e.Cause == schemas.CauseInfrastructure {
					c.fail(rule, r.name, v.write.At, "generation %d ended though %s", e.Generation, what)
					return
				}
			}
		}
		return
	}
}

// maimed says whether a member of head's gang was killed after the gang had formed and before at: it ends for that, however late it is seen.
func (c *checker) maimed(r *run, head *schemas.Head, at float64) bool {
	formed := slices.IndexFunc(r.versions, func(v version) bool { return v.head.Generation == head.Generation && len(v.head.Members) > 0 })
	if formed < 0 {
		return false
	}
	return slices.ContainsFunc(c.history, func(e Event) bool {
		return e.Kind == KindKill && e.At >= r.versions[formed].write.At && e.At <= at &&
			slices.ContainsFunc(head.Members, func(m schemas.Member) bool { return m.Worker == e.Proc })
	})
}

// robbed says whether the message by which a member of head's gang holds its seat was answered by somebody else between the gang's forming and
// at. It is given out again, and then the lease is all that tells that the seat is taken: with the lease server away too, that is two faults.
func (c *checker) robbed(r *run, head *schemas.Head, at float64) bool {
	formed := slices.IndexFunc(r.versions, func(v version) bool { return v.head.Generation == head.Generation && len(v.head.Members) > 0 })
	if formed < 0 {
		return false
	}
	return slices.ContainsFunc(c.history, func(e Event) bool {
		return e.Kind == KindFault && e.Row == rowAcks && e.At >= r.versions[formed].write.At && e.At <= at && strings.Contains(e.Fault, "."+r.tenant+"."+r.id+".")
	})
}

// cancels judges that a cancel is final.
func (c *checker) cancels() {
	for _, e := range c.history {
		if e.Kind != KindCancelled {
			continue
		}
		c.count("I10")
		name := e.Tenant + "/" + e.Run
		r := c.runs[name]
		if r == nil {
			continue
		}
		if r.final == nil || r.final.State != schemas.RunCancelled {
			c.fail("I10", name, e.At, "the run was cancelled, and is not")
		}
		for _, s := range c.history {
			if s.Kind == KindStep && s.Tenant == e.Tenant && s.Run == e.Run && s.At > e.At+c.limits.Cancel {
				c.fail("I10", name, s.At, "step %d was made %.1f s after the cancel was acknowledged", s.Step, s.At-e.At)
				break
			}
		}
	}
}

// drain judges how long the runs took to end after the last fault.
func (c *checker) drain() {
	quiet := -1.0
	for _, e := range c.history {
		switch e.Kind {
		case KindQuiet:
			quiet = e.At
		case KindDrained:
			c.count("I12")
			if quiet >= 0 && e.At-quiet > c.limits.Drain {
				c.fail("I12", "fleet", e.At, "the fleet took %.0f s to end all runs after the last fault, the bound is %.0f s", e.At-quiet, c.limits.Drain)
			}
		}
	}
}

// timeUse judges the account of a run's time, from its first HEAD to its last, within 0.5 %. (The clock is that of the machines that swap; here
// all are one.)
func (c *checker) timeUse(r *run) {
	if r.final == nil || !r.final.State.Terminal() {
		return
	}
	wall := r.final.Updated.Sub(r.final.Created).Seconds()
	sum := r.final.Time.Open
	for _, s := range r.final.Time.Seconds {
		sum += s
	}
	if sum == 0 && wall < 0.1 {
		return
	}
	c.count("I7")
	if d := sum - wall; d > 0.005*wall+0.01 || d < -0.005*wall-0.01 {
		c.fail("I7", r.name, 0, "the causes add up to %.3f s of a wall time of %.3f s", sum, wall)
	}
}

// leaks passes on what the runner found.
func (c *checker) leaks() {
	for _, e := range c.history {
		if e.Kind != KindLeak {
			continue
		}
		c.count(e.Invariant)
		if e.Note != "" {
			c.fail(e.Invariant, e.Proc, e.At, "%s", e.Note)
		}
	}
}
