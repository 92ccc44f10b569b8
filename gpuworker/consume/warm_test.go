package consume_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// TestSeatsGoBackToWhoHeldThem: a gang that yields and is seated again gets its former workers, whose disks have its parts, though others are
// idle; when one of them is gone, another takes its seat.
func TestSeatsGoBackToWhoHeldThem(t *testing.T) {
	f := newFleet(t)
	stop := map[string]func(){}
	patient := func(c *consume.Config) { c.HintDelay = 2 * time.Second } // the machine may be busy
	for _, name := range []string{"a", "b"} {
		_, stop[name] = f.worker(name, nil, patient)
	}
	service := control.NewService(f.objects, f.leases, f.work, f.logger)
	spec := chaostest.Spec(chaostest.Options{Steps: 3000, CommitEvery: 50, StepDelayMS: 5})
	f.submit(spec)
	h := f.until(spec, "first commit", func(h *schemas.Head) bool { return h.Step >= 50 && len(h.Members) == 2 })
	first := workersOf(h)
	for i := range 8 {
		f.worker(fmt.Sprintf("idle-%d", i), nil, patient)
	}
	committed := h.Step
	cycle := func() *schemas.Head {
		t.Helper()
		f.until(spec, "next commit", func(h *schemas.Head) bool { return h.Step > committed && len(h.Members) == 2 })
		if _, err := service.Pause(t.Context(), spec.Tenant, spec.ID); err != nil {
			t.Fatal(err)
		}
		h := f.until(spec, "pause", func(h *schemas.Head) bool { return h.State == schemas.RunPaused })
		if !slices.Equal(sorted(h.Warm), first) {
			t.Fatalf("HEAD remembers %v, the gang was %v; ended %+v", h.Warm, first, h.Ended)
		}
		before := h.Generation
		committed = h.Step
		if _, err := service.Resume(t.Context(), spec.Tenant, spec.ID); err != nil {
			t.Fatal(err)
		}
		h = f.until(spec, "next generation", func(h *schemas.Head) bool { return h.Generation > before && len(h.Members) == 2 })
		if len(h.Warm) > 0 {
			t.Fatalf("HEAD still remembers %v", h.Warm)
		}
		return h
	}
	for range 3 {
		if got := workersOf(cycle()); !slices.Equal(got, first) {
			t.Fatalf("the gang was formed by %v, it was %v's", got, first)
		}
	}
	if _, err := service.Pause(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	h = f.until(spec, "pause", func(h *schemas.Head) bool { return h.State == schemas.RunPaused })
	before := h.Generation
	stop[first[0]]()
	if _, err := service.Resume(t.Context(), spec.Tenant, spec.ID); err != nil {
		t.Fatal(err)
	}
	h = f.until(spec, "next generation", func(h *schemas.Head) bool { return h.Generation > before && len(h.Members) == 2 })
	if got := workersOf(h); !slices.Contains(got, first[1]) || slices.Contains(got, first[0]) {
		t.Fatalf("the gang was formed by %v after %s left", got, first[0])
	}
	h = f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Steps != 3000 {
		t.Fatalf("lineage %+v", l)
	}
}

func workersOf(h *schemas.Head) []string {
	var out []string
	for _, m := range h.Members {
		out = append(out, m.Worker)
	}
	return sorted(out)
}

func sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return out
}
