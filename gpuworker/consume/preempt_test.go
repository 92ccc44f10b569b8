package consume_test

import (
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestHigherPriorityPreemptsAtTheNextCommit: a run of higher priority gets the workers of a running gang, which commits first and goes on
// afterwards with the bits of an undisturbed run.
func TestHigherPriorityPreemptsAtTheNextCommit(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	f.worker("c", nil, nil) // prepares the data of the second run
	low := chaostest.Spec(chaostest.Options{Steps: 600, CommitEvery: 50, StepDelayMS: 5})
	low.Priority = 3
	f.submit(low)
	f.until(low, "first commit", func(h *schemas.Head) bool { return h.Step >= 50 })
	high := chaostest.Spec(chaostest.Options{Steps: 20, CommitEvery: 10, Seed: 9})
	high.Key, high.Priority = "high", 0
	f.submit(high)
	f.finish(high, schemas.RunSucceeded)
	h, _, err := f.heads.Read(t.Context(), low.Tenant, low.ID)
	if err != nil || h.State != schemas.RunRunning || !preempted(h) || h.Step <= 50 || h.Step >= 600 {
		t.Fatalf("HEAD of the preempted run %+v: %v", h, err)
	}
	h = f.finish(low, schemas.RunSucceeded)
	if l := f.lineage(low, h); l.Hash != undisturbed(t, low) || l.Steps != 600 || l.Generations < 2 {
		t.Fatalf("lineage %+v", l)
	}
}

func preempted(h *schemas.Head) bool {
	return slices.ContainsFunc(h.Ended, func(e schemas.GenerationEnd) bool { return e.Cause == schemas.CausePreempted })
}
