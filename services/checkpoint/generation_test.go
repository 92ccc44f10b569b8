package checkpoint_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// TestLateCommitCountsForTheEndedGeneration: a commit that passes after the end was recorded makes the record say how far the generation got.
func TestLateCommitCountsForTheEndedGeneration(t *testing.T) {
	faulty, heads := newRun(t, 1)
	commit(t, heads, 5, 1, 1)
	late := storeParts(t, faulty, 9, 1, 1)
	if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseApplication, schemas.Errorf(schemas.CodeInternal, "", "x")); err != nil {
		t.Fatal(err)
	}
	head, err := heads.Commit(t.Context(), late)
	if err != nil || head.Step != 9 || len(head.Ended) != 1 || head.Ended[0].Step != 9 || head.Ended[0].Cause != schemas.CauseApplication {
		t.Fatalf("HEAD %+v: %v", head, err)
	}
}

// TestFailedGenerationWaitsForControl: after an end by the run's own doing no generation is formed until control has answered; a caller that
// has waited long enough may, and an end of another kind is not waited for.
func TestFailedGenerationWaitsForControl(t *testing.T) {
	for _, cause := range []schemas.Cause{schemas.CauseApplication, schemas.CausePoison, schemas.CauseInfrastructure, schemas.CausePreempted} {
		for _, answer := range []string{"none", "judged", "impatient"} {
			_, heads := newRun(t, 1)
			if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, cause, nil); err != nil {
				t.Fatal(err)
			}
			if answer == "judged" {
				if _, err := heads.Swap(t.Context(), tenant, run, func(h *schemas.Head) error { h.Judged = h.Generation; return nil }); err != nil {
					t.Fatal(err)
				}
			}
			_, err := heads.FormGeneration(t.Context(), tenant, run, stage, checkpoint.Forming{Expect: 1, Members: members(1, 1), Unjudged: answer == "impatient"})
			waits := answer == "none" && (cause == schemas.CauseApplication || cause == schemas.CausePoison)
			if waits != schemas.IsCode(err, schemas.CodeConflict) || !waits && err != nil {
				t.Errorf("%s, %s: %v", cause, answer, err)
			}
		}
	}
}
