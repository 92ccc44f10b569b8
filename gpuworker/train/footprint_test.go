package train

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestFootprintIsWhatTrainingTakes: counting without memory gives the figures of devices with memory, for every method and on two ranks too:
// arenas, the workspace of products, and what exchanges go through, each within 5 %.
func TestFootprintIsWhatTrainingTakes(t *testing.T) {
	model := json.RawMessage(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 176,
		"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}`)
	stages := map[string]*schemas.TrainStage{}
	add := func(name string, edit func(*schemas.TrainStage)) {
		s := &schemas.TrainStage{Objective: "sft", Method: "full", MicroBatch: 2, Leaves: 1, DType: "fp32", Sharding: "none", Reduction: "canonical",
			Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "constant"}}
		edit(s)
		stages[name] = s
	}
	for name, st := range methodStages() {
		if st.Train.ExpandBlocks == 0 && !strings.Contains(name, "tied") && !strings.Contains(name, "patterns") { // these change the model's configuration
			add(name, func(s *schemas.TrainStage) {
				o := s.Optim
				*s = *st.Train
				s.Leaves, s.Optim.Name = 1, o.Name
			})
		}
	}
	for _, name := range schemas.Optimizers() {
		add(name, func(s *schemas.TrainStage) { s.Optim.Name, s.Optim.Options = name, &schemas.OptimOptions{Rank: 4} })
		add(name+" by block", func(s *schemas.TrainStage) {
			s.Optim.Name, s.Optim.Options, s.Optim.ByBlock = name, &schemas.OptimOptions{Rank: 4}, true
		})
	}
	add("accumulate", func(s *schemas.TrainStage) { s.Leaves = 3 })
	add("fast", func(s *schemas.TrainStage) { s.Leaves, s.Reduction, s.Sharding = 4, "fast", "zero3" })
	add("zero3", func(s *schemas.TrainStage) { s.Sharding = "zero3" })
	add("zero3, pure, by block", func(s *schemas.TrainStage) {
		s.Sharding, s.DType, s.PureBF16, s.Optim.Name, s.Optim.ByBlock = "zero3", "bf16", true, "adamw_8bit", true
	})
	near := func(got, want int64) bool { return math.Abs(float64(got-want)) <= 0.05*float64(want) }
	for name, s := range stages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, world := range []int{1, 2} {
				c := MeasureConfig{Stage: s, Model: model, World: world, Seq: 32, Recompute: world == 2}
				if strings.HasPrefix(name, "own dropout") {
					c.Model = s.Model.Config
				}
				counted, err := Measure(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				ranks, err := MeasureRanks(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				real := ranks[0]
				if !near(counted.Peak, real.Peak) || !near(counted.Activations, real.Activations) || !near(counted.Workspace, real.Workspace) ||
					!near(counted.Window, real.Window) || !near(counted.Staging, real.Staging) || counted.Weights != real.Weights || counted.Optimizer != real.Optimizer {
					t.Errorf("%d ranks: counted %+v, real %+v", world, counted, real)
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

// TestMeasureRefusesTheAbsurd: sizes that would take hours and all memory to count are refused at once.
func TestMeasureRefusesTheAbsurd(t *testing.T) {
	model := func(hidden, heads int) []byte {
		return fmt.Appendf(nil, `{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":16777216,"hidden_size":%d,"intermediate_size":64,"num_hidden_layers":2,`+
			`"num_attention_heads":%d,"num_key_value_heads":%d,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000.0,"hidden_act":"silu"}`, hidden, heads, heads)
	}
	for _, c := range []struct {
		name          string
		hidden, heads int
		rows, seq     int
		want          string
	}{
		{"parameters", 1 << 24, 1 << 17, 1, 8, "a model of 2.81e+15 parameters"},
		{"sequence", 64, 2, 1, 2e9, "a leaf of 1 sequences of 2000000000 tokens"},
		{"rows", 64, 2, 1e6, 2048, "a leaf of 1000000 sequences"},
	} {
		s := &schemas.TrainStage{Objective: "sft", Method: "full", MicroBatch: c.rows, Leaves: 1, DType: "fp32", Sharding: "none", Reduction: "canonical",
			Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "constant"}}
		_, err := Measure(t.Context(), MeasureConfig{Stage: s, Model: model(c.hidden, c.heads), World: 1, Seq: c.seq})
		if !schemas.IsCode(err, schemas.CodeUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
