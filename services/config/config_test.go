package config

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// project makes a folder with a model, data and the guide's configuration.
func project(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "model/config.json", `{"model_type":"llama","max_position_embeddings":128}`)
	write(t, dir, "model/model.safetensors", "weights")
	write(t, dir, "model/tokenizer.json", `{}`)
	write(t, dir, "model/pytorch_model.bin", "never read")
	write(t, dir, "train.jsonl", `{"instruction":"Name the clause.","input":"text","output":"term"}`+"\n")
	write(t, dir, "eval.jsonl", `{"instruction":"Name the clause.","input":"text","output":"term"}`+"\n")
	write(t, dir, "finetune.yaml", guideYAML)
	return dir
}

const guideYAML = `
model:
  base_model: ./model
  lora_rank: 8
  freeze_layers: 2
training:
  batch_size: 32
  micro_batch_size: 4
  learning_rate: 2e-4
  epochs: 2
  warmup_steps: 10
data:
  train_path: train.jsonl
  eval_path: eval.jsonl
`

func TestGuideResolvesToRunSpec(t *testing.T) {
	dir := project(t)
	r, err := Load(context.Background(), filepath.Join(dir, "finetune.yaml"), Options{Guide: GuideFlags{OutputDir: "./output", LogDir: "./logs", DeviceMap: "auto", NumWorkers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	train, err := r.Spec.StageOf("train")
	if err != nil {
		t.Fatal(err)
	}
	tr := train.Train
	if tr.MicroBatch != 4 || tr.Leaves != 8 || tr.Optim.LR != 2e-4 || tr.Optim.WarmupSteps != 10 || tr.Epochs != 2 || tr.FreezeLayers != 2 {
		t.Errorf("train stage: %+v", tr)
	}
	if tr.Method != "lora" || tr.LoRA == nil || tr.LoRA.Rank != 8 || tr.World.Max != 2 || tr.Eval != "prep-eval/eval" || tr.Objective != "sft" {
		t.Errorf("train stage: %+v %+v", tr, tr.LoRA)
	}
	prep, err := r.Spec.StageOf("prep")
	if err != nil {
		t.Fatal(err)
	}
	if c := prep.Prep.Columns; c["prompt"] != "instruction" || c["query"] != "input" || c["response"] != "output" {
		t.Errorf("columns: %v", c)
	}
	if prep.Prep.Outputs[0].CutoffLen != 128 {
		t.Errorf("cutoff %d, expected the model's 128", prep.Prep.Outputs[0].CutoffLen)
	}
	var names []string
	for _, in := range r.Inputs {
		names = append(names, filepath.Base(in.Local))
	}
	slices.Sort(names)
	if want := []string{"config.json", "eval.jsonl", "model.safetensors", "tokenizer.json", "train.jsonl"}; !slices.Equal(names, want) {
		t.Errorf("inputs %v, expected %v (never the pickle file)", names, want)
	}
	if r.Output != "./output" || r.Logs != "./logs" || r.Workers != 2 || r.Form != FormGuide {
		t.Errorf("resolved: %+v", r)
	}
}

func TestGuideBatches(t *testing.T) {
	for _, c := range []struct {
		batch, micro, accumulate int
		wantMicro, wantLeaves    int
		nominal                  int
		bad                      bool
	}{
		{32, 4, 0, 4, 8, 1, false},
		{32, 0, 0, 1, 32, 1, false},
		{0, 4, 8, 4, 8, 1, false},
		{32, 0, 8, 4, 8, 1, false},
		{64, 4, 8, 4, 16, 2, false},
		{0, 0, 0, 1, 8, 1, false},
		{0, 0, 3, 1, 3, 1, false},
		{30, 4, 0, 0, 0, 0, true},
		{32, 4, 3, 0, 0, 0, true},
		{30, 0, 4, 0, 0, 0, true},
		{-1, 4, 0, 0, 0, 0, true},
	} {
		g := guideDefaults()
		g.Training.BatchSize, g.Training.MicroBatchSize, g.Training.GradientAccumulation = c.batch, c.micro, c.accumulate
		p := &problems{}
		micro, leaves, nominal := g.batches(newMap(), p)
		if c.bad != (p.err() != nil) {
			t.Errorf("%+v: error %v", c, p.err())
		}
		if !c.bad && (micro != c.wantMicro || leaves != c.wantLeaves || nominal != c.nominal) {
			t.Errorf("%+v: got %d x %d, nominal %d", c, micro, leaves, nominal)
		}
	}
}

func TestOverrides(t *testing.T) {
	dir := project(t)
	r, err := Load(context.Background(), filepath.Join(dir, "finetune.yaml"), Options{Overrides: []string{"training.learning_rate=1e-5", "model.lora_rank=0", "model.freeze_layers=1", "name=mine"}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Spec.StageOf("train")
	if err != nil {
		t.Fatal(err)
	}
	if st.Train.Optim.LR != 1e-5 || st.Train.Method != "freeze" || r.Spec.Name != "mine" {
		t.Errorf("override lost: %+v name %q", st.Train, r.Spec.Name)
	}
}

func TestBadInputNamesThePlace(t *testing.T) {
	t.Setenv("HF_HUB_OFFLINE", "1")
	t.Setenv("TUNEFLEET_REMOTE_CACHE", t.TempDir())
	for name, c := range map[string]struct {
		file, content string // replaces a file of the project
		flags         GuideFlags
		code          schemas.Code
		want          []string
	}{
		"unknown keys, all at once": {"finetune.yaml", strings.NewReplacer("lora_rank", "lora_rnk", "epochs", "epoch").Replace(guideYAML), GuideFlags{},
			schemas.CodeInvalid, []string{`finetune.yaml:4: unknown key "model.lora_rnk"; did you mean "lora_rank"?`, `finetune.yaml:10: unknown key "training.epoch"; did you mean "epochs"?`}},
		"wrong types":   {"finetune.yaml", strings.Replace(guideYAML, "2e-4", "fast", 1), GuideFlags{}, schemas.CodeInvalid, []string{`training.learning_rate is "fast", expected a number`}},
		"anchor":        {"finetune.yaml", "model: &m {base_model: x}\ndata: *m\n", GuideFlags{}, schemas.CodeInvalid, []string{"anchors and aliases are not allowed"}},
		"merge key":     {"finetune.yaml", "model: {base_model: x}\ndata:\n  <<: {a: 1}\n", GuideFlags{}, schemas.CodeInvalid, []string{"merge keys"}},
		"twice":         {"finetune.yaml", "model: {base_model: a}\nmodel: {base_model: b}\n", GuideFlags{}, schemas.CodeInvalid, []string{"finetune.yaml", "model"}},
		"broken YAML":   {"finetune.yaml", "model: [a\n", GuideFlags{}, schemas.CodeInvalid, []string{"cannot read YAML"}},
		"empty":         {"finetune.yaml", "# nothing\n", GuideFlags{}, schemas.CodeInvalid, []string{"empty"}},
		"neither form":  {"finetune.yaml", "trainin: 1\n", GuideFlags{}, schemas.CodeInvalid, []string{`unknown key "trainin"; did you mean "training"?`}},
		"llama-factory": {"finetune.yaml", "model_name_or_path: x\n", GuideFlags{}, schemas.CodeInvalid, []string{"none of do_train, do_eval and do_predict is true"}},
		"fp16 and bf16": {"finetune.yaml", guideYAML, GuideFlags{FP16: true, BF16: true}, schemas.CodeUsage, []string{"fp16, bf16"}},
		"all at once": {"finetune.yaml", strings.NewReplacer("learning_rate: ", "learning_rate: -", "train_path: ", "train_path: ./absent-", "base_model: ", "base_model: ./absent-").Replace(guideYAML),
			GuideFlags{ReportTo: "wandb"}, schemas.CodeInvalid, []string{"training.learning_rate", "no such file or folder", "no such folder", "wandb"}},
		"tracker":         {"finetune.yaml", guideYAML, GuideFlags{ReportTo: "wandb"}, schemas.CodeUnsupported, []string{"wandb"}},
		"device map":      {"finetune.yaml", guideYAML, GuideFlags{DeviceMap: "cuda:0"}, schemas.CodeUnsupported, []string{"cuda:0"}},
		"batch":           {"finetune.yaml", strings.Replace(guideYAML, "batch_size: 32", "batch_size: 30", 1), GuideFlags{}, schemas.CodeInvalid, []string{"finetune.yaml:7", "no multiple"}},
		"missing data":    {"finetune.yaml", strings.Replace(guideYAML, "train.jsonl", "nowhere.jsonl", 1), GuideFlags{}, schemas.CodeNotFound, []string{"nowhere.jsonl"}},
		"empty data":      {"train.jsonl", "", GuideFlags{}, schemas.CodeData, []string{"train.jsonl", "empty"}},
		"unclear columns": {"train.jsonl", `{"a":1}`, GuideFlags{}, schemas.CodeData, []string{"train.jsonl:1", "data.columns"}},
		"no model":        {"finetune.yaml", strings.Replace(guideYAML, "./model", "./mode", 1), GuideFlags{}, schemas.CodeNotFound, []string{"./mode"}},
		"hub name":        {"finetune.yaml", strings.Replace(guideYAML, "./model", "llama-7b", 1), GuideFlags{}, schemas.CodeNotFound, []string{"huggyllama/llama-7b", "hf download"}},
		"near a hub name": {"finetune.yaml", strings.Replace(guideYAML, "./model", "lama-7b", 1), GuideFlags{}, schemas.CodeNotFound, []string{"nearest names: llama-7b"}},
		"no config":       {"model/config.json", "", GuideFlags{}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HF_HUB_CACHE", t.TempDir())
			dir := project(t)
			write(t, dir, c.file, c.content)
			_, err := Load(context.Background(), filepath.Join(dir, "finetune.yaml"), Options{Guide: c.flags})
			if c.code == "" {
				if err != nil {
					t.Fatalf("unexpected: %v", err)
				}
				return
			}
			if !schemas.IsCode(err, c.code) {
				t.Fatalf("got %v, expected code %s", err, c.code)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not hold %q", err, w)
				}
			}
		})
	}
}

func TestPickleWeightsAreRefused(t *testing.T) {
	dir := project(t)
	if err := os.Remove(filepath.Join(dir, "model", "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(context.Background(), filepath.Join(dir, "finetune.yaml"), Options{})
	if !schemas.IsCode(err, schemas.CodeModel) || !strings.Contains(err.Error(), "pytorch_model.bin") {
		t.Fatalf("got %v", err)
	}
}

func TestLinkOutOfFolderIsRefused(t *testing.T) {
	dir := project(t)
	secret := write(t, t.TempDir(), "secret.json", "{}")
	if err := os.Symlink(secret, filepath.Join(dir, "model", "extra.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(context.Background(), filepath.Join(dir, "finetune.yaml"), Options{}); err == nil || !strings.Contains(err.Error(), "extra.json") {
		t.Fatalf("got %v", err)
	}
}

func TestHubCacheSnapshotIsFound(t *testing.T) {
	hub := t.TempDir()
	t.Setenv("HF_HUB_CACHE", hub)
	repo := filepath.Join(hub, "models--huggyllama--llama-7b")
	write(t, repo, "blobs/abc", `{"max_position_embeddings":64}`)
	snapshot := filepath.Join(repo, "snapshots", "rev1")
	if err := os.MkdirAll(snapshot, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../blobs/abc", filepath.Join(snapshot, "config.json")); err != nil {
		t.Fatal(err)
	}
	folder, m, err := newCollector(".", Options{}).model(context.Background(), "LLaMA_7B-hf", "")
	if err != nil || folder != snapshot || m.Hub != "huggyllama/llama-7b" {
		t.Fatalf("got %q %+v %v", folder, m, err)
	}
	names, err := listFolder(snapshot)
	if err != nil || !slices.Equal(names, []string{"config.json"}) {
		t.Fatalf("got %v %v", names, err)
	}
}

func TestSpecForm(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "rows.jsonl", `{"text":"a"}`+"\n")
	write(t, dir, "tokenizer.json", "{}")
	spec := `
name: tiny
seed: 7
stages:
  - name: prep
    kind: prep
    prep:
      data: rows.jsonl
      tokenizer: tokenizer.json
      columns: {text: text}
      parts: 2
      clean: {normalize: true}
      split: {test: 0.1}
      outputs:
        - {name: text, form: pt, split: train, cutoff_len: 64, packing: true}
`
	f := write(t, dir, "run.yaml", spec)
	r, err := Load(context.Background(), f, Options{Overrides: []string{"stages.prep.prep.parts=3"}})
	if err != nil {
		t.Fatal(err)
	}
	p := r.Spec.Stages[0].Prep
	if r.Form != FormSpec || p.Parts != 3 || len(p.Data.Files) != 1 || p.Data.Files[0].Path != "rows.jsonl" || len(r.Inputs) != 2 {
		t.Fatalf("got %+v", p)
	}
	write(t, dir, "run.yaml", strings.Replace(spec, "cutoff_len: 64", "cutof_len: 64", 1))
	if _, err := Load(context.Background(), f, Options{}); err == nil || !strings.Contains(err.Error(), `unknown key "stages[0].prep.outputs[0].cutof_len"; did you mean "cutoff_len"?`) {
		t.Fatalf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(guideYAML))
	f.Add([]byte("stages: [{name: a, kind: prep, prep: {parts: 1}}]"))
	f.Add([]byte("a: &x [*x]"))
	f.Add([]byte("? [a]\n: b"))
	f.Add([]byte("\"\": \n- -"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parse("f.yaml", data)
		if err != nil {
			if !schemas.IsCode(err, schemas.CodeInvalid) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		p := &problems{file: "f.yaml"}
		switch formOf(n) {
		case FormSpec, FormGuide:
		default:
			if unknownForm(n, p) == nil {
				t.Fatal("an unknown form was accepted")
			}
		}
	})
}
