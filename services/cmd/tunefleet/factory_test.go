package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
)

// logLines reads a JSONL file.
func logLines(t *testing.T, path string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var m map[string]any
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, m)
	}
	return out
}

// sameKeys compares which keys JSON files have.
func sameKeys(t *testing.T, want, got string, files ...string) {
	t.Helper()
	for _, f := range files {
		var w, g map[string]any
		readJSON(t, filepath.Join(want, f), &w)
		readJSON(t, filepath.Join(got, f), &g)
		if a, b := slices.Sorted(maps.Keys(w)), slices.Sorted(maps.Keys(g)); !slices.Equal(a, b) {
			t.Errorf("%s has the keys %v, LLaMA-Factory's %v", f, b, a)
		}
	}
}

// TestTrainLLaMAFactoryYAML runs two configurations of LLaMA-Factory through the embedded queue and compares what is written with what
// LLaMA-Factory wrote: the log line by line, results, predictions.
func TestTrainLLaMAFactoryYAML(t *testing.T) {
	root := fixturetest.Dir(t, "e2e")
	dir, out := t.TempDir(), t.TempDir()
	cli(t, nil, "train", filepath.Join(root, "sft_full_mix", "train.yaml"), "output_dir="+out, "--dir", dir, "--no-color").
		want(t, 0, "batch: 8 sequences a step = 2 a device x 4 accumulated x 1 nominal", "run succeeded")
	want, got := logLines(t, filepath.Join(root, "sft_full_mix", "out", trainerLogName)), logLines(t, filepath.Join(out, trainerLogName))
	evals := 0
	if len(got) != len(want) {
		t.Errorf("%d lines, LLaMA-Factory wrote %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[min(i, len(got)-1)]
		if _, ok := w["loss"]; !ok {
			if _, ok := w["eval_loss"]; !ok {
				continue
			}
			evals++
		}
		for _, k := range []string{"current_steps", "total_steps", "loss", "eval_loss", "lr", "epoch", "percentage"} {
			a, ok := w[k].(float64)
			if !ok {
				continue
			}
			if b, ok := g[k].(float64); !ok || math.Abs(a-b) > 1e-4*math.Abs(a)+1e-12 {
				t.Fatalf("line %d: %s is %v, LLaMA-Factory wrote %v", i+1, k, g[k], a)
			}
		}
		if a, ok := w["total_tokens"].(float64); ok && w["loss"] != nil && g["total_tokens"] != a {
			t.Fatalf("line %d: %v tokens, LLaMA-Factory counts %v", i+1, g["total_tokens"], a)
		}
	}
	if len(want) < 38 || evals < 3 {
		t.Fatalf("the reference has %d lines and %d evaluations", len(want), evals)
	}
	for _, f := range []string{"all_results.json", "train_results.json", "eval_results.json"} {
		var w, g map[string]any
		readJSON(t, filepath.Join(root, "sft_full_mix", "out", f), &w)
		readJSON(t, filepath.Join(out, f), &g)
		for _, k := range []string{"epoch", "train_loss", "eval_loss", "num_input_tokens_seen", "total_flos"} {
			a, ok := w[k].(float64)
			if !ok {
				continue
			}
			if b, ok := g[k].(float64); !ok || math.Abs(a-b) > 1e-3*math.Abs(a) {
				t.Errorf("%s: %s is %v, LLaMA-Factory wrote %v", f, k, g[k], a)
			}
		}
	}
	sameKeys(t, filepath.Join(root, "sft_full_mix", "out"), out, "all_results.json", "train_results.json", "eval_results.json", "trainer_state.json")
	var w, g struct {
		Step    int              `json:"global_step"`
		Max     int              `json:"max_steps"`
		History []map[string]any `json:"log_history"`
	}
	readJSON(t, filepath.Join(root, "sft_full_mix", "out", "trainer_state.json"), &w)
	readJSON(t, filepath.Join(out, "trainer_state.json"), &g)
	if w.Step != g.Step || w.Max != g.Max || len(g.History) != len(w.History) {
		t.Errorf("trainer_state.json: %d of %d steps, %d rows; LLaMA-Factory: %d of %d, %d rows", g.Step, g.Max, len(g.History), w.Step, w.Max, len(w.History))
	}

	for i, h := range w.History {
		for k, v := range h {
			a, ok := v.(float64)
			b, has := g.History[min(i, len(g.History)-1)][k].(float64)
			if timing := strings.Contains(k, "runtime") || strings.Contains(k, "per_second"); !has || ok && !timing && math.Abs(a-b) > 1e-3*math.Abs(a)+1e-4 {
				t.Errorf("trainer_state.json, row %d: %s is %v, LLaMA-Factory wrote %v", i, k, b, v)
			}
		}
	}

	measured := t.TempDir()
	cli(t, nil, "train", filepath.Join(root, "sft_full_mix", "train.yaml"), "do_train=false", "do_eval=true", "output_dir="+measured, "--dir", dir, "--no-color").want(t, 0, "run succeeded")
	var loss map[string]float64
	readJSON(t, filepath.Join(measured, "eval_results.json"), &loss)
	if l := loss["eval_loss"]; l < 7.6 || l > 7.9 || loss["eval_steps_per_second"] <= 0 {
		t.Errorf("evaluation of the untrained model: %v", loss)
	}

	answers := t.TempDir()
	cli(t, nil, "train", filepath.Join(root, "predict_memo", "predict.yaml"), "output_dir="+answers, "--dir", dir, "--no-color").want(t, 0, "run succeeded")
	a, err := os.ReadFile(filepath.Join(answers, "generated_predictions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "predict_memo", "out", "generated_predictions.jsonl"))
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("generated_predictions.jsonl differs from LLaMA-Factory's (%v)", err)
	}
	var scores map[string]float64
	readJSON(t, filepath.Join(answers, "all_results.json"), &scores)
	if scores["predict_rouge-l"] < 50 || scores["predict_bleu-4"] < 50 {
		t.Errorf("all_results.json: %v", scores)
	}
}
