package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRandomLayouts verifies folders of the layout of the reference set's trainings, whose architecture, sizes and hyperparameters a seed draws:
// every step, final weights, merged adapters, preference losses and their gradients, sampling, accumulation. With TUNEFLEET_SEED it takes
// every architecture and that seed.
func TestRandomLayouts(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	seed, names := os.Getenv("TUNEFLEET_SEED"), []string(nil)
	if seed == "" {
		seed, names = "17", strings.Fields("llama phi3 glm4_moe mistral")
	}
	dir := t.TempDir()
	out := runReference(t, append([]string{"testdata/layout/make.py", dir, seed}, names...)...)
	t.Logf("%s", out)
	folders, err := filepath.Glob(filepath.Join(dir, "train", "*", "summary.json"))
	if err != nil || len(folders) < max(len(names), 20)*3/4 && len(folders) < len(names) {
		t.Fatalf("%d folders: %v\n%s", len(folders), err, out)
	}
	for i, f := range folders {
		folder := filepath.Dir(f)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			rep, err := VerifyTrain(t.Context(), folder, Options{Threads: 2, Checkpoint: i%2 == 1})
			mustPass(t, rep, err)
		})
	}
}
