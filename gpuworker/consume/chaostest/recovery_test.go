package chaostest_test

import (
	"log/slog"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease"
)

// newStep waits for a step of a later generation than `generation` that is beyond every step seen before, and returns its step and when
// its event came. seen is the highest step of the generation itself.
func newStep(t *testing.T, s *connect.Services, spec *schemas.RunSpec, generation uint64) (seen, step int64, at time.Time) {
	t.Helper()
	after := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		events, err := s.Leases.Tail(t.Context(), spec.Tenant, spec.ID, after, 500, 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			after = e.ID
			switch {
			case e.Event.Type != schemas.EventStep:
			case e.Event.Generation <= generation:
				seen = max(seen, e.Event.Step)
			case e.Event.Step > seen:
				return seen, e.Event.Step, e.Event.At
			}
		}
	}
	t.Fatalf("no new step after generation %d", generation)
	return 0, 0, time.Time{}
}

// TestRecoveryTimes measures from a fault to the first new step, with a warm worker waiting: SIGTERM, at most 5 s and no step lost; kill -9
// of the only holder of a seat, at most the lease's TTL (10 s in the full test, 2 s here) and 10 s.
func TestRecoveryTimes(t *testing.T) {
	ttl := 2 * time.Second
	if os.Getenv("TUNEFLEET_TEST_FULL") != "" {
		ttl = 10 * time.Second
	}
	for _, c := range []struct {
		name  string
		world int
		fault syscall.Signal
		bound time.Duration
	}{
		{"SIGTERM", 2, syscall.SIGTERM, 5 * time.Second},
		{"kill -9 of one of two", 2, syscall.SIGKILL, ttl + 10*time.Second},
		{"kill -9 of the only member", 1, syscall.SIGKILL, ttl + 10*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			workers := []string{"worker-1", "worker-2"}[:c.world]
			up := time.Now()
			cell, s := cell(t, []string{envTTL + "=" + ttl.String()}, workers...)
			spec := chaostest.Spec(chaostest.Options{Steps: 100_000, CommitEvery: 20, StepDelayMS: 10, World: c.world})
			submit(t, s, spec)
			h := until(t, s, spec, "commit", func(h *schemas.Head) bool { return h.Step >= 40 && len(h.Members) == c.world })
			if err := cell.Start("worker-9"); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
				list, err := s.Leases.Workers(t.Context(), "cpu")
				if err == nil && slices.ContainsFunc(list, func(w lease.Worker) bool { return w.Name == "worker-9" }) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the spare worker does not come up")
				}
			}
			// Control acts on absence after two TTLs of contact with the lease server: a fleet that has just come up takes that longer.
			if c.fault == syscall.SIGKILL {
				time.Sleep(time.Until(up.Add(2*ttl + time.Second)))
			}
			began := time.Now()
			if err := cell.Signal("worker-1", c.fault); err != nil {
				t.Fatal(err)
			}
			seen, step, at := newStep(t, s, spec, h.Generation)
			took := at.Sub(began)
			end := until(t, s, spec, "record of the end", func(h *schemas.Head) bool { return len(h.Ended) > 0 }).Ended[0]
			t.Logf("%s at a TTL of %s: %.2f s to the first new step; %d steps lost", c.name, ttl, took.Seconds(), seen-end.Step)
			if took > c.bound {
				t.Errorf("recovery took %s, at most %s are allowed", took, c.bound)
			}
			if lost := seen - end.Step; c.fault == syscall.SIGTERM && lost != 0 || lost > 2*20 {
				t.Errorf("%d steps were lost (%d was the last seen, %d is committed, %d the first new one)", lost, seen, end.Step, step)
			}
		})
	}
}

// TestYieldedSeatsGoBack: with real servers and processes, a gang that was paused forms again with the workers that it had, though others are
// idle.
func TestYieldedSeatsGoBack(t *testing.T) {
	t.Parallel()
	cell, s := cell(t, append([]string{envHint + "=3s"}, calm...), "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 100_000, CommitEvery: 20, StepDelayMS: 10, World: 2})
	submit(t, s, spec)
	until(t, s, spec, "commit", func(h *schemas.Head) bool { return h.Step >= 20 && len(h.Members) == 2 })
	spare := []string{"worker-3", "worker-4", "worker-5", "worker-6"}
	for _, name := range spare {
		if err := cell.Start(name); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if list, err := s.Leases.Workers(t.Context(), "cpu"); err == nil && len(list) == 2+len(spare) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the spare workers do not come up")
		}
	}
	service := control.NewService(s.Objects, s.Leases, s.Queue, slog.New(slog.DiscardHandler))
	judged := 0
	for round := 0; judged < 3; round++ {
		if round == 10 {
			t.Fatalf("in %d of %d rounds a seat was given out again: this machine is too slow for its leases", round-judged, round)
		}
		if _, err := service.Pause(t.Context(), spec.Tenant, spec.ID); err != nil {
			t.Fatal(err)
		}
		paused := until(t, s, spec, "pause", func(h *schemas.Head) bool { return h.State == schemas.RunPaused })
		if _, err := service.Resume(t.Context(), spec.Tenant, spec.ID); err != nil {
			t.Fatal(err)
		}
		h := until(t, s, spec, "next generation", func(h *schemas.Head) bool { return h.Generation > paused.Generation && len(h.Members) == 2 })
		if h.LastIssue != paused.LastIssue+1 {
			continue // seats of one gang have one issue: one that lost its holder since, as on a machine that stands still, is anybody's
		}
		judged++
		for _, m := range h.Members {
			if slices.Contains(spare, m.Worker) {
				t.Errorf("generation %d has %s, which was not in the gang", h.Generation, m.Worker)
			}
		}
	}
}

// TestCancelStopsWorkersInTime: with real servers and processes, a cancel is final at once, and within 5 s no worker has a seat or a rank
// at work; nothing is committed after it.
func TestCancelStopsWorkersInTime(t *testing.T) {
	t.Parallel()
	_, s := cell(t, calm, "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 100_000, CommitEvery: 20, StepDelayMS: 10, World: 2})
	submit(t, s, spec)
	until(t, s, spec, "commit", func(h *schemas.Head) bool { return h.Step >= 20 && len(h.Members) == 2 })
	service := control.NewService(s.Objects, s.Leases, s.Queue, slog.New(slog.DiscardHandler))
	began := time.Now()
	if _, err := service.Cancel(t.Context(), spec.Tenant, spec.ID, ""); err != nil {
		t.Fatal(err)
	}
	cancelled := until(t, s, spec, "cancelled HEAD", func(h *schemas.Head) bool { return h.State == schemas.RunCancelled })
	for {
		list, err := s.Leases.Workers(t.Context(), "cpu")
		if err == nil && len(list) == 2 && !slices.ContainsFunc(list, func(w lease.Worker) bool { return w.Busy != "" }) {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatalf("%s after the cancel the workers are %+v: %v", time.Since(began), list, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("the workers were free %s after the cancel", time.Since(began))
	if h := until(t, s, spec, "HEAD", func(*schemas.Head) bool { return true }); h.Step != cancelled.Step || h.State != schemas.RunCancelled {
		t.Errorf("HEAD moved on after the cancel: %s, step %d, it was %d", h.State, h.Step, cancelled.Step)
	}
}
