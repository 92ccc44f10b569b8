package registry_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/registry"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

func export(run string) (*schemas.RunSpec, *schemas.Head, *schemas.StageResult) {
	spec := &schemas.RunSpec{Tenant: "acme", ID: run, Name: "Contract Review!", Stages: []schemas.Stage{{Name: "export", Kind: schemas.KindExport,
		Export: &schemas.ExportStage{From: "stage:tune", Formats: []string{"peft"}}}}}
	head := &schemas.Head{Stages: []schemas.StageState{{Name: "prep", Result: "r"}, {Name: "tune", Manifest: &schemas.ManifestRef{Key: "m", Step: 9}}, {Name: "export"}}}
	return spec, head, &schemas.StageResult{Stage: "export", Objects: []schemas.Object{{Name: "peft/adapter_config.json", Key: "k"}}}
}

func TestVersionsCountUpOncePerRun(t *testing.T) {
	objects := storetest.NewFaulty(memstore.New())
	r := registry.New(objects)
	objects.Inject(storetest.Rule{Op: "put", Fault: storetest.FailAfter, Err: store.ErrAmbiguous})
	var wg sync.WaitGroup
	for i := range 5 {
		for range 2 {
			wg.Go(func() {
				spec, head, result := export(fmt.Sprint("run0000", i))
				if _, err := r.Register(t.Context(), spec, head, result); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	all, err := r.List(t.Context(), "acme", "contract-review")
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]bool{}
	for i, v := range all {
		if v.Number != i+1 {
			t.Errorf("version %d has number %d", i, v.Number)
		}
		runs[v.Run] = true
	}
	if len(runs) != 5 {
		t.Fatalf("versions %+v", all)
	}
	if l := all[0].Lineage; l.From != "stage:tune" || len(l.Train) != 1 || l.Train[0].Step != 9 || len(l.Results) != 1 {
		t.Fatalf("lineage %+v", l)
	}
}

func TestName(t *testing.T) {
	for label, want := range map[string]string{"Contract Review!": "contract-review", "": "fb", "!!!": "fb", "a_b-C": "a_b-c", "ü": "fb"} {
		if got := registry.Name(label, "fb"); got != want {
			t.Errorf("%q became %q, want %q", label, got, want)
		}
	}
	if got := registry.Name(fmt.Sprintf("%080d", 0), "fb"); len(got) != 63 {
		t.Errorf("got %q", got)
	}
}
