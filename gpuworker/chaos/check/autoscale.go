package check

import (
	"cmp"
	"slices"
)

const (
	// seatSettle is how long a worker must have held a seat, and still hold it, for an answer to be wrong that calls it removable, in seconds:
	// its own record in the inventory may be a moment late.
	seatSettle = 1.0
	// demandSettle is how old the runs may be that an answer about demand counts, in seconds.
	demandSettle = 5.0
	// runNeeds is how many workers a run of the suite can use at once.
	runNeeds = 2
)

// autoscale judges what autoscalers were told and what they did: no worker with a seat is called removable, no more workers are asked for
// than the open runs could use, and the cloud's group never has more instances than its maximum.
func (c *checker) autoscale() {
	spans := c.openSpans()
	for _, e := range c.history {
		switch e.Kind {
		case KindCloud:
			c.count("R9")
			if e.Count > e.Limit {
				c.fail("R9", e.Proc, e.At, "%d instances run, the maximum is %d", e.Count, e.Limit)
			}
		case KindDemand:
			c.count("R9")
			open := 0
			for _, s := range spans {
				if s.from <= e.Ended && s.to >= e.At-demandSettle {
					open++
				}
			}
			if e.Count > runNeeds*open {
				c.fail("R9", e.Proc, e.At, "%d workers are asked for, %d open runs can use %d", e.Count, open, runNeeds*open)
			}
			for _, w := range e.Names {
				if run := c.seated(w, e); run != "" {
					c.fail("R9", e.Proc, e.At, "%s is called removable and has a seat of %s", w, run)
				}
			}
		}
	}
}

type span struct{ from, to float64 }

// openSpans says when each run was open: from its first stored object to the deletion of its open object.
func (c *checker) openSpans() []span {
	var out []span
	for _, r := range c.runs {
		s := span{c.opened[r.name].At, 1e18}
		if c.opened[r.name].Key == "" {
			continue
		}
		for _, e := range c.history {
			if e.Kind != KindDelete || e.Told == "error" {
				continue
			}
			if tenant, id, ok := openRun(e.Key); ok && tenant+"/"+id == r.name {
				s.to = e.At
			}
		}
		out = append(out, s)
	}
	return out
}

// seated names the run that a worker has held a seat of for the whole time around an answer, "" when there is none. A worker that was killed
// while HEAD still named it has come back without its seat, and one whose gang has made its last commit has done its part.
func (c *checker) seated(worker string, e Event) string {
	names := sortedKeys(c.runs)
	for _, name := range names {
		r := c.runs[name]
		for i, v := range r.versions {
			h := v.head
			from, to := cmp.Or(v.write.Ended, v.write.At), 1e18
			if i+1 < len(r.versions) {
				to = r.versions[i+1].write.At
			}
			if h.State.Terminal() || h.Manifest != nil && h.Manifest.Final || from > e.Ended+seatSettle || to < e.At-seatSettle {
				continue
			}
			at := -1
			for k := range h.Members {
				if h.Members[k].Worker == worker {
					at = k
				}
			}
			if at < 0 {
				continue
			}
			// How long the worker has been of this generation, and stays.
			first, last := i, i
			same := func(k int) bool {
				o := r.versions[k].head
				return o.Generation == h.Generation && len(o.Members) > at && o.Members[at] == h.Members[at] && (o.Manifest == nil || !o.Manifest.Final) && !o.State.Terminal()
			}
			for first > 0 && same(first-1) {
				first--
			}
			for last+1 < len(r.versions) && same(last+1) {
				last++
			}
			began := cmp.Or(r.versions[first].write.Ended, r.versions[first].write.At)
			ended := 1e18
			if last+1 < len(r.versions) {
				ended = r.versions[last+1].write.At
			}
			if began > e.At-seatSettle || ended < e.Ended+seatSettle {
				continue
			}
			gone := slices.ContainsFunc(c.history, func(k Event) bool {
				return (k.Kind == KindKill || k.Kind == KindFault) && (k.Proc == worker || k.Proc == "rank" || k.Proc == "workers") && k.At >= began && k.At <= e.Ended+seatSettle
			})
			if !gone {
				return name
			}
		}
	}
	return ""
}
