package consume_test

import (
	"math"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// TestGoodputAndBadputAddUpToWallTime: the causes of a run with two kills, a drain and a pause add up to its wall time, as a clock beside
// it measures it, and none of the gang's time is unexplained.
func TestGoodputAndBadputAddUpToWallTime(t *testing.T) {
	f := newFleet(t)
	service := control.NewService(f.objects, f.leases, f.work, f.logger)
	g, _ := f.worker("a", nil, nil)
	_, stopB := f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 500, CommitEvery: 40, StepDelayMS: 5, PrepParts: 2})
	submitted := time.Now()
	f.submit(spec)
	for _, step := range []int64{80, 160} {
		f.until(spec, "commit", func(h *schemas.Head) bool { return h.Step >= step && len(h.Members) == 2 })
		time.Sleep(60 * time.Millisecond) // some steps to lose
		g.KillNewest()
	}
	f.until(spec, "commit", func(h *schemas.Head) bool { return h.Step >= 240 && len(h.Members) == 2 })
	f.worker("c", nil, nil)
	stopB()
	f.until(spec, "commit", func(h *schemas.Head) bool { return h.Step >= 320 && len(h.Members) == 2 })
	if _, err := service.Pause(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	f.until(spec, "pause", func(h *schemas.Head) bool { return h.State == schemas.RunPaused })
	time.Sleep(200 * time.Millisecond)
	live, err := service.Get(t.Context(), spec.Tenant, spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := live.Time.Seconds[schemas.TimePaused]; s < 0.2 || s > 2 {
		t.Errorf("a run paused for 200 ms was paused for %v s: %+v", s, live.Time)
	}
	if _, err := service.Resume(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	h := f.finish(spec, schemas.RunSucceeded)
	wall := time.Since(submitted).Seconds()
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Generations < 4 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	view, err := service.Get(t.Context(), spec.Tenant, spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	got := view.Time
	t.Logf("wall %.3f s, goodput %.1f %%, training %.1f %%: %.3v", got.Wall, 100*got.Goodput, 100*got.Training, got.Seconds)
	sum := 0.0
	for _, s := range got.Seconds {
		sum += s
	}
	// The test looks every 5 ms.
	if math.Abs(sum-wall) > 0.005*wall+0.02 {
		t.Errorf("the causes add up to %.3f s, the wall time is %.3f s", sum, wall)
	}
	if other := got.Seconds[schemas.TimeOther] + got.Seconds[schemas.TimeUncommitted]; other > 0.005*got.Wall {
		t.Errorf("%.3f s of %.3f s are unexplained", other, got.Wall)
	}
	if s := got.Seconds[schemas.TimeStep]; s < 500*0.005 || s > wall {
		t.Errorf("500 steps of at least 5 ms took %.3f s", s)
	}
	for _, cause := range []string{schemas.TimePrep, schemas.TimeLost, schemas.TimeRegroup, schemas.TimeStart, schemas.TimeCheckpoint, schemas.TimePaused} {
		if got.Seconds[cause] <= 0 {
			t.Errorf("nothing was %s: %+v", cause, got.Seconds)
		}
	}
}
