package train

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestFootprintIsWhatTrainingTakes: counting without memory gives the very figures of a device with memory, for every method.
func TestFootprintIsWhatTrainingTakes(t *testing.T) {
	model := json.RawMessage(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 176,
		"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}`)
	for name, edit := range map[string]func(*schemas.TrainStage){
		"full":       func(*schemas.TrainStage) {},
		"accumulate": func(s *schemas.TrainStage) { s.Leaves = 3 },
		"bf16":       func(s *schemas.TrainStage) { s.DType = "bf16" },
		"freeze":     func(s *schemas.TrainStage) { s.Method, s.FreezeLayers = "freeze", 2 },
		"lora":       func(s *schemas.TrainStage) { s.Method, s.LoRA = "lora", &schemas.LoRA{Rank: 4, Alpha: 8} },
		"dora":       func(s *schemas.TrainStage) { s.Method, s.LoRA = "lora", &schemas.LoRA{Rank: 4, Alpha: 8, DoRA: true} },
		"qlora": func(s *schemas.TrainStage) {
			s.Method, s.LoRA, s.Quant = "lora", &schemas.LoRA{Rank: 4, Alpha: 8}, &schemas.Quantization{Bits: 4, Type: "nf4"}
		},
		"lion": func(s *schemas.TrainStage) { s.Optim.Name = "lion" },
		"pure": func(s *schemas.TrainStage) { s.DType, s.PureBF16, s.Optim.Name = "bf16", true, "adamw_8bit" },
		"pure, by block": func(s *schemas.TrainStage) {
			s.DType, s.PureBF16, s.Optim.Name, s.Optim.ByBlock = "bf16", true, "adamw_8bit", true
		},
		"muon by block": func(s *schemas.TrainStage) { s.Optim.Name, s.Optim.ByBlock = "muon", true },
		"galore":        func(s *schemas.TrainStage) { s.Optim.Name, s.Optim.Options = "galore", &schemas.OptimOptions{Rank: 4} },
		"lora in bf16": func(s *schemas.TrainStage) {
			s.DType, s.Method, s.LoRA = "bf16", "lora", &schemas.LoRA{Rank: 4, Alpha: 8}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &schemas.TrainStage{Objective: "sft", Method: "full", MicroBatch: 2, Leaves: 1, DType: "fp32", Sharding: "none", Reduction: "canonical",
				Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "constant"}}
			edit(s)
			for _, recompute := range []bool{false, true} {
				c := MeasureConfig{Stage: s, Model: model, World: 1, Seq: 32, Recompute: recompute}
				counted, err := Measure(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				dev, err := kernels.Open(kernels.Options{Threads: 1})
				if err != nil {
					t.Fatal(err)
				}
				real, err := MeasureOn(t.Context(), dev, c)
				if err != nil {
					t.Fatal(err)
				}
				if err := dev.Close(); err != nil {
					t.Fatal(err)
				}
				if diff := math.Abs(float64(counted.Peak-real.Peak)) / float64(real.Peak); diff > 0.05 || counted.Activations != real.Activations || counted.Weights != real.Weights {
					t.Errorf("counted %+v, real %+v", counted, real)
				}
			}
		})
	}
}

// TestFootprintOfRanks: with ZeRO-3 a rank of n holds an n-th of the model's state.
func TestFootprintOfRanks(t *testing.T) {
	model := json.RawMessage(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
		"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}`)
	s := &schemas.TrainStage{Objective: "sft", Method: "full", MicroBatch: 1, Leaves: 8, DType: "fp32", Sharding: "zero3", Reduction: "canonical",
		Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "constant"}}
	one, err := Measure(t.Context(), MeasureConfig{Stage: s, Model: model, World: 1, Seq: 32})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 4, 8} {
		f, err := Measure(t.Context(), MeasureConfig{Stage: s, Model: model, World: n, Seq: 32})
		if err != nil {
			t.Fatal(err)
		}
		state := func(f Footprint) float64 { return float64(f.Weights + f.Gradients + f.Optimizer) }
		if share := state(f) * float64(n) / state(one); share < 0.95 || share > 1.05 {
			t.Errorf("%d ranks: rank 0 holds %.3f times an %d-th", n, share, n)
		}
		if f.Parameters != one.Parameters || f.Trainable != one.Trainable {
			t.Errorf("%d ranks: %+v", n, f)
		}
	}
}
