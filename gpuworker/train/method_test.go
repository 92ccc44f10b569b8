package train

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// methodStages are train stages of every method over toyData.
func methodStages() map[string]schemas.Stage {
	out := map[string]schemas.Stage{}
	lora := func(name string, change func(*schemas.LoRA)) {
		s := toyStage("train", "lora")
		change(s.Train.LoRA)
		out[name] = s
	}
	lora("rslora", func(l *schemas.LoRA) { l.RSLoRA = true })
	lora("dora", func(l *schemas.LoRA) { l.DoRA = true })
	lora("dora with dropout", func(l *schemas.LoRA) { l.DoRA, l.Dropout = true, 0.2 })
	lora("dropout", func(l *schemas.LoRA) { l.Dropout = 0.3 })
	lora("lora+", func(l *schemas.LoRA) { l.PlusRatio = 4 })
	lora("pissa", func(l *schemas.LoRA) { l.PiSSA, l.PiSSAIter = true, -1 })
	lora("pissa, fast", func(l *schemas.LoRA) { l.PiSSA, l.PiSSAIter, l.RSLoRA = true, 3, true })
	lora("patterns", func(l *schemas.LoRA) {
		l.RankPattern, l.AlphaPattern = map[string]int{"layers.1.self_attn.q_proj": 7}, map[string]float64{"v_proj": 3}
	})
	lora("modules to save", func(l *schemas.LoRA) { l.ModulesToSave = []string{"embed_tokens", "lm_head", "model.norm"} })
	lora("embedding and head", func(l *schemas.LoRA) { l.Targets = []string{"embed_tokens", "lm_head", "q_proj"} })
	lora("everything", func(l *schemas.LoRA) { l.Targets = []string{"all"} })
	lora("dora head with dropout", func(l *schemas.LoRA) {
		l.DoRA, l.Dropout, l.Targets = true, 0.2, []string{"lm_head", "v_proj"}
	})
	for name, l := range map[string]schemas.LoRA{
		"modules to save, tied":    {Targets: []string{"q_proj"}, ModulesToSave: []string{"embed_tokens"}},
		"head to save, tied":       {Targets: []string{"q_proj"}, ModulesToSave: []string{"lm_head"}},
		"both to save, tied":       {Targets: []string{"q_proj"}, ModulesToSave: []string{"embed_tokens", "lm_head"}},
		"head, tied":               {Targets: []string{"lm_head", "q_proj", "down_proj"}, Dropout: 0.1},
		"embedding, tied":          {Targets: []string{"embed_tokens", "q_proj"}},
		"embedding and head, tied": {Targets: []string{"embed_tokens", "lm_head"}},
		"dora head, tied":          {Targets: []string{"lm_head", "q_proj", "down_proj"}, DoRA: true},
	} {
		lora(name, func(to *schemas.LoRA) { l.Rank, l.Alpha = 4, 32; *to = l })
		s := out[name]
		s.Train.Model = schemas.ModelSpec{Config: []byte(toyConfig[:len(toyConfig)-1] + `,"tie_word_embeddings":true}`)}
	}
	other := func(name, method string, change func(*schemas.TrainStage)) {
		s := toyStage("train", method)
		change(s.Train)
		out[name] = s
	}
	other("oft", "oft", func(t *schemas.TrainStage) {
		t.OFT = &schemas.OFT{BlockSize: 8, Targets: []string{"q_proj", "down_proj"}}
	})
	other("oft by rank", "oft", func(t *schemas.TrainStage) { t.OFT = &schemas.OFT{Rank: 4} })
	other("houlsby", "bottleneck", func(t *schemas.TrainStage) {
		t.Bottleneck = &schemas.Bottleneck{Kind: "houlsby", Size: 8, Activation: "gelu"}
	})
	other("pfeiffer", "bottleneck", func(t *schemas.TrainStage) {
		t.Bottleneck = &schemas.Bottleneck{Kind: "pfeiffer", Size: 8, Activation: "relu"}
	})
	other("freeze last", "freeze", func(t *schemas.TrainStage) { t.Freeze = &schemas.Freeze{TrainableLayers: 1, Extra: []string{"norm"}} })
	other("freeze first, one module", "freeze", func(t *schemas.TrainStage) {
		t.Freeze = &schemas.Freeze{TrainableLayers: -2, Modules: []string{"mlp"}, Extra: []string{"lm_head"}}
	})
	other("llama pro", "freeze", func(t *schemas.TrainStage) {
		t.ExpandBlocks, t.Freeze = 3, &schemas.Freeze{TrainableLayers: 3, LlamaPro: true}
	})
	other("llama pro, lora", "lora", func(t *schemas.TrainStage) { t.ExpandBlocks, t.LoRA.LlamaPro = 3, 3 })
	quant := func(name, method string, q schemas.Quantization, change func(*schemas.TrainStage)) {
		other(name, method, func(t *schemas.TrainStage) { t.Quant = &q; change(t) })
	}
	quant("qlora nf4", "lora", schemas.Quantization{Bits: 4, Type: "nf4", Double: true}, func(*schemas.TrainStage) {})
	quant("qlora nf4, single", "lora", schemas.Quantization{Bits: 4, Type: "nf4"}, func(t *schemas.TrainStage) { t.LoRA.Targets = nil })
	quant("qlora int8, dora", "lora", schemas.Quantization{Bits: 8, Type: "int8"}, func(t *schemas.TrainStage) { t.LoRA.DoRA = true })
	quant("qoft nf4", "oft", schemas.Quantization{Bits: 4, Type: "nf4", Double: true}, func(t *schemas.TrainStage) { t.OFT = &schemas.OFT{BlockSize: 8} })
	quant("bottleneck int8", "bottleneck", schemas.Quantization{Bits: 8, Type: "int8"}, func(t *schemas.TrainStage) {
		t.Bottleneck = &schemas.Bottleneck{Kind: "houlsby", Size: 8, Activation: "silu"}
	})
	for name, q := range map[string]*schemas.Quantization{"dora, bias": nil, "dora, bias, nf4": {Bits: 4, Type: "nf4", Double: true}, "dora, bias, int8": {Bits: 8, Type: "int8"}} {
		other(name, "lora", func(t *schemas.TrainStage) {
			t.Model.Config = []byte(toyConfig[:len(toyConfig)-1] + `,"attention_bias":true,"mlp_bias":true}`)
			t.LoRA.DoRA, t.Quant, t.DType = true, q, "bf16"
		})
	}
	bf16 := func(of string) {
		s := out[of]
		t := *s.Train
		t.DType = "bf16"
		s.Train = &t
		out[of+" in bf16"] = s
	}
	for _, of := range []string{"everything", "dora", "pissa", "modules to save, tied", "freeze last", "oft", "qlora int8, dora"} {
		bf16(of)
	}
	half := out["everything"]
	train := *half.Train
	train.DType = "fp16"
	half.Train = &train
	out["everything in fp16"] = half
	pure := func(of string, change func(*schemas.TrainStage)) {
		s := out[of]
		t := *s.Train
		t.PureBF16, t.Sharding = true, "zero3"
		change(&t)
		s.Train = &t
		out[of+", pure"] = s
	}
	for _, of := range []string{"everything in bf16", "dora in bf16", "modules to save, tied in bf16", "oft in bf16", "freeze last in bf16"} {
		pure(of, func(*schemas.TrainStage) {})
	}
	other("own dropout", "full", func(t *schemas.TrainStage) {
		t.Model.Config = []byte(`{"model_type":"gpt2","vocab_size":97,"n_embd":32,"n_layer":3,"n_head":4,"n_positions":64,"attn_pdrop":0.05,"embd_pdrop":0.05,"resid_pdrop":0.05}`)
	})
	other("own dropout and that of lora", "lora", func(t *schemas.TrainStage) {
		t.Model.Config = []byte(toyConfig[:len(toyConfig)-1] + `,"attention_dropout":0.1}`)
		t.LoRA.Dropout, t.DType = 0.1, "bf16"
	})
	other("full, pure", "full", func(t *schemas.TrainStage) { t.DType, t.PureBF16, t.Optim.Name = "bf16", true, "adamw_8bit" })
	other("full, pure, none", "full", func(t *schemas.TrainStage) { t.DType, t.PureBF16, t.Sharding = "bf16", true, "none" })
	return out
}

// Every method learns, and ends with the same bits on one rank, on several, and after a rank was lost at every step and another number of
// ranks went on.
func TestEveryMethodKeepsItsBits(t *testing.T) {
	for name, stage := range methodStages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage.Train.Epochs, stage.Train.Steps = 0, 6
			undisturbed := newFleet(t, stage)
			want := undisturbed.complete("train", 1).StateHash
			losses := undisturbed.losses()
			if !(losses[5] < losses[0]) {
				t.Errorf("losses %v do not fall", losses)
			}
			// The two ranks recompute their blocks: neither changes a bit.
			again, recomputing := stage, *stage.Train
			recomputing.Recompute = "on"
			again.Train = &recomputing
			whole := newFleet(t, again)
			if got := whole.complete("train", 2).StateHash; got != want {
				t.Error("2 ranks that recompute: weights differ from those of one rank that saves its activations")
			}
			// A rank is lost after every step, and another number of ranks goes on.
			often, committing := stage, *stage.Train
			committing.CommitEvery = 1
			often.Train = &committing
			f := newFleet(t, often)
			for kill := int64(1); kill < 6; kill++ {
				for r, err := range f.generation("train", plan{world: 2 + int(kill)%2, killAt: kill, kill: 1}) {
					if !errors.Is(err, collective.ErrPeerLost) {
						t.Fatalf("killed after step %d: rank %d: %v, want a lost peer", kill, r, err)
					}
				}
			}
			if got := f.complete("train", 1).StateHash; got != want {
				t.Error("weights differ from those of the undisturbed run")
			}
			for i, l := range f.losses() {
				if l != losses[i] {
					t.Errorf("step %d has loss %v, undisturbed %v", i+1, l, losses[i])
				}
			}
		})
	}
}

// What a method trained is what later stages and exports load: with adapters apart, merged, and as the base of another stage.
func TestEveryMethodIsLoaded(t *testing.T) {
	for name, stage := range methodStages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage.Train.Epochs, stage.Train.Steps = 0, 3
			more := toyStage("more", "full")
			more.Train.Steps, more.Train.Optim.LR, more.Train.Model = 1, 1e-12, schemas.ModelSpec{From: "stage:train"}
			more.Train.Optim.WarmupSteps, more.Train.Optim.WeightDecay = 0, 0
			f := newFleet(t, stage, more)
			f.complete("train", 1)
			_, q := device(t)
			mem := autograd.NewMemory(q.Device(), q, 0)
			defer mem.Close()
			tape := autograd.New(mem, autograd.Config{})
			loss := func(l *Loaded) float64 {
				t.Helper()
				r, err := objective.Loss(t.Context(), tape, l.Model, toyBatch(t, f))
				if err != nil {
					t.Fatal(err)
				}
				return r.Sum / float64(r.Targets)
			}
			load := func(from string) *Loaded {
				t.Helper()
				l, err := LoadModel(t.Context(), f.objects, f.spec, "acme", "r1", from, q, t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			f.stageTurn("more")
			l := load("stage:train")
			apart := loss(l)
			l.Close()
			l, tied, err := loadMerged(t, f, "stage:train", q)
			if stage.Train.Bottleneck != nil {
				if !schemas.IsCode(err, schemas.CodeUnsupported) {
					t.Errorf("a bottleneck adapter was merged: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			merged := loss(l)
			if untied := tied && !l.Model.Info().Tied; untied != strings.Contains(name, ", tied") {
				t.Errorf("the head was untied: %t", untied)
			}
			l.Close()
			f.complete("more", 2)
			f.stageTurn("train")
			on := load("stage:more")
			based := loss(on)
			on.Close()
			for what, got := range map[string]float64{"merged": merged, "as a base": based} {
				if math.Abs(got-apart) > 1e-5*apart {
					t.Errorf("%s the loss is %v, apart %v", what, got, apart)
				}
			}
		})
	}
}

// Dropout changes what is trained, by the seed and by nothing else.
func TestDropoutIsSeeded(t *testing.T) {
	stage := methodStages()["dropout"]
	stage.Train.Epochs, stage.Train.Steps = 0, 3
	hash := func(seed uint64, p float64) string {
		s := stage
		train, l := *stage.Train, *stage.Train.LoRA
		l.Dropout, train.LoRA, s.Train = p, &l, &train
		f := newFleet(t, s)
		f.spec.Seed = seed
		return f.complete("train", 1).StateHash
	}
	if hash(1, 0.3) == hash(1, 0) {
		t.Error("dropout changes nothing")
	}
	if first, again := hash(1, 0.3), hash(1, 0.3); first != again {
		t.Error("dropout is not a function of the seed")
	}
}

// loadMerged loads a finished model as it is exported: its adapters are part of the weights. tied says whether the head was tied in training.
func loadMerged(t *testing.T, f *fleet, from string, q *kernels.Queue) (l *Loaded, tied bool, err error) {
	t.Helper()
	open, err := OpenFinished(t.Context(), f.objects, f.spec, "acme", "r1", from, q, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, open.Close()) }()
	tied = open.Model.Info().Tied
	entries, config, err := open.Tensors(t.Context(), true, "")
	if err != nil {
		return nil, tied, err
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := safetensors.WriteFile(root, "model.safetensors", entries, nil); err != nil {
		return nil, tied, err
	}
	m, err := zoo.New(config)
	if err != nil {
		return nil, tied, err
	}
	set, err := zoo.OpenWeights(root, m.Info())
	if err != nil {
		return nil, tied, err
	}
	defer set.Close()
	params := nn.Params(m.Root())
	l = &Loaded{Model: m}
	if l.storage, err = nn.NewStorage(q.Device(), q, m.Units(), false); err != nil {
		return nil, tied, err
	}
	return l, tied, errors.Join(zoo.CheckWeights(m.Info(), params, set), nn.Load(t.Context(), q, params, set))
}
