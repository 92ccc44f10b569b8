package consume_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// TestPauseCommitsAndResumeGoesOn pauses a training gang: it commits, gives its workers back to another run, and goes on later with the
// bits of an undisturbed run.
func TestPauseCommitsAndResumeGoesOn(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	service := control.NewService(f.objects, f.leases, f.work, f.logger)
	spec := chaostest.Spec(chaostest.Options{Steps: 120, CommitEvery: 50, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "first commit", func(h *schemas.Head) bool { return h.Step >= 50 })
	if _, err := service.Pause(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	h := f.until(spec, "pause", func(h *schemas.Head) bool { return h.State == schemas.RunPaused })
	if !preempted(h) || h.Step <= 50 {
		t.Fatalf("the gang did not commit before it paused: step %d, ended %+v", h.Step, h.Ended)
	}
	other := chaostest.Spec(chaostest.Options{Steps: 10, CommitEvery: 10, Seed: 9})
	other.Key = "other"
	f.submit(other)
	f.finish(other, schemas.RunSucceeded)
	if _, err := service.Resume(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	h = f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Steps != 120 || l.Generations < 2 {
		t.Fatalf("lineage %+v", l)
	}
}
