package verify

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// TestRandomDense compares every architecture without experts, with odd sizes and the options that the reference set leaves out, with
// transformers both ways: logits, loss, every gradient and greedy generation of their models here, and logits of our export there.
func TestRandomDense(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	dir := t.TempDir()
	runReference(t, "testdata/dense/make.py", dir, "11")
	folders, err := os.ReadDir(dir)
	if err != nil || len(folders) < 60 {
		t.Fatalf("%d folders: %v", len(folders), err)
	}
	for i, f := range folders {
		t.Run(f.Name(), func(t *testing.T) {
			folder := filepath.Join(dir, f.Name())
			rep, err := VerifyModel(context.Background(), folder, Options{Threads: 2, Checkpoint: i%2 == 1})
			mustPass(t, rep, err)
			exportModel(t, folder)
		})
	}
	loadsInTransformers(t, dir)
}

// runReference runs a script of the reference implementation, and returns what it prints.
func runReference(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), args...)
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs.String())
	}
	return out
}

// loadsInTransformers checks that transformers loads the exports of the folders below dir and computes their logits.
func loadsInTransformers(t *testing.T, dir string) {
	t.Helper()
	var differ map[string]string
	if err := json.Unmarshal(runReference(t, "testdata/exported.py", dir), &differ); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(differ)) {
		t.Errorf("%s loaded by transformers from our export: %s", name, differ[name])
	}
}

// exportModel loads the model of a folder and writes it to the folder's export.
func exportModel(t *testing.T, folder string) {
	t.Helper()
	root, err := openRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := openSession(context.Background(), root, Options{Threads: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := root.Mkdir("export", 0o755); err != nil {
		t.Fatal(err)
	}
	to, err := root.OpenRoot("export")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	config, err := root.ReadFile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := to.WriteFile("config.json", config, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := safetensors.WriteFile(to, "model.safetensors", nn.Entries(s.queue, nn.Params(s.model.Root())), map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
}
