package verify

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// droppedRuns is testdata/dropout/golden.json: runs of transformers' models with dropout; see make.py there.
//
//go:embed testdata/dropout/golden.json
var droppedRuns []byte

type droppedGolden struct {
	Steps, Rows, Seq, Tokens    int
	Seed                        uint64
	LR, Beta1, Beta2, Eps, Clip float64
	WeightDecay                 float64 `json:"weight_decay"`
	Models                      map[string]droppedModel
}

type droppedModel struct {
	Config        json.RawMessage
	Losses, Norms []float64
	// Eval is the loss of the first batch after training, without dropout; Dropouts how many places of a pass drop something.
	Eval     float64
	Dropouts int
}

// batch is the batch of a step, as make.py makes it.
func (g *droppedGolden) batch(step int) (*nn.Batch, []int64) {
	b := &nn.Batch{Rows: g.Rows, Seq: g.Seq}
	var ids []int64
	for r := range g.Rows {
		for i := range g.Seq {
			b.IDs = append(b.IDs, int32((7*step+13*r*r+5*i*i+3*i)%g.Tokens))
			ids = append(ids, autograd.TokenID(int64(step*g.Rows+r), i))
		}
	}
	b.Labels = b.IDs
	return b, ids
}

// namedValue is the initial value of element i of a tensor, as make.py has it.
func namedValue(name string, rank int, i uint64) float32 {
	z := (i + uint64(crc32.ChecksumIEEE([]byte(name)))<<32) * 0x9E3779B97F4A7C15
	z = (z ^ z>>32) * 0xD6E8FEB86659FD93
	z ^= z >> 32
	v := (float64(z>>40)/(1<<24) - 0.5) * 0.3
	if rank == 1 && strings.HasSuffix(name, "weight") {
		v++
	}
	return float32(v)
}

// trainDropped repeats a run: loss and gradient norm of every step, and the loss without dropout at the end.
func trainDropped(t *testing.T, g *droppedGolden, m droppedModel, threads int, isa kernels.ISA, checkpoint bool) (losses, norms []float64, eval float64) {
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		if t.Helper(); err != nil {
			t.Fatal(err)
		}
	}
	model, err := zoo.New(m.Config)
	check(err)
	check(model.Info().Trainable())
	dev, err := kernels.Open(kernels.Options{Threads: threads, ISA: isa})
	check(err)
	queue, err := dev.NewQueue(kernels.Compute)
	check(err)
	mem := autograd.NewMemory(dev, queue, 0)
	c := optim.Config{LR: g.LR, Beta1: g.Beta1, Beta2: g.Beta2, Eps: g.Eps, WeightDecay: g.WeightDecay}
	s, err := newSharded(ctx, queue, mem, model, c, g.Clip, checkpoint, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		v := make([]float32, dst.Numel())
		for i := range v {
			at := uint64(start) + uint64(i)
			if p.Transposed {
				in, out := uint64(p.Shape[1]), uint64(p.Shape[0])
				at = at%in*out + at/in
			}
			v[i] = namedValue(p.Name, len(p.Shape), at)
		}
		return kernels.Upload(queue, dst.Reshape(dst.Numel()), v)
	})
	check(err)
	defer func() { check(errors.Join(s.close(), mem.Close(), dev.Close())) }()
	for step := range g.Steps {
		b, ids := g.batch(step)
		s.tape.SetNoise(&autograd.Noise{Seed: g.Seed, Step: int64(step), IDs: ids})
		r, norm, err := s.backward(ctx, b, int64(len(ids)))
		check(err)
		losses, norms = append(losses, r.Sum/float64(len(ids))), append(norms, norm)
		check(s.update(ctx, g.LR, int64(step)+1))
	}
	b, ids := g.batch(0)
	r, err := objective.Loss(ctx, s.tape, model, b)
	check(err)
	return losses, norms, r.Sum / float64(len(ids))
}

// TestDropoutTrains compares training with a model's own dropout with transformers: where elements are dropped, what happens to the others,
// and that nothing is dropped in evaluation.
func TestDropoutTrains(t *testing.T) {
	var g droppedGolden
	if err := json.Unmarshal(droppedRuns, &g); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Models)) {
		t.Run(name, func(t *testing.T) {
			m := g.Models[name]
			losses, norms, eval := trainDropped(t, &g, m, 2, kernels.ISAAuto, false)
			near := func(what string, got, want, limit float64) {
				if t.Helper(); !(math.Abs(got-want) <= limit*math.Abs(want)) {
					t.Errorf("%s is %.9g, transformers has %.9g", what, got, want)
				}
			}
			for i := range losses {
				near(fmt.Sprintf("loss of step %d", i+1), losses[i], m.Losses[i], 1e-4)
				near(fmt.Sprintf("gradient norm of step %d", i+1), norms[i], m.Norms[i], 1e-4)
			}
			near("loss without dropout", eval, m.Eval, 1e-4)
		})
	}
}

// TestDropoutIsTheSameBits: threads, instruction sets and the recomputation of blocks change no bit.
func TestDropoutIsTheSameBits(t *testing.T) {
	var g droppedGolden
	if err := json.Unmarshal(droppedRuns, &g); err != nil {
		t.Fatal(err)
	}
	g.Steps = 3
	for _, name := range []string{"gpt2", "falcon_new", "llama"} {
		losses, norms, eval := trainDropped(t, &g, g.Models[name], 1, kernels.ISAScalar, false)
		for _, other := range []struct {
			what    string
			threads int
			isa     kernels.ISA
			again   bool
		}{{"3 threads", 3, kernels.ISAScalar, false}, {"the fastest instruction set", 2, kernels.ISAAuto, false}, {"recomputed blocks", 2, kernels.ISAAuto, true}} {
			l, n, e := trainDropped(t, &g, g.Models[name], other.threads, other.isa, other.again)
			if !slices.Equal(l, losses) || !slices.Equal(n, norms) || e != eval {
				t.Errorf("%s: %s: losses %v, norms %v, %v; want %v, %v, %v", name, other.what, l, n, e, losses, norms, eval)
			}
		}
	}
}
