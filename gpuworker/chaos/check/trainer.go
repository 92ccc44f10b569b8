package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// What is done to a trainer; the Verb of an event of KindTrainer.
const (
	// TrainerOnce: a number of a gradient is wrong the first time that a step is computed. TrainerAlways: whenever it is. TrainerSkipped: so
	// too, in a stage that skips such steps.
	TrainerOnce    = "once"
	TrainerAlways  = "always"
	TrainerSkipped = "skipped"
	// TrainerRead: a shard of the data is wrong when it is first read. TrainerStored: it is wrong in the store.
	TrainerRead   = "read"
	TrainerStored = "stored"
)

// appAttempts is how often a generation may end for the same cause of the application: the product's default budget.
const appAttempts = 3

// trainer judges what became of faults of the trainer: found, told, bounded, and what came once has changed nothing.
func (c *checker) trainer() {
	for _, e := range c.history {
		if e.Kind != KindTrainer {
			continue
		}
		r := c.runs[e.Tenant+"/"+e.Run]
		if r == nil || r.final == nil || !r.final.State.Terminal() {
			continue // another rule tells
		}
		c.count("R8")
		ends := 0
		for _, g := range r.final.Ended {
			if g.Cause == schemas.CauseApplication || g.Cause == schemas.CausePoison {
				ends++
			}
		}
		switch e.Verb {
		case TrainerOnce, TrainerRead:
			c.trainerOnce(e, r, ends)
		case TrainerSkipped:
			if ends > 0 {
				c.fail("R8", r.name, e.At, "%d generations failed over a step that is to be skipped", ends)
			}
			c.told(e, r, "; skip")
		case TrainerAlways:
			c.refused(e, r, ends, schemas.CodeNumeric, fmt.Sprintf("step %d:", e.Step), 1)
			if at := committed(r.final, e.Stage); at >= e.Step {
				c.fail("R8", r.name, e.At, "step %d is committed, and the gradient of step %d is no number", at, e.Step)
			}
		case TrainerStored:
			c.refused(e, r, ends, schemas.CodeVerify, e.Key, appAttempts)
		}
	}
}

// trainerOnce judges a fault that does not come again.
func (c *checker) trainerOnce(e Event, r *run, ends int) {
	if ends > 0 {
		c.fail("R8", r.name, e.At, "%d generations failed over a fault that does not come again", ends)
	}
	if e.Verb == TrainerOnce {
		c.told(e, r, "gone when computed again")
	}
	twin := c.runs[e.Tenant+"/"+e.Twin]
	if twin == nil || twin.final == nil || twin.final.State != schemas.RunSucceeded || r.final.State != schemas.RunSucceeded {
		return // another rule tells
	}
	mine, err := chaostest.ReadLineage(context.Background(), c.objectsOf(r), r.final, e.Stage)
	if err != nil {
		return // I4
	}
	calm, err := chaostest.ReadLineage(context.Background(), c.objectsOf(twin), twin.final, e.Stage)
	if err != nil {
		return // I4
	}
	c.rep.Hashes++
	if mine.Hash != calm.Hash {
		c.rep.Unequal++
		c.fail("R8", r.name, e.At, "a fault that came once changed the final state: it is %s, that of the same run without it %s", mine.Hash, calm.Hash)
	}
}

// refused judges a run that cannot succeed.
func (c *checker) refused(e Event, r *run, ends int, code schemas.Code, place string, bound int) {
	switch info := r.final.Error; {
	case r.final.State != schemas.RunFailed || info == nil:
		c.fail("R8", r.name, e.At, "the run is %s (%v), and should have failed as %s", r.final.State, info, code)
	case info.Code != code || !strings.Contains(info.Error(), place):
		c.fail("R8", r.name, e.At, "the run failed as %s: %s; it should be %s and name %s", info.Code, info.Error(), code, place)
	}
	if ends < 1 || ends > bound {
		c.fail("R8", r.name, e.At, "%d generations failed over it, the bound is 1 to %d", ends, bound)
	}
}

// told judges that the lineage's log tells of an anomaly of the step.
func (c *checker) told(e Event, r *run, what string) {
	seen := []string{}
	// Pruned commits cannot be walked; where the newest cannot either, I4 tells.
	_ = checkpoint.History(context.Background(), c.objectsOf(r), r.final, nil, func(_ schemas.ManifestRef, ev schemas.Event) error {
		if ev.Type == schemas.EventAnomaly && ev.Step == e.Step {
			seen = append(seen, ev.Message)
		}
		return nil
	})
	for _, m := range seen {
		if strings.Contains(m, what) {
			return
		}
	}
	c.fail("R8", r.name, e.At, "step %d was hurt, and no event says %q: %q", e.Step, what, seen)
}

// objectsOf is a copy of a run's objects.
func (c *checker) objectsOf(r *run) store.Objects {
	objects := memstore.New()
	prefix := schemas.RunPrefix(r.tenant, r.id)
	for k, data := range c.objects {
		if strings.HasPrefix(k, prefix) {
			if _, err := objects.Put(context.Background(), k, data, store.Condition{}); err != nil {
				c.fail("I5", r.name, 0, "cannot copy %s: %v", k, err)
			}
		}
	}
	return objects
}

// committed is the newest committed step of a stage.
func committed(h *schemas.Head, stage string) int64 {
	if st := h.StageByName(stage); st != nil && st.Manifest != nil {
		return st.Manifest.Step
	}
	if h.Stage == stage && h.Manifest != nil {
		return h.Manifest.Step
	}
	return 0
}
