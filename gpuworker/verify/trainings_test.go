package verify

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels"
)

// training is run.json of testdata/trainings/make.py.
type training struct {
	Method, Optimizer, Schedule        string
	Steps, Accumulation                int
	Warmup                             int64
	Clip, WD, Smoothing, LR            float64
	Beta1, Beta2, Eps, Momentum, Ratio float64
	SkipDecay                          bool `json:"skip_decay"`
	OwnNorms                           bool `json:"own_norms"`
	Nesterov, Packed, Neat, Spread     bool
	ScaleFront                         bool   `json:"scale_front"`
	ScaleType                          string `json:"scale_type"`
	LlamaPro                           int    `json:"llama_pro"`
	TrainLayers                        int    `json:"train_layers"`
	Modules, Extra, Targets            []string
	Rank                               int
	Every                              int64
	Scale                              float64
	Proj, Mode                         string
	GaLoreTarget                       string `json:"galore_target"`
	// Projected are the parameters that GaLore projects, Orthogonal those that Muon orthogonalizes.
	Projected, Orthogonal []string
	Keys                  map[string]any
	Docs                  [][]int32
	Losses, Norms, Rates  []float64
}

// optimizer is the engine's configuration of a training's.
func (r training) optimizer() optim.Config {
	c := optim.Config{Name: r.Optimizer, LR: r.LR, Beta1: r.Beta1, Beta2: r.Beta2, Eps: r.Eps, WeightDecay: r.WD, SkipDecay: r.SkipDecay, OwnNorms: r.OwnNorms,
		LoRAPlusRatio: r.Ratio, Momentum: r.Momentum, Nesterov: r.Nesterov}
	switch r.Optimizer {
	case optim.GaLore:
		c.LowRank = optim.LowRankConfig{Rank: r.Rank, Every: r.Every, Scale: r.Scale, Proj: r.Proj, Targets: []string{r.GaLoreTarget}}
	case optim.Apollo:
		c.LowRank = optim.LowRankConfig{Rank: r.Rank, Every: r.Every, Scale: r.Scale, Proj: r.Proj, ScaleType: r.ScaleType, ScaleFront: r.ScaleFront, Targets: []string{r.GaLoreTarget}, Torch: true}
	case optim.BAdam:
		c.Blocks, c.SkipDecay = optim.BlockConfig{Every: r.Every, Mode: r.Mode}, false // its groups take the decay from the defaults
	case optim.AdamMini:
		hidden, _ := r.Keys["hidden_size"].(float64)
		heads, _ := r.Keys["num_attention_heads"].(float64)
		c.HeadDim = int64(hidden / heads)
	}
	return c
}

// TestRandomTrainings repeats short trainings of torch, transformers and PEFT, whose architecture, sizes, method, optimizer, schedule and
// options a seed draws: every step's loss and gradient norm within 1e-4. With TUNEFLEET_TEST_FULL=1 it takes many, with TUNEFLEET_SEED
// those of that seed. What a reference cannot run (BAdam where an expert got no token) is left out, and said.
func TestRandomTrainings(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	seed, count := os.Getenv("TUNEFLEET_SEED"), 12
	if os.Getenv("TUNEFLEET_TEST_FULL") == "1" || seed != "" {
		count = 80
	}
	if seed == "" {
		seed = "5"
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python(t), "testdata/trainings/make.py", dir, seed, strconv.Itoa(count))
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	runs, err := filepath.Glob(filepath.Join(dir, "*", "run.json"))
	if err != nil || len(runs) < count*3/4 {
		t.Fatalf("%d of %d trainings: %v\n%s", len(runs), count, err, out)
	}
	for i, run := range runs {
		folder := filepath.Dir(run)
		t.Run(filepath.Base(folder), func(t *testing.T) { repeatTraining(t, folder, i%2 == 1) })
	}
}

func repeatTraining(t *testing.T, folder string, checkpoint bool) {
	ctx := context.Background()
	check := func(err error) {
		if t.Helper(); err != nil {
			t.Fatal(err)
		}
	}
	root, err := openRoot(folder)
	check(err)
	defer root.Close()
	var run training
	check(readJSON(root, "run.json", &run))
	s, err := openTraining(ctx, root, run, Options{Threads: 2, Checkpoint: checkpoint})
	check(err)
	defer func() { check(s.close()) }()
	f, err := safetensors.Open(root, "batches.safetensors")
	check(err)
	defer f.Close()
	batches, err := readBatches(f, 3, s.model.Info().Vocab)
	check(err)
	st, err := s.stepper(ctx, run.optimizer(), run.Clip, Options{Checkpoint: checkpoint})
	check(err)
	s.step = st
	sh := st.(*sharded)
	sched := optim.Schedule{Name: run.Schedule, Warmup: run.Warmup, Total: int64(run.Steps), LR: run.LR}
	check(sched.Validate())
	loss := objective.SFT{Smoothing: run.Smoothing}
	near := func(what string, step int, got, want float64) {
		if t.Helper(); !(math.Abs(got-want) <= scalarRel*math.Abs(want)+1e-12) {
			t.Errorf("step %d: %s is %.9g, the reference has %.9g (%+v)", step, what, got, want, run)
		}
	}
	for step := range run.Steps {
		leaves := batches[step*run.Accumulation : (step+1)*run.Accumulation]
		var tokens int64
		for _, b := range leaves {
			tokens += int64(b.tokens())
		}
		var sum float64
		for i, b := range leaves {
			leaf := b.leaf()
			if run.Packed {
				leaf.Mask, leaf.Docs = nil, run.Docs[step*run.Accumulation+i]
			}
			if run.Neat {
				leaf.Positions = make([]int32, leaf.Seq)
				for k := range leaf.Positions {
					leaf.Positions[k] = int32(k)
				}
			}
			check(sh.engine.BeginLeaf(i, len(leaves)))
			r, err := loss.Backward(ctx, sh.tape, sh.model, leaf, tokens)
			check(err)
			check(sh.engine.EndLeaf(ctx))
			sum += r.Sum
		}
		sh.engine.Turn(int64(step) + 1)
		sumsq, _, err := sh.engine.Finish(ctx, nil)
		check(err)
		norm := zero.Norm(sumsq)
		clip := float32(1)
		if run.Clip > 0 {
			clip = zero.ClipFactor(norm, run.Clip)
		}
		rate := run.LR * sched.Factor(int64(step))
		near("loss", step, sum/float64(tokens), run.Losses[step])
		near("gradient norm", step, norm, run.Norms[step])
		near("learning rate", step, rate, run.Rates[step])
		if t.Failed() {
			return
		}
		check(sh.engine.Update(ctx, rate, int64(step)+1, clip))
	}
}

// openTraining makes the model of a training: frozen, or with its adapter.
func openTraining(ctx context.Context, root *os.Root, run training, o Options) (*session, error) {
	init, err := root.OpenRoot("init")
	if errors.Is(err, os.ErrNotExist) {
		return openSession(ctx, root, o, func(s *session) error {
			if run.Method == "freeze" {
				return adapter.Freeze(s.model, adapter.FreezeConfig{Layers: run.TrainLayers, Spread: run.Spread, Modules: run.Modules, Extra: run.Extra})
			}
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	defer init.Close()
	s, err := openSession(ctx, root, o, func(s *session) error {
		c, err := adapter.ReadConfig(init)
		if err != nil {
			return err
		}
		c.Targets, c.Pattern, c.Spread = run.Targets, "", run.LlamaPro // what the user wrote; loading compares what it finds with PEFT's modules
		s.lora, err = adapter.Apply(s.model, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	start := func() error { return s.lora.Load(ctx, s.queue, init) }
	if s.lora.Config.PiSSA {
		start = func() error { return startPiSSA(ctx, s) }
	}
	if err := start(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// startPiSSA computes what PiSSA starts from, in place of PEFT's: singular vectors have either sign.
func startPiSSA(ctx context.Context, s *session) error {
	original := map[*nn.Param][]float32{}
	for _, u := range s.model.Units() {
		for _, p := range u.Params {
			v, err := nn.Read(s.queue, p.Data)
			if err != nil {
				return err
			}
			original[p] = v
		}
	}
	read := func(_ context.Context, p *nn.Param, start int64, dst []float32) error {
		copy(dst, original[p][start:])
		return nil
	}
	for p := range original {
		v := make([]float32, p.Len())
		ok, err := s.lora.Initial(ctx, p, 0, v, read)
		if err != nil {
			return err
		}
		if ok {
			if err := kernels.Upload(s.queue, p.Data.Reshape(p.Len()), v); err != nil {
				return err
			}
		}
	}
	return nil
}
