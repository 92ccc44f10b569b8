package traintest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/tunefleet/tunefleet/schemas"
)

// Labels are the classes of Clauses.
func Labels() []string { return []string{"rent", "repairs", "termination"} }

// Clauses makes n labelled rows whose class follows from one word, as JSON lines.
func Clauses(n int) []byte {
	words := map[string][]string{"rent": {"money", "price", "sum"}, "repairs": {"roof", "window", "boiler"}, "termination": {"notice", "end", "leave"}}
	r := rand.New(rand.NewPCG(3, 4))
	var out bytes.Buffer
	for i := range n {
		label := Labels()[i%len(Labels())]
		word := words[label][r.IntN(3)]
		row := map[string]string{"text": fmt.Sprintf("Number %d. The tenant talks about the %s today.", r.IntN(1000), word), "label": label,
			"explanation": "It says " + word + ".", "group": fmt.Sprint(label, i%40)}
		line, err := json.Marshal(row)
		if err != nil {
			continue // strings always encode
		}
		out.Write(append(line, '\n'))
	}
	return out.Bytes()
}

// Config is a llama of 2,048 ids small enough for tests; extra adds keys (", \"key\": value").
func Config(extra string) []byte {
	return fmt.Appendf(nil, `{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":2048,"hidden_size":48,"intermediate_size":96,"num_hidden_layers":2,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":128,"rms_norm_eps":1e-6,"initializer_range":0.2,"tie_word_embeddings":true%s}`, extra)
}

// Stages are prep (2 parts), base (pretraining) and tuned (LoRA) over uploaded clauses, with a tokenizer.json.
func (s *Stack) Stages(clauses, tokenizer, config []byte, baseSteps, tunedSteps int64) []schemas.Stage {
	s.T.Helper()
	optim := schemas.OptimSpec{Name: "adamw", LR: 5e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "cosine", WarmupSteps: 2}
	train := func(name, data, objective string, m schemas.ModelSpec, steps int64) schemas.Stage {
		return schemas.Stage{Name: name, Kind: schemas.KindTrain, Train: &schemas.TrainStage{Objective: objective, Data: data, Model: m, Method: "full", Steps: steps,
			MicroBatch: 4, Leaves: 2, Optim: optim, DType: "fp32", Sharding: "zero3", Reduction: "canonical", CommitEvery: 10, World: schemas.World{Min: 1, Max: 2}}}
	}
	base := train("base", "prep/text", "pt", schemas.ModelSpec{Config: config}, baseSteps)
	tuned := train("tuned", "prep/chat", "sft", schemas.ModelSpec{From: "stage:base"}, tunedSteps)
	tuned.Train.Method, tuned.Train.LoRA = "lora", &schemas.LoRA{Rank: 8, Alpha: 16, Targets: []string{"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}}
	tuned.Train.Eval = "prep/test"
	return []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{
		Data:      schemas.Ref{Files: []schemas.File{s.Upload("clauses.jsonl", clauses)}},
		Tokenizer: schemas.Ref{Files: []schemas.File{s.Upload("tokenizer.json", tokenizer)}},
		Columns:   map[string]string{"text": "text", "label": "label", "explanation": "explanation", "group": "group"},
		Split:     schemas.SplitSpec{Test: 0.25}, Parts: 2,
		Outputs: []schemas.PrepOutput{
			{Name: "text", Form: "pt", Split: "train", CutoffLen: 64, Packing: true},
			{Name: "chat", Form: "sft", Split: "train", Template: "tunefleet", CutoffLen: 96, Rows: true},
			{Name: "test", Form: "sft", Split: "test", Template: "tunefleet", CutoffLen: 96, Rows: true},
		}}}, base, tuned}
}
