package train

import (
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestLeavingFitsTheTimeLeft: with a notice, a gang commits the step where that fits, else finishes the checkpoint on its way, else goes;
// what it could not store is done again with the same bits.
func TestLeavingFitsTheTimeLeft(t *testing.T) {
	stage := elasticStage("full")
	// Snapshots after steps 10, 20 and 30, whatever is measured.
	stage.Train.Steps, stage.Train.CommitEvery, stage.Train.Features = 30, 14, &schemas.TrainFeatures{OnAnomaly: onRollback}
	undisturbed := newFleet(t, stage)
	want := undisturbed.complete("train", 1).StateHash
	for _, c := range []struct {
		how string
		// at is the step of the notice: the commits before it have told the bandwidth, one may be on its way.
		at   int64
		left time.Duration
		// step is the committed step that the gang leaves behind (0: the step at which it stopped).
		step int64
	}{
		{leaveCommit, 17, 30 * time.Second, 0},
		{leaveInFlight, 23, 880 * time.Millisecond, 20},
		{leaveAtOnce, 18, 120 * time.Millisecond, 10},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			// Slow enough that a busy machine does not change the order of things.
			slow := *stage.Train
			slow.StepDelayMS = 120
			f := newFleet(t, stage)
			f.spec.Stages[0].Train = &slow
			objects := f.objects
			f.objects = &pacedStore{Objects: objects, delay: 360 * time.Millisecond, rate: 1e12}
			stopped := int64(0)
			for rank, err := range f.generation("train", plan{world: 2, control: schemas.ControlPreempt, controlAt: c.at, left: c.left}) {
				if !schemas.IsCode(err, schemas.CodeInterrupted) {
					t.Fatalf("rank %d: %v", rank, err)
				}
			}
			said := ""
			for _, e := range f.events {
				if e.Type == schemas.EventPreempt {
					said, stopped = e.Message, e.Step
				}
			}
			if !strings.HasSuffix(said, c.how) {
				t.Errorf("the gang left so: %q; values %+v", said, f.events[len(f.events)-1].Values)
			}
			if c.step == 0 {
				c.step = stopped
			}
			if got := f.head().Step; got != c.step || stopped < c.at {
				t.Errorf("step %d is committed, stopped at %d, want %d", got, stopped, c.step)
			}
			f.objects, slow.StepDelayMS = objects, 0
			if m := f.complete("train", 3); m.StateHash != want {
				t.Error("weights differ from those of the undisturbed run")
			}
			f.sameCurve(undisturbed.losses())
		})
	}
}

func TestChoice(t *testing.T) {
	for _, c := range []struct {
		l    leaving
		want string
	}{
		{leaving{}, leaveCommit},
		{leaving{need: 100}, leaveCommit},
		{leaving{left: 10, need: 9}, leaveCommit},
		{leaving{left: 10, need: 11}, leaveAtOnce},
		{leaving{left: 10, need: 11, rest: 3}, leaveInFlight},
		{leaving{left: 2, need: 11, rest: 3}, leaveAtOnce},
		// The machine that goes first and the rank that takes longest decide.
		{leaving{need: 1}.with(leaving{left: 5, need: 6}), leaveAtOnce},
		{leaving{left: 9, need: 1}.with(leaving{left: 5, need: 4}).with(leaving{}), leaveCommit},
		{leaving{left: 3, rest: 1, need: 4}.with(leaving{left: 5, rest: 2}), leaveInFlight},
	} {
		if got := c.l.choose(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.l, got, c.want)
		}
	}
	l := leaving{left: 1.5, need: 2.5, rest: 3.5}
	if got := parseLeaving(l.append(nil)); got != l {
		t.Errorf("%+v is read as %+v", l, got)
	}
}
