package consume_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestCorruptCheckpointFallsBackToItsParent: a part that is damaged or missing is never loaded; the gang goes on from the commit before,
// says so, and ends with the bits of an undisturbed run.
func TestCorruptCheckpointFallsBackToItsParent(t *testing.T) {
	for needed, tries := 0, 0; needed < 2; tries++ {
		missing := needed == 1
		if tries == 10 {
			t.Fatalf("the damaged part was needed %d times of %d", needed, tries)
		}
		f := newFleet(t)
		g, _ := f.worker("a", nil, nil)
		f.worker("b", nil, nil)
		spec := chaostest.Spec(chaostest.Options{Steps: 120, CommitEvery: 20, StepDelayMS: 5})
		f.submit(spec)
		h := f.until(spec, "commits", func(h *schemas.Head) bool { return h.Step >= 40 && h.Previous != nil })
		m, err := checkpoint.ReadManifest(t.Context(), f.objects, *h.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		key := m.Parts[len(m.Parts)-1].Key
		if missing {
			err = f.objects.Delete(t.Context(), key)
		} else {
			var data []byte
			if data, _, err = f.objects.Get(t.Context(), key, 1<<20); err == nil {
				data[len(data)/2] ^= 0x10
				_, err = f.objects.Put(t.Context(), key, data, store.Condition{})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		g.KillNewest()
		g.KillNewest()
		back := f.until(spec, "fall back", func(h *schemas.Head) bool { return h.Generation > 2 && h.Step < m.Step || h.Step > m.Step })
		h = f.finish(spec, schemas.RunSucceeded)
		if back.Step > m.Step {
			continue // the gang had committed again before it was killed: the damaged part was not needed
		}
		needed++
		if l := f.lineage(spec, h); l.Hash != undisturbed(t, spec) || l.Steps != 120 {
			t.Fatalf("lineage %+v; ended %+v", l, h.Ended)
		}
		told := ""
		deadline := time.Now().Add(patience)
		for after := ""; told == "" && time.Now().Before(deadline); {
			events, err := f.leases.Tail(t.Context(), spec.Tenant, spec.ID, after, 100, 100*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				after = e.ID
				if e.Event.Type == schemas.EventFallback {
					told = e.Event.Error.Error()
				}
			}
		}
		if !strings.Contains(told, key) {
			t.Errorf("the event of the fall back says %q, it should name %s", told, key)
		}
	}
}
