package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestTrainWithoutServer takes the simpler form through the whole path with nothing running: a base model is made by a run spec, then tuned
// by LoRA from model/training/data.
func TestTrainWithoutServer(t *testing.T) {
	p := project(t)
	dir := t.TempDir()
	base := filepath.Join(p, "model")
	cli(t, nil, "train", filepath.Join(p, "run.yaml"), "--dir", dir, "--output_dir", base, "--log_dir", filepath.Join(p, "logs0"), "--no-color").want(t, 0, "run succeeded")
	for _, f := range []string{"config.json", "model.safetensors", "tokenizer.json", "trainer_state.json", "all_results.json"} {
		if _, err := os.Stat(filepath.Join(base, f)); err != nil {
			t.Fatalf("the base model lacks %s: %v", f, err)
		}
	}
	put(t, p, "train.jsonl", strings.Repeat(`{"instruction":"Name it.","input":"the party shall pay","output":"payment"}`+"\n"+`{"instruction":"Say it.","input":"the law","output":"law"}`+"\n", 8))
	put(t, p, "eval.jsonl", `{"instruction":"Name it.","input":"pay the court","output":"payment"}`+"\n")
	file := put(t, p, "finetune.yaml", `
model: {base_model: ./model, lora_rank: 4, freeze_layers: 1}
training: {batch_size: 4, micro_batch_size: 2, learning_rate: 1e-3, epochs: 2, warmup_steps: 1}
data: {train_path: train.jsonl, eval_path: eval.jsonl}
`)
	out, logs := filepath.Join(p, "out"), filepath.Join(p, "logs")
	r := cli(t, nil, "train", "--config", file, "--output_dir", out, "--log_dir", logs, "--device_map", "auto", "--num_workers", "2", "--dir", dir, "--no-color", "data.template=default")
	r.want(t, 0, "run succeeded", "batch: 4 sequences a step = 2 leaves of 2")
	for _, f := range []string{"adapter_config.json", "adapter_model.safetensors", "merged/config.json", "merged/model.safetensors"} {
		if info, err := os.Stat(filepath.Join(out, f)); err != nil || info.Size() == 0 {
			t.Errorf("the result lacks %s: %v", f, err)
		}
	}
	var state struct {
		GlobalStep int              `json:"global_step"`
		History    []map[string]any `json:"log_history"`
	}
	readJSON(t, filepath.Join(out, "trainer_state.json"), &state)
	if state.GlobalStep == 0 || len(state.History) != state.GlobalStep {
		t.Errorf("trainer_state.json: %d steps, %d rows of history", state.GlobalStep, len(state.History))
	}
	var results map[string]float64
	readJSON(t, filepath.Join(out, "all_results.json"), &results)
	if results["train_loss"] <= 0 || results["eval_loss"] <= 0 || results["epoch"] != 2 {
		t.Errorf("all_results.json: %v", results)
	}
	data, err := os.ReadFile(filepath.Join(logs, trainerLogName))
	// One line a step, and one of the evaluation at the end, as LLaMA-Factory writes them.
	if err != nil || strings.Count(string(data), `"loss":`) != state.GlobalStep || strings.Count(string(data), `"eval_loss":`) != 1 ||
		strings.Count(string(data), "\n") != state.GlobalStep+1 || !strings.Contains(string(data), `"current_steps":1`) {
		t.Errorf("trainer_log.jsonl: %v %s", err, data)
	}

	t.Run("full disk", func(t *testing.T) {
		full := t.TempDir()
		if err := os.Symlink("/dev/full", filepath.Join(full, trainerLogName)); err != nil {
			t.Fatal(err)
		}
		r := cli(t, nil, "train", "--config", file, "--output_dir", filepath.Join(full, "out"), "--log_dir", full, "--dir", dir, "--no-color", "training.seed=9")
		r.want(t, schemas.ExitCodes()[schemas.CodeDiskFull], "no space left")
		if left, _ := filepath.Glob(filepath.Join(full, "out", "*")); len(left) > 0 {
			t.Errorf("half a result was written: %v", left)
		}
	})
	t.Run("damaged weights", func(t *testing.T) {
		if err := os.CopyFS(filepath.Join(p, "damaged"), os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		weights := filepath.Join(p, "damaged", "model.safetensors")
		info, err := os.Stat(weights)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(weights, info.Size()-100); err != nil {
			t.Fatal(err)
		}
		cli(t, nil, "train", "--config", file, "model.base_model=./damaged", "--dry-run").want(t, schemas.ExitCodes()[schemas.CodeModel], weights, "the header describes", "fetch it again")
	})
	t.Run("not built yet", func(t *testing.T) {
		put(t, p, "qwen/config.json", `{"architectures":["LamaForCausalLM"]}`)
		put(t, p, "qwen/model.safetensors", "")
		put(t, p, "qwen/tokenizer.json", "{}")
		cli(t, nil, "train", "--config", file, "model.base_model=./qwen", "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeModel],
			`config.json: architecture "LamaForCausalLM" is not supported`, "hint: nearest known: LlamaForCausalLM")
		for _, flag := range []string{"--report_to=wandb", "--device_map=cuda:1"} {
			cli(t, nil, "train", "--config", file, flag, "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeUnsupported], "not supported by this version")
		}
		cli(t, []string{"TUNEFLEET_CUDA_LIB=/nowhere.so"}, "train", "--config", file, "--device_map=cuda", "--dir", dir).
			want(t, schemas.ExitCodes()[schemas.CodeUnsupported], "/nowhere.so")
		cli(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT="}, "train", "--config", file, "--report_to=otlp", "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeUsage], "OTEL_EXPORTER_OTLP_ENDPOINT")
	})
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
