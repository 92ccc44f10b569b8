package train

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
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

// In fp16 a run learns as in fp32; steps whose gradient overflows are skipped, halve the loss scale, and leave the schedule where it was; and
// neither ranks nor interruptions change a bit.
func TestFP16(t *testing.T) {
	stage := func(dtype string, scale float64) schemas.Stage {
		s := toyStage("train", "full")
		s.Train.Epochs, s.Train.Steps, s.Train.DType, s.Train.LossScale = 0, 10, dtype, scale
		s.Train.Optim.WarmupSteps, s.Train.Optim.Schedule = 0, "linear"
		return s
	}
	one := newFleet(t, stage("fp16", 1<<22))
	want := one.complete("train", 1).StateHash
	skipped, scales, rates := 0, one.values("loss_scale"), one.values("learning_rate")
	for _, v := range one.values("skipped") {
		if v == 1 {
			skipped++
		}
	}
	if skipped < 2 || skipped > 8 || scales[9] != math.Ldexp(1, 22-skipped) {
		t.Fatalf("%d steps were skipped, scales %v", skipped, scales)
	}
	good := 0
	for i, v := range one.values("skipped") {
		if want := 0.01 * (1 - float64(good)/10); math.Abs(rates[i]-want) > 1e-12 {
			t.Errorf("step %d after %d updates has learning rate %v, want %v", i+1, good, rates[i], want)
		}
		if v == 0 {
			good++
		}
	}
	plain, exact := newFleet(t, stage("fp16", 0)), newFleet(t, stage("fp32", 0))
	plain.complete("train", 1)
	exact.complete("train", 1)
	for i, l := range exact.losses() {
		if got := plain.losses()[i]; math.Abs(got-l) > 2e-2*l {
			t.Errorf("step %d: loss %v in fp16, %v in fp32", i+1, got, l)
		}
	}
	if l := one.losses(); !(l[9] < l[0]) {
		t.Errorf("losses %v do not fall", l)
	}
	if got := newFleet(t, stage("fp16", 1<<22)).complete("train", 3).StateHash; got != want {
		t.Error("3 ranks gave other weights")
	}
	for _, kill := range []int64{1, 3, 7} {
		f := newFleet(t, stage("fp16", 1<<22))
		if errs := f.generation("train", plan{world: 2, killAt: kill, kill: 1}); !errors.Is(errors.Join(errs...), collective.ErrPeerLost) {
			t.Fatalf("nothing was lost: %v", errs)
		}
		if got := f.complete("train", 1).StateHash; got != want {
			t.Errorf("killed after step %d: weights differ", kill)
		}
	}
	// Pairs start gradients from log-probabilities, experts from the router too.
	dpo := prefStage("dpo", "lora", "sigmoid")
	dpo.Train.DType = "fp16"
	f := grouped(t, dpo)
	f.complete("train", 2)
	if l := f.losses(); !(l[len(l)-1] < l[0]) {
		t.Errorf("dpo: losses %v do not fall", l)
	}
}

// The scaler does what torch.amp.GradScaler does.
func TestScaler(t *testing.T) {
	a := &scaler{Scale: firstScale}
	for range growthInterval - 1 {
		a.stepped()
	}
	if a.overflowed(1, math.Inf(1)) != true || a.Scale != firstScale/2 || a.Good != 0 || a.Skipped != 1 {
		t.Fatalf("after an overflow: %+v", a)
	}
	for range growthInterval {
		if a.overflowed(1, 1) {
			t.Fatal("a finite gradient overflowed")
		}
		a.stepped()
	}
	if a.Scale != firstScale || a.Good != 0 {
		t.Errorf("after %d good steps: %+v", growthInterval, a)
	}
	a.Scale = math.Ldexp(1, 127)
	a.Good = growthInterval - 1
	if a.stepped(); a.Scale != math.Ldexp(1, 127) || a.Good != 0 {
		t.Errorf("the scale became infinite: %+v", a)
	}
	a.Scale = leastScale
	if a.overflowed(math.NaN(), math.NaN()) {
		t.Error("what no scale helps is no overflow")
	}
	if none := (*scaler)(nil); none.overflowed(1, math.NaN()) || none.scale() != 1 || none.skipped() != 0 {
		t.Error("without fp16 there is a scale")
	}
}

// The precision "auto" is what the device multiplies, is told with the reason, and stays what a stage began with.
func TestPrecision(t *testing.T) {
	for _, c := range []struct {
		info kernels.Info
		want string
	}{
		{kernels.Info{Backend: "cpu", Name: "cpu", ISA: "avx512+bf16"}, "bf16"}, {kernels.Info{Backend: "cpu", Name: "cpu", ISA: "avx512"}, "fp32"},
		{kernels.Info{Backend: "cuda", Name: "H100", ISA: "sm_90"}, "bf16"}, {kernels.Info{Backend: "cuda", Name: "V100", ISA: "sm_70"}, "fp16"},
		{kernels.Info{Backend: "cuda", Name: "P100", ISA: "sm_60"}, "fp32"},
	} {
		if got, why := Precision(c.info); got != c.want || !strings.Contains(why, c.info.ISA) {
			t.Errorf("%+v: %s, %s", c.info, got, why)
		}
	}
	st := toyStage("train", "lora")
	st.Train.DType = "auto"
	f := newFleet(t, st)
	f.generation("train", plan{world: 2, killAt: 3, kill: 1})
	dev, _ := device(t)
	info, err := dev.Info()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := Precision(info)
	told := false
	for _, e := range f.events {
		told = told || strings.HasPrefix(e.Message, "precision "+want+": ")
	}
	if m := f.complete("train", 1); m.State[dtypeKey] != want || !told {
		t.Errorf("the stage ran in %q, told: %v; the device is for %s", m.State[dtypeKey], told, want)
	}
}
