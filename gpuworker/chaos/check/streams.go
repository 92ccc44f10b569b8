package check

import (
	"fmt"

	"github.com/tunefleet/tunefleet/schemas"
)

// streams judges what readers of event streams saw across a restart of the API, and what it had resident under streams that nobody reads.
func (c *checker) streams() {
	for _, e := range c.history {
		switch e.Kind {
		case KindMemory:
			c.count("R10")
			if e.Bytes > e.Bound {
				c.fail("R10", e.Proc, e.At, "%d bytes are resident with %d streams, the bound is %d", e.Bytes, e.Count, e.Bound)
			}
			if e.Bytes <= 0 {
				c.fail("R10", e.Proc, e.At, "the process was gone under %d streams", e.Count)
			}
		case KindStream:
			c.count("R10")
			c.seen(e)
		}
	}
}

// seen judges one reader: within a generation each step comes once and in order, a later generation goes on from a commit, and at the end of
// a run that succeeded all steps were seen.
func (c *checker) seen(e Event) {
	var generation uint64
	var step int64
	for _, s := range e.Names {
		var g uint64
		var n int64
		if _, err := fmt.Sscanf(s, "%d:%d", &g, &n); err != nil {
			c.fail("R10", e.Proc, e.At, "%q is no step", s)
			return
		}
		switch {
		case g < generation:
			c.fail("R10", e.Proc, e.At, "generation %d came after generation %d", g, generation)
		case g == generation && n <= step, g > generation && n < 1:
			c.fail("R10", e.Proc, e.At, "step %d of generation %d came after step %d: twice, or out of order", n, g, step)
		case n > step+1:
			c.fail("R10", e.Proc, e.At, "step %d of generation %d came after step %d: %d are missing", n, g, step, n-step-1)
		}
		generation, step = g, n
	}
	r := c.runs[e.Tenant+"/"+e.Run]
	if r == nil || r.final == nil || r.final.State != schemas.RunSucceeded || r.expect.Steps == 0 {
		return
	}
	if step != r.expect.Steps {
		c.fail("R10", e.Proc, e.At, "the last step seen is %d of %d, and the stream has ended", step, r.expect.Steps)
	}
}
