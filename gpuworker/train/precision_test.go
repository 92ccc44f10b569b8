package train

import (
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
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
