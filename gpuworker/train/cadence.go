package train

import (
	"math"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// priorLife is the mean time between losses that one worker is taken to have before anything is known of it: Spot instances of most
	// classes live longer than a working day.
	priorLife = 8 * time.Hour
	// slowdown is how fast measurements follow what changes.
	slowdown = 0.3
	// leadMargin is by how much longer than the commits before it one is taken to need.
	leadMargin = 1.25
	// holdMost bounds one hold: a cancelled run stops within that time.
	holdMost = 5 * time.Second
)

// cadence says after which steps to commit. Every rank asks it at the same steps and gets the same answer: what depends on measurements
// is rank 0's and comes with the step's report.
//
// commit_every is a promise: a worker that is lost without notice costs at most so many steps. Steps go on while a checkpoint is stored and
// committed, so the snapshot is taken earlier than that by as many steps as the commit needs, which is measured: that costs nothing but some
// more checkpoints, where waiting for each commit would cost training the time of every upload. Where a commit takes longer than it did, or
// longer than commit_every steps, training is held at the last step that may be lost: the promise goes before the time that training waits
// for checkpoints (ADR 0006); commit_auto promises nothing and keeps that time short. One hold is bounded, and none follows one in vain before
// a commit stands: a store that is away stops no training, and the promise is not kept then.
type cadence struct {
	// every is the most steps between commits while auto is false, and until the first checkpoint's cost is known.
	every int64
	auto  bool
	// exact is so for a stage that may roll back: where to must not depend on time.
	exact bool
	// next is the step that rank 0 last named.
	next int64

	// What rank 0 measured: seconds of a step, seconds that training waits for a checkpoint, seconds until one is stored and committed.
	step, stall, flight float64
	// life is the mean time between losses of this gang, in seconds.
	life float64
	// barren: training was held, and no commit has come to stand since.
	barren bool
}

func newCadence(t *schemas.TrainStage, head *schemas.Head, world int) *cadence {
	exact := t.Features != nil && t.Features.OnAnomaly == onRollback
	return &cadence{every: t.CommitEvery, auto: t.CommitAuto && !exact, exact: exact, life: meanLife(head, world)}
}

// meanLife estimates the mean time between losses of a gang of this size: that of a prior loss beside those that the run has seen.
func meanLife(head *schemas.Head, world int) float64 {
	up, lost := priorLife.Seconds()/float64(world), 1.0
	if head != nil {
		for _, cause := range []string{schemas.TimeStep, schemas.TimeEval, schemas.TimeLoad, schemas.TimeCheckpoint, schemas.TimeLost} {
			up += head.Time.Seconds[cause]
		}
		for _, e := range head.Ended {
			if e.Cause == schemas.CauseInfrastructure {
				lost++
			}
		}
	}
	return up / lost
}

// follow mixes a new measurement into a running one.
func follow(old, now float64) float64 {
	if old == 0 {
		return now
	}
	return old + slowdown*(now-old)
}

// observe notes how long a commit took, from its snapshot until it stood; 0 is none. What is known rises at once and falls slowly.
func (c *cadence) observe(flight float64) {
	if flight > 0 {
		c.flight, c.barren = max(flight, follow(c.flight, flight)), false
	}
}

// waited notes that training was held.
func (c *cadence) waited() { c.barren = true }

// allowance is how long training may be held now.
func (c *cadence) allowance() time.Duration {
	if c.auto || c.barren {
		return 0
	}
	return holdMost
}

// interval is the number of steps between commits that costs least: Young's first-order optimum sqrt(2 * cost * time between losses)
// (https://doi.org/10.1145/361147.361115; Daly's higher orders, https://doi.org/10.1016/j.future.2004.11.016, differ where the cost is
// not small against the time between losses), and no shorter than a checkpoint is on its way, since one is on its way at a time.
func (c *cadence) interval() int64 {
	if !c.measured() {
		return max(1, c.every-c.lead())
	}
	seconds := max(math.Sqrt(2*c.stall*c.life), c.flight)
	return max(1, int64(math.Ceil(seconds/c.step)))
}

func (c *cadence) measured() bool { return c.auto && c.step > 0 && c.flight > 0 }

// lead is by how many steps a snapshot is taken before the last step that may be lost: those that are made while it is stored and
// committed. A quarter of the interval is assumed while nothing is known.
func (c *cadence) lead() int64 {
	if c.exact || c.step <= 0 || c.flight <= 0 {
		return (c.every + 3) / 4
	}
	return int64(math.Ceil(leadMargin * c.flight / c.step))
}

// plan names the step to commit after, where the newest snapshot is of step snapped (rank 0).
func (c *cadence) plan(snapped int64) int64 { return snapped + c.interval() }

// due reports whether a commit is due after a step, done steps of total being finished and the newest snapshot being of step snapped. Where
// the last step is committed in time, nothing is before it: it would wait for that.
func (c *cadence) due(done, snapped, total int64) bool {
	if c.exact {
		return done%c.interval() == 0
	}
	return c.next > 0 && done >= c.next && (c.auto || total-snapped > c.every)
}
