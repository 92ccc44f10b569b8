package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// written is what a training left behind.
type written struct {
	out, dir, said string
}

// has reports whether the output folder has a file.
func (w written) has(name string) bool {
	_, err := os.Stat(filepath.Join(w.out, name))
	return err == nil
}

// keys are those of a JSON file of the output folder.
func (w written) keys(t *testing.T, name string) map[string]any {
	t.Helper()
	var m map[string]any
	readJSON(t, filepath.Join(w.out, name), &m)
	return m
}

// history is the number of rows of trainer_state.json with a loss.
func (w written) history(t *testing.T) (n int) {
	t.Helper()
	rows, _ := w.keys(t, "trainer_state.json")["log_history"].([]any)
	for _, r := range rows {
		if m, ok := r.(map[string]any); ok && m["loss"] != nil {
			n++
		}
	}
	return n
}

// stored lists the objects that the run stored.
func (w written) stored(t *testing.T) (out []string) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "/runs/") {
			out = append(out, path[strings.Index(path, "/runs/")+1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// commits is how many segments the run was committed in.
func (w written) commits(t *testing.T) int {
	t.Helper()
	return len(slices.DeleteFunc(w.stored(t), func(p string) bool { return !strings.Contains(p, "/log/") || !strings.HasSuffix(p, ".jsonl") }))
}

// spec is the run as it was stored.
func (w written) spec(t *testing.T) *schemas.RunSpec {
	t.Helper()
	for _, p := range w.stored(t) {
		var s schemas.RunSpec
		raw, err := os.ReadFile(w.root(t, p))
		if err == nil && json.Unmarshal(raw, &s) == nil && len(s.Stages) > 0 && s.ID != "" {
			return &s
		}
	}
	t.Fatalf("no spec among %v", w.stored(t))
	return nil
}

// root finds a stored object in the folder of the servers.
func (w written) root(t *testing.T, object string) (path string) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(p string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(p, object) {
			path = p
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKeysChangeWhatIsWritten trains with keys that change nothing of what is computed, and looks for what they change: files, what is in them,
// and how the run is known.
func TestKeysChangeWhatIsWritten(t *testing.T) {
	root := fixturetest.Dir(t, "e2e")
	run := func(more ...string) written {
		w := written{out: t.TempDir(), dir: t.TempDir()}
		args := append([]string{"train", filepath.Join(root, "sft_lora", "train.yaml"), "max_samples=8", "max_steps=4", "save_steps=500", "cutoff_len=64", "output_dir=" + w.out}, more...)
		r := cli(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="}, append(args, "--dir", w.dir, "--no-color")...)
		r.want(t, 0, "run succeeded")
		w.said = r.out + r.err
		return w
	}
	base := run()
	if !base.has("adapter_model.safetensors") || !base.has(trainerLogName) || base.history(t) != 4 || base.keys(t, "all_results.json")["num_input_tokens_seen"] != nil {
		t.Fatalf("the run wrote no adapter or log, %d rows of history, %v", base.history(t), base.keys(t, "all_results.json"))
	}
	if s := base.spec(t); s.Tenant == "acme" || s.Name == "mine" || s.Pool == "other" || s.Priority == 3 {
		t.Fatalf("the base run is %s of %s in %s, priority %d", s.Name, s.Tenant, s.Pool, s.Priority)
	}

	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if w := run("output_dir=" + elsewhere); w.has("adapter_model.safetensors") || !(written{out: elsewhere}).has("adapter_model.safetensors") {
		t.Error("output_dir: the adapter is not there")
	}
	logs := t.TempDir()
	if w := run("logging_dir=" + logs); w.has(trainerLogName) || !(written{out: logs}).has(trainerLogName) {
		t.Error("logging_dir: the log is not there")
	}
	if n := run("logging_steps=2").history(t); n != 2 {
		t.Errorf("logging_steps: %d rows of 4 steps", n)
	}
	one, every, no := base.commits(t), run("save_steps=1").commits(t), run("save_steps=1", "save_strategy=no")
	if every <= one || no.commits(t) >= every {
		t.Errorf("save_steps, save_strategy: %d commits, %d with a commit each step, %d without", one, every, no.commits(t))
	}
	if n := run("include_num_input_tokens_seen=true").keys(t, "all_results.json")["num_input_tokens_seen"]; n == nil {
		t.Error("include_num_input_tokens_seen: all_results.json counts no tokens")
	}
	if s := run("tenant=acme", "run_name=mine", "pool=other", "priority=3").spec(t); s.Tenant != "acme" || s.Name != "mine" || s.Pool != "other" || s.Priority != 3 {
		t.Errorf("tenant, run_name, pool, priority: the run is %s of %s in %s, priority %d", s.Name, s.Tenant, s.Pool, s.Priority)
	}
	cli(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT="}, "train", filepath.Join(root, "sft_lora", "train.yaml"), "report_to=otlp", "output_dir="+t.TempDir(), "--dir", t.TempDir()).
		want(t, schemas.ExitCodes()[schemas.CodeUsage], "OTEL_EXPORTER_OTLP_ENDPOINT")
	merged := t.TempDir()
	run("do_train=false", "export_dir="+merged, "adapter_name_or_path="+filepath.Join(root, "sft_lora", "out"))
	if !(written{out: merged}).has("model.safetensors") {
		t.Error("export_dir: there is no model")
	}
}
