package partresult_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/partresult"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

func task(objects store.Objects) *consume.Task {
	return &consume.Task{Message: schemas.Message{Version: 1, Kind: schemas.KindExport, Tenant: "acme", Run: "r1", Stage: "out", Part: 0, Parts: 1},
		Objects: objects, Logger: slog.New(slog.DiscardHandler), Worker: "w"}
}

func TestAResultNamesWhatWasStored(t *testing.T) {
	objects := memstore.New()
	tk := task(objects)
	w := partresult.New(tk)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, "sub", "a.txt"), []byte("hello"), 0o644)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	w.Count("rows", 3)
	w.Count("rows", 4)
	w.Value("x", "y")
	if err := errors.Join(w.Folder(t.Context(), root, "merged"), w.Put(t.Context(), "r.json", []byte("1")), w.Put(t.Context(), "r.json", []byte("2")), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	r, err := partresult.Read(t.Context(), tk, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Objects) != 2 || r.Objects[0].Name != "merged/sub/a.txt" || r.Counters["rows"] != 7 || r.Values["x"] != "y" || r.Worker != "w" {
		t.Fatalf("%+v", r)
	}
	for name, want := range map[string]string{"merged/sub/a.txt": "hello", "r.json": "2"} {
		if raw, err := partresult.Object(t.Context(), tk, r, name, 100); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	if _, err := partresult.Object(t.Context(), tk, r, "none", 100); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("an object that is not there: %v", err)
	}
	// An object that was changed behind the result's back is not believed.
	if _, err := objects.Put(t.Context(), r.Objects[1].Key, []byte("3"), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := partresult.Object(t.Context(), tk, r, "r.json", 100); !schemas.IsCode(err, schemas.CodeVerify) {
		t.Errorf("a changed object: %v", err)
	}
}

func TestTheFirstResultStands(t *testing.T) {
	tk := task(memstore.New())
	for _, worker := range []string{"first", "second"} {
		tk.Worker = worker
		if err := partresult.New(tk).Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := partresult.Read(t.Context(), tk, 0); err != nil || r.Worker != "first" {
		t.Errorf("%+v, %v", r, err)
	}
}

// flaky fails the first writes as a store does that cannot be reached.
type flaky struct {
	store.Objects
	left int
}

func (f *flaky) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	if f.left > 0 {
		f.left--
		return "", store.ErrUnavailable
	}
	return f.Objects.Put(ctx, key, data, c)
}

func TestAStoreThatDoesNotAnswerIsTriedAgain(t *testing.T) {
	f := &flaky{Objects: memstore.New(), left: 2}
	tk := task(f)
	if err := partresult.New(tk).Commit(t.Context()); err != nil || f.left != 0 {
		t.Errorf("%v, %d failures left", err, f.left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.left = 1 << 20
	if err := partresult.New(tk).Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped while the store is away: %v", err)
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"version":1,"objects":[{"name":"a","key":"k","bytes":1,"sha256":"x"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		objects := memstore.New()
		tk := task(objects)
		if _, err := objects.Put(t.Context(), schemas.ResultKey("acme", "r1", "out", 0), raw, store.Condition{}); err != nil {
			t.Fatal(err)
		}
		r, err := partresult.Read(t.Context(), tk, 0)
		if (err == nil) != (json.Unmarshal(raw, new(schemas.StageResult)) == nil) {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}
