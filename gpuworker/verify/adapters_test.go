package verify

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// adapterRuns are the run folders with PEFT adapters.
var adapterRuns = []string{"lora", "rslora", "dora", "loraplus", "lora_modules_to_save"}

// Each broken twin fails at the place where it was broken.
func TestBrokenAdapterTwinsFail(t *testing.T) {
	scale := func(name string, f float32) func(e *safetensors.Entry) bool {
		return func(e *safetensors.Entry) bool {
			if e.Name == name {
				for i := range e.Float32 {
					e.Float32[i] *= f
				}
			}
			return true
		}
	}
	drop := func(name string) func(e *safetensors.Entry) bool {
		return func(e *safetensors.Entry) bool { return e.Name != name }
	}
	const q = "base_model.model.model.layers.0.self_attn.q_proj"
	const weights = "adapter_model.safetensors"
	for name, twin := range map[string]struct {
		arch, run, file string
		change          func(e *safetensors.Entry) bool
		place           string
	}{
		"other magnitudes":      {"llama3", "dora", "init/" + weights, scale(q+".lora_magnitude_vector", 2), "dora/trajectory.json:step 0 loss"},
		"no magnitudes":         {"llama3", "dora", "init/" + weights, drop(q + ".lora_magnitude_vector"), q + ".lora_magnitude_vector"},
		"other B":               {"qwen2", "rslora", "init/" + weights, scale(q+".lora_B.weight", 1.5), "rslora/trajectory.json:step 0"},
		"other final A":         {"qwen2", "dora", "final/" + weights, scale(q+".lora_A.weight", 1.01), "dora/final/" + weights + ":" + q + ".lora_A.weight"},
		"no final embedding":    {"qwen2", "lora_modules_to_save", "final/" + weights, drop("base_model.model.model.embed_tokens.weight"), "base_model.model.model.embed_tokens.weight"},
		"other final head":      {"llama3", "lora_modules_to_save", "final/" + weights, scale("base_model.model.lm_head.weight", 1.01), "base_model.model.lm_head.weight"},
		"no initial embedding":  {"qwen2", "lora_modules_to_save", "init/" + weights, drop("base_model.model.model.embed_tokens.weight"), "base_model.model.model.embed_tokens.weight"},
		"other final B of plus": {"llama3", "loraplus", "final/" + weights, scale(q+".lora_B.weight", 1.05), "loraplus/final/" + weights},
		"other merged weight":   {"llama3", "rslora", "golden.safetensors", scale("merged.model.layers.0.self_attn.q_proj.weight", 1.001), "merged.model.layers.0.self_attn.q_proj.weight"},
		"other merged logits":   {"qwen2", "dora", "golden.safetensors", scale("merged_logits_batch0", 1.001), "dora/golden.safetensors:merged_logits_batch0"},
		"other first gradient":  {"llama3", "dora", "golden.safetensors", scale("grad_init."+q+".lora_magnitude_vector.weight", 1.001), q + ".lora_magnitude_vector.weight"},
		"no first logits":       {"llama3", "lora", "golden.safetensors", drop("logits_init_batch0"), "lora/golden.safetensors:logits_init_batch0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, base := trainTwin(t, filepath.Join(fixtures(t), "train", twin.arch))
			folder, file := filepath.Split(filepath.Join(dir, twin.run, filepath.FromSlash(twin.file)))
			rewrite(t, filepath.Clean(folder), file, twin.change)
			rep, err := VerifyTrain(context.Background(), dir, Options{Base: base, Runs: []string{twin.run}})
			mustFail(t, rep, err, twin.place)
		})
	}
}

// From inputs alone the same files come out as beside the reference.
func TestAdapterRunsFromInputsAlone(t *testing.T) {
	for _, arch := range []string{"llama3", "qwen2"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			from := filepath.Join(fixtures(t), "train", arch)
			out, again := t.TempDir(), t.TempDir()
			rep, err := VerifyTrain(context.Background(), from, Options{Emit: out, Runs: adapterRuns})
			mustPass(t, rep, err)
			dir, base := trainTwin(t, from)
			for _, run := range adapterRuns {
				for _, f := range []string{"final", "golden.safetensors", "trajectory.json"} {
					if err := os.RemoveAll(filepath.Join(dir, run, f)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := VerifyTrain(context.Background(), dir, Options{Emit: again, Base: base, Runs: adapterRuns}); err != nil {
				t.Fatal(err)
			}
			for _, run := range adapterRuns {
				for _, f := range []string{"final/adapter_config.json", "final/adapter_model.safetensors", "golden.safetensors", "trajectory.json"} {
					name := filepath.Join(run, filepath.FromSlash(f))
					a, err := os.ReadFile(filepath.Join(out, name))
					if err != nil {
						t.Fatal(err)
					}
					b, err := os.ReadFile(filepath.Join(again, name))
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(a, b) {
						t.Errorf("%s differs", name)
					}
				}
			}
			// What was written is read again, in place of the reference.
			for _, run := range adapterRuns {
				if err := os.CopyFS(filepath.Join(dir, run), os.DirFS(filepath.Join(again, run))); err != nil {
					t.Fatal(err)
				}
			}
			rep, err = VerifyTrain(context.Background(), dir, Options{Base: base, Runs: adapterRuns})
			mustPass(t, rep, err)
		})
	}
}
