package consume_test

import (
	"context"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestAFailedParentSkipsItsChildren: runs that wait for one that fails end as skipped with the cause, and those that wait for them; one that
// waits for its end, however it ends, runs.
func TestAFailedParentSkipsItsChildren(t *testing.T) {
	const broken = 666
	f := newFleet(t)
	handlers := chaostest.Handlers()
	train := handlers[schemas.KindTrain]
	handlers[schemas.KindTrain] = func(ctx context.Context, task *consume.Task) error {
		if task.Spec.Seed == broken {
			return schemas.Errorf(schemas.CodeNumeric, "step 7", "the loss is NaN")
		}
		return train(ctx, task)
	}
	f.worker("a", handlers, nil)
	run := func(key string, seed uint64, after ...schemas.Dependency) *schemas.RunSpec {
		spec := chaostest.Spec(chaostest.Options{Steps: 5, CommitEvery: 5, World: 1, Seed: seed})
		spec.Key, spec.After = key, after
		f.submit(spec)
		return spec
	}
	parent := run("parent", broken)
	child := run("child", 1, schemas.Dependency{Run: parent.ID})
	grandchild := run("grandchild", 2, schemas.Dependency{Run: child.ID})
	anyway := run("anyway", 3, schemas.Dependency{Run: parent.ID, On: "any"})
	f.finish(parent, schemas.RunFailed)
	for spec, cause := range map[*schemas.RunSpec]string{child: parent.ID + ", which must succeed first, is failed", grandchild: child.ID + ", which must succeed first, is skipped"} {
		h := f.finish(spec, schemas.RunSkipped)
		if !strings.Contains(h.Reason, cause) {
			t.Errorf("the reason of %s is %q, want one with %q", spec.Key, h.Reason, cause)
		}
		for _, st := range h.Stages {
			if st.State != schemas.StageSkipped {
				t.Errorf("stage %s of %s is %s", st.Name, spec.Key, st.State)
			}
		}
	}
	f.finish(anyway, schemas.RunSucceeded)
}
