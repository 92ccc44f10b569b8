package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// losses lists the loss of every step in the lineage of HEAD, from the segments' logs, each step once.
func (f *fleet) losses() []float64 {
	f.t.Helper()
	var out []float64
	ref := f.head().Manifest
	for ref != nil {
		m, err := checkpoint.ReadManifest(f.t.Context(), f.objects, *ref)
		if err != nil {
			f.t.Fatal(err)
		}
		raw, _, err := f.objects.Get(f.t.Context(), m.Log.Key, 1<<20)
		if err != nil {
			f.t.Fatal(err)
		}
		var seg []float64
		first := int64(0)
		for line := range bytes.Lines(raw) {
			var e schemas.Event
			if err := json.Unmarshal(line, &e); err != nil {
				f.t.Fatal(err)
			}
			if e.Type == schemas.EventStep {
				if first == 0 {
					first = e.Step
				}
				seg = append(seg, e.Values["loss"])
			}
		}
		parent := int64(0)
		if m.Parent != nil {
			parent = m.Parent.Step
		}
		if first != parent+1 || parent+int64(len(seg)) != m.Step {
			f.t.Fatalf("the log of step %d begins at %d and has %d steps; the parent is of step %d", m.Step, first, len(seg), parent)
		}
		out = append(seg, out...)
		ref = m.Parent
	}
	return out
}

func TestTrainingLearnsAndDoesNotDependOnTheWorld(t *testing.T) {
	for _, name := range []string{"full", "lora", "freeze", "full in bf16", "lora in bf16"} {
		t.Run(name, func(t *testing.T) {
			method, half := strings.CutSuffix(name, " in bf16")
			stage := toyStage("train", method)
			if half {
				stage.Train.DType = "bf16"
			}
			if method == "freeze" {
				stage.Train.FreezeLayers = 2
			}
			want := newFleet(t, stage)
			wm := want.complete("train", 1)
			wl := want.losses()
			if len(wl) != 8 || !(wl[7] < wl[0]) {
				t.Fatalf("losses %v: 8 steps that learn were expected", wl)
			}
			for _, world := range []int{2, 3} {
				f := newFleet(t, stage)
				m := f.complete("train", world)
				if m.StateHash != wm.StateHash {
					t.Errorf("%d ranks: weights differ from those of one rank", world)
				}
				for i, l := range f.losses() {
					if l != wl[i] {
						t.Errorf("%d ranks: step %d has loss %v, on one rank %v", world, i+1, l, wl[i])
					}
				}
			}
			stage.Train.Sharding = "none"
			f := newFleet(t, stage)
			if m := f.complete("train", 2); m.StateHash != wm.StateHash {
				t.Error("sharding none: weights differ")
			}
		})
	}
}

// A gang that loses a rank after any step goes on from the last commit with any number of ranks, and ends with the same bits.
func TestResumeIsBitEqual(t *testing.T) {
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method)
		stage.Train.Epochs, stage.Train.Steps = 0, 6
		undisturbed := newFleet(t, stage)
		want := undisturbed.complete("train", 1).StateHash
		losses := undisturbed.losses()
		for kill := int64(1); kill < 6; kill++ {
			t.Run(fmt.Sprintf("%s/after step %d", method, kill), func(t *testing.T) {
				t.Parallel()
				f := newFleet(t, stage)
				worlds := []int{2, 1, 3}
				if kill%2 == 0 {
					worlds = []int{3, 2, 1}
				}
				errs := f.generation("train", plan{world: worlds[0], killAt: kill, kill: worlds[0] - 1})
				for r, err := range errs {
					if !errors.Is(err, collective.ErrPeerLost) {
						t.Fatalf("rank %d: %v, want a lost peer", r, err)
					}
				}
				if s := f.head().Step; s > kill {
					t.Fatalf("step %d is committed after a loss at step %d", s, kill)
				}
				f.generation("train", plan{world: worlds[1], killAt: min(kill+2, 5)})
				if m := f.complete("train", worlds[2]); m.StateHash != want {
					t.Errorf("weights differ from those of the undisturbed run")
				}
				for i, l := range f.losses() {
					if l != losses[i] {
						t.Errorf("step %d has loss %v, undisturbed %v", i+1, l, losses[i])
					}
				}
			})
		}
	}
}

func TestControlWordCommitsTheAgreedStep(t *testing.T) {
	stage := toyStage("train", "full")
	stage.Train.CommitEvery = 100
	want := newFleet(t, stage).complete("train", 1).StateHash
	for _, word := range []schemas.Control{schemas.ControlPause, schemas.ControlPreempt} {
		f := newFleet(t, stage)
		for r, err := range f.generation("train", plan{world: 2, control: word, controlAt: 3}) {
			if !schemas.IsCode(err, schemas.CodeInterrupted) {
				t.Fatalf("%s: rank %d: %v", word, r, err)
			}
		}
		if h := f.head(); h.Manifest == nil || h.Step != 4 || h.Manifest.Final {
			t.Fatalf("%s: HEAD has step %d", word, h.Step)
		}
		if m := f.complete("train", 1); m.StateHash != want {
			t.Errorf("%s: weights differ after the pause", word)
		}
	}
	f := newFleet(t, stage)
	for _, err := range f.generation("train", plan{world: 2, control: schemas.ControlCancel, controlAt: 3}) {
		if !schemas.IsCode(err, schemas.CodeInterrupted) {
			t.Fatalf("cancel: %v", err)
		}
	}
	if f.head().Manifest != nil {
		t.Error("a cancelled gang committed")
	}
}

func TestLossThatIsNotFiniteCommitsNothing(t *testing.T) {
	stage := toyStage("train", "full")
	stage.Train.Optim.LR, stage.Train.Optim.MaxGradNorm, stage.Train.Optim.WarmupSteps = 1e30, 0, 0
	f := newFleet(t, stage)
	for r, err := range f.generation("train", plan{world: 2}) {
		var info *schemas.ErrorInfo
		if !errors.As(err, &info) || info.Code != schemas.CodeNumeric || !strings.HasPrefix(info.Place, "step ") || !info.Permanent {
			t.Fatalf("rank %d: %v, want a permanent numeric error that names the step", r, err)
		}
	}
	if m := f.head().Manifest; m != nil && m.Step > 2 {
		t.Errorf("step %d was committed", m.Step)
	}
	for _, e := range f.events {
		if l := e.Values["loss"]; math.IsNaN(l) || math.IsInf(l, 0) {
			t.Errorf("step %d was reported with loss %v", e.Step, l)
		}
	}
}

func TestAFencedCommitStopsTheGang(t *testing.T) {
	stage := toyStage("train", "full")
	f := newFleet(t, stage)
	bumped := false
	open := func(ctx context.Context, _ *consume.Task, _ string) (Dataset, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !bumped {
			bumped = true
			if _, err := f.heads.Swap(ctx, "acme", "r1", func(h *schemas.Head) error { h.Generation++; return nil }); err != nil {
				return nil, err
			}
		}
		return f.rows, nil
	}
	errs := f.generation("train", plan{world: 2, fenced: true, opts: Options{OpenData: open}})
	if !schemas.IsCode(errs[0], schemas.CodeFenced) {
		t.Errorf("rank 0: %v, want fenced", errs[0])
	}
	if !errors.Is(errs[1], collective.ErrPeerLost) {
		t.Errorf("rank 1: %v, want a lost peer", errs[1])
	}
	if f.head().Manifest != nil {
		t.Error("a fenced generation committed")
	}
}

// A checkpoint of other data or another seed is not taken for this stage's.
func TestACheckpointOfOtherDataIsRefused(t *testing.T) {
	stage := toyStage("train", "full")
	f := newFleet(t, stage)
	f.generation("train", plan{world: 1, control: schemas.ControlPause, controlAt: 1})
	f.rows = newToyData(24, 5)
	if err := f.generation("train", plan{world: 1})[0]; !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("got %v", err)
	}
}

// A stage that builds on another one starts from its weights, with adapters merged.
func TestStagesBuildOnEachOther(t *testing.T) {
	pt, lora, more := toyStage("base", "full"), toyStage("tune", "lora"), toyStage("more", "freeze")
	pt.Train.Steps, lora.Train.Steps, more.Train.Steps = 3, 3, 2
	lora.Train.Model, more.Train.Model = schemas.ModelSpec{From: "stage:base"}, schemas.ModelSpec{From: "run:acme/r1/tune"}
	more.Train.FreezeLayers = 2
	var want string
	for _, worlds := range [][]int{{1, 1, 1}, {2, 3, 2}} {
		f := newFleet(t, pt, lora, more)
		f.complete("base", worlds[0])
		f.complete("tune", worlds[1])
		m := f.complete("more", worlds[2])
		if want == "" {
			want = m.StateHash
		}
		if m.StateHash != want {
			t.Errorf("worlds %v: weights differ", worlds)
		}
		f.stageTurn("base") // records the last final manifest
		dev, q := device(t)
		mem := autograd.NewMemory(dev, q, 0)
		defer mem.Close()
		var last [3]float64
		for i, from := range []string{"stage:base", "stage:tune", "run:acme/r1/more"} {
			l, err := LoadModel(t.Context(), f.objects, f.spec, "acme", "r1", from, q, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if (l.Adapters != nil) != (from == "stage:tune") {
				t.Errorf("%s: adapters %v", from, l.Adapters)
			}
			r, err := objective.Loss(t.Context(), autograd.New(mem, autograd.Config{}), l.Model, toyBatch(t, f))
			if err != nil {
				t.Fatal(err)
			}
			last[i] = r.Sum / float64(r.Targets)
			if l.Adapters != nil {
				whole, _, err := loadMerged(t, f, from, q)
				if err != nil {
					t.Fatal(err)
				}
				m, err := objective.Loss(t.Context(), autograd.New(mem, autograd.Config{}), whole.Model, toyBatch(t, f))
				if err != nil {
					t.Fatal(err)
				}
				whole.Close()
				if math.Abs(m.Sum-r.Sum) > 1e-4*r.Sum {
					t.Errorf("merged adapters have loss %v, separate ones %v", m.Sum, r.Sum)
				}
			}
			l.Close()
		}
		if !(last[1] < last[0]) || !(last[2] < last[1]) {
			t.Errorf("losses %v do not fall from stage to stage", last)
		}
	}
}

func toyBatch(t *testing.T, f *fleet) *nn.Batch {
	t.Helper()
	var seqs []Sequence
	for i := range 8 {
		s, err := f.rows.Sequence(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, s)
	}
	b, err := makeBatch(seqs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func device(t *testing.T) (*kernels.Device, *kernels.Queue) {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	return dev, q
}

// The hash in the final manifest is that of the stored tensors.
func TestStateHashIsThatOfTheStoredTensors(t *testing.T) {
	f := newFleet(t, toyStage("train", "lora"))
	m := f.complete("train", 2)
	r, err := checkpoint.Open(t.Context(), f.objects, *f.head().Manifest, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := r.StateHash(t.Context(), func(name string) bool { return strings.HasPrefix(name, zero.ParamPrefix) })
	if err != nil {
		t.Fatal(err)
	}
	if got != m.StateHash {
		t.Errorf("the stored tensors have hash %s, the manifest says %s", got, m.StateHash)
	}
}

func TestMakeBatch(t *testing.T) {
	seq := func(n int) Sequence { return Sequence{IDs: make([]int32, n), Labels: make([]int32, n)} }
	b, err := makeBatch([]Sequence{seq(4), seq(4)})
	if err != nil || b.Rows != 2 || b.Seq != 4 || b.Docs != nil {
		t.Errorf("even rows: %+v, %v", b, err)
	}
	b, err = makeBatch([]Sequence{seq(4), seq(2)})
	if err != nil || b.Rows != 1 || b.Seq != 6 || fmt.Sprint(b.Docs) != "[0 4 6]" {
		t.Errorf("uneven rows: %+v, %v", b, err)
	}
	packed := seq(4)
	packed.Docs = []int32{0, 1, 4}
	b, err = makeBatch([]Sequence{packed, seq(4)})
	if err != nil || fmt.Sprint(b.Docs) != "[0 1 4 8]" {
		t.Errorf("documents: %+v, %v", b, err)
	}
	packed.Docs = []int32{0, 5}
	for _, bad := range [][]Sequence{{packed}, {{IDs: []int32{1}}}, {{}}} {
		if _, err := makeBatch(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
