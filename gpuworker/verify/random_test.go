package verify

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// TestRandomOptions compares architectures with transformers, with options drawn from those of their configurations. With TUNEFLEET_SEED
// it takes every architecture and draws from that seed.
func TestRandomOptions(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	if seed := os.Getenv("TUNEFLEET_SEED"); seed != "" {
		randomOptions(t, seed)
		return
	}
	randomOptions(t, "23", strings.Fields("olmoe nemotron smollm3 opt gpt_neox gemma3_text phi3 qwen3_moe deepseek_v3 glm4_moe gpt_oss cohere2 hunyuan_v1_moe phimoe")...)
	randomOptions(t, "201", "falcon") // ALiBi with 16 heads
	randomOptions(t, "204", "bloom")  // a mask with holes, 12 heads
}

// randomOptions draws the options of the named architectures, or of all.
func randomOptions(t *testing.T, seed string, names ...string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python(t), append([]string{"testdata/random/make.py", dir, seed}, names...)...)
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	least := len(names)
	if least == 0 {
		least = 10
	}
	folders, err := filepath.Glob(filepath.Join(dir, "*", goldenName))
	if err != nil || len(folders) < least {
		t.Fatalf("%d folders: %v\n%s", len(folders), err, out)
	}
	for i, f := range folders {
		folder := filepath.Dir(f)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			rep, err := VerifyModel(context.Background(), folder, Options{Threads: 2, Checkpoint: i%2 == 1})
			mustPass(t, rep, err)
			emitsWhatTheReferenceHas(t, folder)
		})
	}
}

// emitsWhatTheReferenceHas checks that a folder's results are emitted under the reference's keys, with the same bytes when the folder has the inputs alone.
func emitsWhatTheReferenceHas(t *testing.T, folder string) {
	t.Helper()
	bare, with, without := copyTree(t, folder), t.TempDir(), t.TempDir()
	input := func(e *safetensors.Entry) bool { return inputsOnly(e) || e.Name == "position_ids" }
	rewrite(t, bare, goldenName, input)
	for dir, out := range map[string]string{folder: with, bare: without} {
		if _, err := VerifyModel(context.Background(), dir, Options{Emit: out, Threads: 2}); err != nil {
			t.Fatal(err)
		}
	}
	sameFile(t, with, without, goldenName)
	want, got := openFile(t, folder, goldenName), openFile(t, without, goldenName)
	for _, i := range want.Infos() {
		if input(&safetensors.Entry{Name: i.Name}) {
			continue
		}
		if j, ok := got.Info(i.Name); !ok || j.DType != i.DType || !equal(i.Shape, j.Shape) {
			t.Errorf("%s is emitted as %v %v, the reference has %v %v", i.Name, j.DType, j.Shape, i.DType, i.Shape)
		}
	}
}
