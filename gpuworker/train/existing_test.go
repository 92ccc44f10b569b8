package train

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"math"
	"os"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// uploaded stores the files of a folder as a user's upload.
func (f *fleet) uploaded(dir string) schemas.Ref {
	f.t.Helper()
	var ref schemas.Ref
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(os.DirFS(dir), p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(raw)
		file := schemas.File{Path: p, SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(raw))}
		ref.Files = append(ref.Files, file)
		_, err = f.objects.Put(f.t.Context(), schemas.InputKey("acme", file.SHA256), raw, store.Condition{})
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return ref
}

// finished trains a stage over the toy base and returns its adapter's folder and the losses.
func finished(t *testing.T, stage schemas.Stage) (dir string, losses []float64) {
	t.Helper()
	f := newFleet(t, stage)
	f.complete("train", 1)
	_, q := device(t)
	l, err := LoadModel(t.Context(), f.objects, f.spec, "acme", "r1", "stage:train", q, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := l.Adapters.Save(q, root, ""); err != nil {
		t.Fatal(err)
	}
	return dir, f.losses()
}

// Existing adapters: all but the last are merged and the last one is trained on, or all are merged and a new one is trained.
func TestExistingAdapters(t *testing.T) {
	first := methodStages()["rslora"]
	first.Train.Epochs, first.Train.Steps = 0, 4
	second := methodStages()["everything"]
	second.Train.Epochs, second.Train.Steps, second.Train.Optim.LR = 0, 4, 0.02
	a, losses := finished(t, first)
	b, _ := finished(t, second)
	// The loss of the first step, before anything is learned.
	start := func(create bool, method func(*schemas.TrainStage), folders ...string) float64 {
		t.Helper()
		s := toyStage("train", "lora")
		s.Train.Epochs, s.Train.Steps, s.Train.CreateNewAdapter = 0, 2, create
		method(s.Train)
		f := newFleet(t, s)
		for _, dir := range folders {
			s.Train.Adapters = append(s.Train.Adapters, f.uploaded(dir))
		}
		m := f.complete("train", 2)
		again := newFleet(t, s)
		for _, dir := range folders {
			again.uploaded(dir)
		}
		again.generation("train", plan{world: 1, control: schemas.ControlPause, controlAt: 1})
		if again.complete("train", 1).StateHash != m.StateHash {
			t.Error("a resumed run over existing adapters ends with other weights")
		}
		return f.losses()[0]
	}
	none := func(*schemas.TrainStage) {}
	base := start(false, none)
	onA := start(false, none, a)
	mergedA := start(true, none, a)
	both, bothMerged := start(false, none, a, b), start(true, none, a, b)
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-5*want {
			t.Errorf("%s: the first loss is %v, want %v", what, got, want)
		}
	}
	if math.Abs(base-losses[0]) > 1e-6*base || math.Abs(onA-base) < 1e-3*base || math.Abs(both-onA) < 1e-4*base {
		t.Errorf("losses %v, with one adapter %v, with two %v: nothing was trained", base, onA, both)
	}
	near("one adapter merged", mergedA, onA)
	near("two adapters", bothMerged, both)
	// Another method over merged adapters.
	near("OFT over a merged adapter", start(true, func(t *schemas.TrainStage) { t.Method, t.LoRA, t.OFT = "oft", nil, &schemas.OFT{BlockSize: 8} }, a), onA)
	wrong := toyStage("train", "oft")
	wrong.Train.OFT = &schemas.OFT{BlockSize: 8}
	f := newFleet(t, wrong)
	wrong.Train.Adapters = []schemas.Ref{f.uploaded(a)}
	if err := f.generation("train", plan{world: 1})[0]; !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("a LoRA adapter goes on as OFT: %v", err)
	}
}
