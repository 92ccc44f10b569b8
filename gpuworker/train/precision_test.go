package train

import (
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// A frozen base that is held in bf16 takes half the memory and computes the very loss of one that is held in f32 and cast at each use, also
// where its values had to be rounded.
func TestFrozenBaseIsHeldInTheComputeType(t *testing.T) {
	f := newFleet(t, toyStage("train", "lora"))
	batch := toyBatch(t, f)
	_, q := device(t)
	mem := autograd.NewMemory(q.Device(), q, 0)
	defer mem.Close()
	tape := autograd.New(mem, autograd.Config{Compute: kernels.BF16})
	var sums [2]float64
	var words [2]int64
	for i, store := range []bool{false, true} {
		m, err := zoo.New([]byte(toyConfig))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range nn.Params(m.Root()) {
			p.Frozen = true
		}
		if store {
			autograd.StoreFrozen(m.Units(), kernels.BF16)
		}
		s, err := nn.NewStorage(q.Device(), q, m.Units(), false)
		if err != nil {
			t.Fatal(err)
		}
		src := &source{q: q, recipe: &Recipe{Seed: 3}, plain: true}
		fill := src.filler(src.base, nil, nil)
		for _, p := range nn.Params(m.Root()) {
			if err := fill.fill(t.Context(), p, 0, p.Data.Reshape(p.Len())); err != nil {
				t.Fatal(err)
			}
			if len(p.Shape) > 1 {
				words[i] += p.Words()
			}
		}
		r, err := objective.Loss(t.Context(), tape, m, batch)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = r.Sum
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	if math.Float64bits(sums[0]) != math.Float64bits(sums[1]) {
		t.Errorf("cast at each use the loss is %v, held in bf16 %v", sums[0], sums[1])
	}
	if words[0] != 2*words[1] {
		t.Errorf("matrices take %d words in f32, %d in bf16", words[0], words[1])
	}
}

// Gradients that are applied block by block give the bits of those that are kept: with one rank and with several, for optimizers that work
// on elements, on whole matrices and on one block at a time, and where anomalies are skipped.
func TestByBlockKeepsItsBits(t *testing.T) {
	for name, change := range map[string]func(*schemas.TrainStage){
		"adamw":        func(*schemas.TrainStage) {},
		"8 bits, pure": func(s *schemas.TrainStage) { s.Optim.Name, s.DType, s.PureBF16 = "adamw_8bit", "bf16", true },
		"muon":         func(s *schemas.TrainStage) { s.Optim.Name = "muon" },
		"galore":       func(s *schemas.TrainStage) { s.Optim.Name, s.Optim.Options = "galore", &schemas.OptimOptions{Rank: 4} },
		"badam":        func(s *schemas.TrainStage) { s.Optim.Name = "badam" },
		"tied": func(s *schemas.TrainStage) {
			s.Model.Config = []byte(toyConfig[:len(toyConfig)-1] + `,"tie_word_embeddings":true}`)
		},
		"one pass":   func(s *schemas.TrainStage) { s.Optim.MaxGradNorm = schemas.NoClip },
		"recomputed": func(s *schemas.TrainStage) { s.Recompute = "on" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hash := func(byBlock bool, leaves, world int, sharding string) string {
				st := toyStage("train", "full")
				st.Train.Epochs, st.Train.Steps, st.Train.Leaves, st.Train.Sharding, st.Train.Optim.ByBlock = 0, 5, leaves, sharding, byBlock
				st.Train.Optim.MaxGradNorm = 0.1 // so that gradients are clipped
				change(st.Train)
				f := newFleet(t, st)
				return f.complete("train", world).StateHash
			}
			if kept, applied := hash(false, 1, 1, "none"), hash(true, 1, 1, "none"); kept != applied {
				t.Error("one rank, one leaf: bits differ")
			}
			want := hash(false, 3, 1, "none")
			for _, sharding := range []string{"none", "zero3"} {
				if hash(true, 3, 3, sharding) != want {
					t.Errorf("three ranks with sharding %s: bits differ", sharding)
				}
			}
			if hash(true, 3, 2, "zero3") != want {
				t.Error("two ranks, one of which has two leaves: bits differ")
			}
		})
	}
}
