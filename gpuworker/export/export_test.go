package export_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/export"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/train/traintest"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tokenizerFile = "../../producer/examples/contract-review/tokenizer/tokenizer.json"

// trained runs prep, base and LoRA, and an export of each.
func trained(t *testing.T, extra string, change ...func(*schemas.TrainStage)) *traintest.Stack {
	t.Helper()
	tok, err := os.ReadFile(tokenizerFile)
	if err != nil {
		t.Fatal(err)
	}
	s := traintest.New(t)
	stages := s.Stages(traintest.Clauses(80), tok, traintest.Config(extra), 3, 6)
	stages[2].Train.FreezeLayers = 1
	for _, c := range change {
		c(stages[2].Train)
	}
	x := func(name, from string, formats ...string) schemas.Stage {
		return schemas.Stage{Name: name, Kind: schemas.KindExport, Export: &schemas.ExportStage{From: from, Formats: formats, Tokenizer: &stages[0].Prep.Tokenizer}}
	}
	s.Start(append(stages, x("out", "stage:tuned", "merged", "peft"), x("plain", "stage:base", "peft"))...)
	for part := range 2 {
		s.Part(prep.Handle, "prep", part, 2)
	}
	s.Train(train.Handle, "base", 1)
	s.Train(train.Handle, "tuned", 1)
	return s
}

// fetch writes the objects of a result to a folder.
func fetch(t *testing.T, s *traintest.Stack, r *schemas.StageResult) string {
	t.Helper()
	dir := t.TempDir()
	for _, o := range r.Objects {
		raw, _, err := s.Objects.Get(t.Context(), o.Key, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, o.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func ids() []int32 {
	var out []int32
	for i := range 24 {
		out = append(out, int32((i*37+11)%2048))
	}
	return out
}

// logits are the tuned model's, with its adapters apart.
func logits(t *testing.T, s *traintest.Stack) []float32 {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	l, err := train.LoadModel(t.Context(), s.Objects, s.Spec, "acme", "r1", "stage:tuned", q, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mem := autograd.NewMemory(dev, q, 0)
	defer mem.Close()
	tape := autograd.New(mem, autograd.Config{})
	tape.Reset(t.Context(), false)
	out, err := tape.Read(l.Model.Logits(tape, &nn.Batch{Rows: 1, Seq: 24, IDs: ids()}))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFoldersHoldWhatToolsRead(t *testing.T) {
	s := trained(t, "")
	r := s.Part(export.Handle, "out", 0, 1)
	dir := fetch(t, s, r)
	for _, name := range []string{"peft/adapter_config.json", "peft/adapter_model.safetensors", "base/config.json", "base/model.safetensors", "merged/config.json",
		"merged/model.safetensors", "merged/generation_config.json", "merged/tokenizer.json", "merged/tokenizer_config.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s is missing", name)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "peft/adapter_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		R      int    `json:"r"`
		Base   string `json:"base_model_name_or_path"`
		Layers []int  `json:"layers_to_transform"`
	}
	if err := json.Unmarshal(raw, &cfg); err != nil || cfg.R != 8 || cfg.Base != "../base" || fmt.Sprint(cfg.Layers) != "[1]" {
		t.Errorf("adapter_config.json: %+v, %v", cfg, err)
	}
	f, err := safetensors.OpenPath(filepath.Join(dir, "merged"), "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.Info("lm_head.weight"); ok || len(f.Infos()) != 2+9*2 {
		t.Errorf("the merged file has %d tensors", len(f.Infos()))
	}
	if err := export.Handle(t.Context(), s.Task("plain", 0, 1)); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("an adapter of a stage without one: %v", err)
	}
}

// reference is the Python with torch, transformers and peft: TUNEFLEET_PYTHON, or the one that "go tool task python" makes.
func reference(t *testing.T) string {
	t.Helper()
	return fixturetest.Python(t)
}

// The real libraries load what was exported and compute the same logits.
func TestTransformersAndPEFTComputeTheSameLogits(t *testing.T) {
	python := reference(t)
	changes := map[string]func(*schemas.TrainStage){
		// The embedding is tied: its trained copy leaves the head where it was, and the merged model has a head of its own.
		"DoRA, the embedding trained apart": func(t *schemas.TrainStage) { t.LoRA.DoRA, t.LoRA.ModulesToSave = true, []string{"embed_tokens"} },
		"PiSSA": func(t *schemas.TrainStage) {
			t.LoRA.PiSSA, t.LoRA.PiSSAIter, t.LoRA.Targets = true, 4, []string{"q_proj", "up_proj"}
		},
	}
	for name, extra := range map[string]string{"plain": "", "DoRA, the embedding trained apart": "", "PiSSA": "", "llama3 rope and biases": `,"attention_bias":true,"mlp_bias":true,"head_dim":16,"rope_theta":500000.0,
"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32}`} {
		t.Run(name, func(t *testing.T) {
			var s *traintest.Stack
			if change := changes[name]; change != nil {
				s = trained(t, extra, change)
			} else {
				s = trained(t, extra)
			}
			dir := fetch(t, s, s.Part(export.Handle, "out", 0, 1))
			want, err := json.Marshal(map[string]any{"ids": ids(), "logits": logits(t, s)})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "expected.json")
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, python, "testdata/logits.py", dir, file)
			cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			t.Logf("%s", strings.TrimSpace(string(out)))
			if err != nil {
				t.Errorf("the libraries do not agree: %v", err)
			}
		})
	}
}
