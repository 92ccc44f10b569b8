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
)

// cadence says after which steps to commit. Every rank asks it at the same steps and gets the same answer: what depends on measurements
// is rank 0's and comes with the step's report.
type cadence struct {
	// every is the interval in steps while auto is false (as it is for a stage that may roll back: where to must not depend on time), and
	// until the first checkpoint's cost is known.
	every int64
	auto  bool
	// next is the step that rank 0 last named, 0 while it named none.
	next int64

	// What rank 0 measured: seconds of a step, seconds that training waits for a checkpoint, seconds until one is stored and committed.
	step, stall, flight float64
	// life is the mean time between losses of this gang, in seconds.
	life float64
}

func newCadence(t *schemas.TrainStage, head *schemas.Head, world int) *cadence {
	auto := t.CommitAuto && (t.Features == nil || t.Features.OnAnomaly != onRollback)
	return &cadence{every: t.CommitEvery, auto: auto, life: meanLife(head, world)}
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

// interval is the number of steps between commits that costs least: Young's first-order optimum sqrt(2 * cost * time between losses)
// (https://doi.org/10.1145/361147.361115; Daly's higher orders, https://doi.org/10.1016/j.future.2004.11.016, differ where the cost is
// not small against the time between losses), and no shorter than a checkpoint is on its way, since one is on its way at a time.
func (c *cadence) interval() int64 {
	if !c.auto || c.step <= 0 || c.flight <= 0 {
		return c.every
	}
	seconds := max(math.Sqrt(2*c.stall*c.life), c.flight)
	return max(1, int64(math.Ceil(seconds/c.step)))
}

// due reports whether a commit is due after a step, done steps being finished.
func (c *cadence) due(done int64) bool {
	if c.auto && c.next > 0 {
		return done >= c.next
	}
	return done%c.every == 0
}

// committed names the next step to commit after (rank 0), when a snapshot was taken after step done.
func (c *cadence) committed(done int64) {
	if c.auto {
		c.next = done + c.interval()
	}
}
