package control

import (
	"slices"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestFailedGangHoldsNothingWhileItWaits: a gang that failed by its own doing gives its workers back, waits longer after each failure in a
// row, lets others have the workers meanwhile, and is tried again.
func TestFailedGangHoldsNothingWhileItWaits(t *testing.T) {
	const now = time.Hour
	l := Limits{Attempts: 100}.WithDefaults()
	spec := trainSpec("aaaaaaaa", 1, 2, 2)
	failed := func(n int, seats ...uint64) Run {
		r := gangRun(spec, false, seats...)
		r.Head.Generation, r.Head.Step = uint64(n), 20
		for g := range n {
			r.Head.Ended = append(r.Head.Ended, schemas.GenerationEnd{Generation: uint64(g + 1), Cause: schemas.CauseApplication, Step: 20, Error: &schemas.ErrorInfo{Code: schemas.CodeInternal}})
		}
		return r
	}
	decide := func(runs ...Run) []Kind {
		t.Helper()
		v := viewOf(2, runs...)
		v.Limits = l
		for i := range v.Runs {
			v.Runs[i].CountHeld()
		}
		return kinds(Decide(v, now))
	}
	r := failed(1, 1, 2)
	if !r.Head.Unjudged() {
		t.Fatal("the failure counts as answered")
	}
	if got := decide(r); !slices.Equal(got, []Kind{ActGiveBack}) {
		t.Fatalf("actions %v", got)
	}
	if err := Transition(r.Head, Action{Kind: ActGiveBack, Rev: r.Head.Rev, Stage: "tune"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r.Head.Unjudged() || len(r.Head.Seats) != 0 || len(r.Head.Ended) != 1 {
		t.Fatalf("HEAD %+v", r.Head)
	}
	for n, wait := range map[int]time.Duration{1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 50: 2 * time.Minute} {
		r := failed(n)
		r.Head.Judged = r.Head.Generation
		r.Failed = wait - time.Millisecond
		if got := decide(r); len(got) != 0 {
			t.Errorf("%d failures, %s ago: %v", n, r.Failed, got)
		}
		if got := decide(r, Run{Spec: trainSpec("bbbbbbbb", 1, 2, 2)}); !slices.Contains(got, ActTurn) {
			t.Errorf("another gang does not get the workers: %v", got)
		}
		r.Failed = wait
		if got := decide(r); !slices.Equal(got, []Kind{ActTurn}) {
			t.Errorf("%d failures, %s ago: %v", n, r.Failed, got)
		}
	}
	// Progress, or an end of another kind, is not waited for.
	r = failed(2)
	r.Head.Judged, r.Head.Step = r.Head.Generation, 30
	if got := decide(r); !slices.Equal(got, []Kind{ActTurn}) {
		t.Errorf("after progress: %v", got)
	}
}

// TestFailedPartHoldsNothingWhileItWaits: a failed part has neither message nor worker until it is tried again; one that was lost with its
// host is issued at once.
func TestFailedPartHoldsNothingWhileItWaits(t *testing.T) {
	const now = time.Hour
	for _, c := range []struct {
		name  string
		cause schemas.Cause
		ago   time.Duration
		want  []Kind
	}{
		{"a moment ago", schemas.CauseApplication, 2*time.Second - 1, nil},
		{"a while ago", schemas.CauseApplication, 2 * time.Second, []Kind{ActPartReissue}},
		{"of the host", schemas.CauseInfrastructure, 0, []Kind{ActPartReissue}},
	} {
		r := partsRun("aaaaaaaa", 1, now)
		r.Stages = map[string]StageView{"prep": {Results: map[int]bool{1: true}, Failed: []time.Duration{c.ago},
			Failures: []schemas.Failure{{Part: 0, Issue: 1, Cause: c.cause, Error: schemas.ErrorInfo{Code: schemas.CodeInternal}}}}}
		r.Claims = map[ClaimKey]Claim{{"prep", 0, 1}: {Known: now, Published: 1, WasPublished: true}}
		if got := kinds(Decide(viewOf(2, r), now)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
