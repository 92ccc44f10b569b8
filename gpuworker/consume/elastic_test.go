package consume_test

import (
	"context"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/gpuworker/spot"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// TestGangGrows: a gang of one is offered a worker that comes later, commits, and goes on as a gang of two without losing a step.
func TestGangGrows(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 600, CommitEvery: 1000, StepDelayMS: 5})
	spec.Stages[1].Train.World = schemas.World{Min: 1, Max: 2}
	f.submit(spec)
	f.until(spec, "gang of one", func(h *schemas.Head) bool { return len(h.Members) == 1 })
	f.awaitStep(spec, 10)
	f.worker("b", nil, nil)
	grown := f.until(spec, "gang of two", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	if grown.Generation != 2 || grown.Step == 0 || grown.Control != schemas.ControlNone {
		t.Errorf("the grown gang is generation %d from step %d, control %q", grown.Generation, grown.Step, grown.Control)
	}
	h := f.finish(spec, schemas.RunSucceeded)
	l := f.lineage(spec, h)
	if l.Hash != undisturbed(t, spec) || l.Steps != 600 || l.Generations != 2 || l.Commits != 2 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	if e := h.Ended[0]; e.Cause != schemas.CausePreempted || e.Step != grown.Step {
		t.Errorf("the first generation ended as %+v, want preempted at the commit", e)
	}
}

// TestGangIsLeftAlone: where no worker is idle nothing is offered, and the gang is not stopped.
func TestGangIsLeftAlone(t *testing.T) {
	f := newFleet(t)
	f.worker("a", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 300, CommitEvery: 1000, StepDelayMS: 5})
	spec.Stages[1].Train.World = schemas.World{Min: 1, Max: 3}
	spec.Stages[1].Train.Leaves = 3
	f.submit(spec)
	f.until(spec, "gang of one", func(h *schemas.Head) bool { return len(h.Members) == 1 })
	h := f.finish(spec, schemas.RunSucceeded)
	if h.Generation != 1 || len(h.Ended) != 1 {
		t.Fatalf("generation %d, ended %+v", h.Generation, h.Ended)
	}
}

// TestCordonedWorkerGetsNoWork: a worker that the policy names holds what it has and takes nothing new.
func TestCordonedWorkerGetsNoWork(t *testing.T) {
	f := newFleet(t)
	service := control.NewService(f.objects, f.leases, f.work, f.logger)
	version := ""
	cordon := func(worker string) {
		t.Helper()
		var err error
		if _, version, err = service.SetPolicy(t.Context(), &schemas.Policy{Pool: "cpu", Workers: []string{worker}}, version); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(patience)
		for {
			draining := map[string]bool{}
			list, err := f.leases.Workers(t.Context(), "cpu")
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range list {
				draining[w.Name] = w.Draining
			}
			if len(list) == 2 && draining[worker] && !draining[map[string]string{"a": "b", "b": "a"}[worker]] {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("worker %s does not learn of its cordon: %+v", worker, list)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	for _, c := range []struct{ cordoned, works string }{{"b", "a"}, {"a", "b"}} {
		cordon(c.cordoned)
		for range 3 {
			spec := chaostest.Spec(chaostest.Options{Steps: 3, CommitEvery: 3, World: 1})
			f.submit(spec)
			h := f.until(spec, "members", func(h *schemas.Head) bool { return len(h.Members) == 1 || h.State.Terminal() })
			if len(h.Members) == 1 && h.Members[0].Worker != c.works {
				t.Fatalf("%s is cordoned and holds a seat", h.Members[0].Worker)
			}
			f.finish(spec, schemas.RunSucceeded)
		}
	}
}

// notice is a cloud that takes the machine away when it is told to.
type notice chan spot.Notice

func (n notice) Wait(ctx context.Context) (spot.Notice, error) {
	select {
	case x := <-n:
		return x, nil
	case <-ctx.Done():
		return spot.Notice{}, ctx.Err()
	}
}

// TestNoticeCostsNoStep: a worker that hears that its machine goes commits with its gang, gives its seat to another, and ends by itself.
func TestNoticeCostsNoStep(t *testing.T) {
	f := newFleet(t)
	n := make(notice, 1)
	f.worker("a", nil, func(c *consume.Config) { c.Notice = n })
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 80, CommitEvery: 1000, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "generation", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	f.awaitStep(spec, 10)
	f.worker("c", nil, nil)
	n <- spot.Notice{Cloud: spot.AWS, What: "terminate", At: time.Now().Add(time.Minute)}
	h := f.finish(spec, schemas.RunSucceeded)
	l := f.lineage(spec, h)
	if l.Hash != undisturbed(t, spec) || l.Commits != 2 || l.Generations != 2 || h.Ended[0].Cause != schemas.CausePreempted || h.Ended[0].Step == 0 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	list, err := f.leases.Workers(t.Context(), "cpu")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if w.Name == "a" {
			t.Errorf("worker a is still there: %+v", w)
		}
	}
}

// TestDrainedWorkerGivesItsSeatBack: the operator drains one worker of a gang. The gang commits where it is and goes on with another worker,
// without a step lost; the drained one stays, idle, and works again when the drain is taken back.
func TestDrainedWorkerGivesItsSeatBack(t *testing.T) {
	f := newFleet(t)
	service := control.NewService(f.objects, f.leases, f.work, f.logger)
	f.worker("a", nil, nil)
	f.worker("b", nil, nil)
	spec := chaostest.Spec(chaostest.Options{Steps: 1200, CommitEvery: 100000, StepDelayMS: 5})
	f.submit(spec)
	f.until(spec, "generation", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	f.awaitStep(spec, 10)
	f.worker("c", nil, nil)
	_, version, err := service.SetPolicy(t.Context(), &schemas.Policy{Pool: "cpu", DrainedWorkers: []string{"a"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	h := f.until(spec, "a gang without the drained worker", func(h *schemas.Head) bool { return h.Generation > 1 && len(h.Members) == 2 })
	for _, m := range h.Members {
		if m.Worker == "a" {
			t.Errorf("the drained worker is a member: %+v", h.Members)
		}
	}
	if h.Step < 10 || h.Ended[0].Cause != schemas.CausePreempted {
		t.Errorf("committed step %d, ended %+v; want what was done before the drain", h.Step, h.Ended)
	}
	h = f.finish(spec, schemas.RunSucceeded)
	if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Steps != 1200 || l.Generations != 2 {
		t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
	}
	if _, _, err := service.SetPolicy(t.Context(), &schemas.Policy{Pool: "cpu", Workers: []string{"b", "c"}}, version); err != nil {
		t.Fatal(err)
	}
	again := chaostest.Spec(chaostest.Options{Steps: 3, CommitEvery: 3, World: 1})
	f.submit(again)
	if h := f.finish(again, schemas.RunSucceeded); h.Ended == nil {
		t.Errorf("HEAD %+v", h)
	}
}
