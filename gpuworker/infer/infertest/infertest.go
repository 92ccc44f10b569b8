// Package infertest makes a small model that tests of inference answer with.
package infertest

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// Folder writes a model folder: a llama of two blocks with drawn weights, and the tokenizer of the contract-review example. keys replace keys of its
// config.json. What it says makes no sense, but is always the same.
func Folder(t testing.TB, keys map[string]any) string { return folder(t, keys, false) }

// Endless is Folder for a model that never ends an answer by itself.
func Endless(t testing.TB, keys map[string]any) string { return folder(t, keys, true) }

// eos is the tokenizer's end of a sequence.
const eos = 2

func folder(t testing.TB, keys map[string]any, endless bool) string {
	t.Helper()
	dir := t.TempDir()
	config := map[string]any{"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
		"hidden_act": "silu", "tie_word_embeddings": false}
	for k, v := range keys {
		config[k] = v
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), raw)
	tok := find(t, filepath.Join("producer", "examples", "contract-review", "tokenizer"))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join(tok, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), b)
	}
	m, err := zoo.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var entries []safetensors.Entry
	for _, p := range nn.Params(m.Root()) {
		v := make([]float32, p.Len())
		for i := range v {
			v[i] = float32(rng.NormFloat64() * 0.15)
			if len(p.Shape) == 1 {
				v[i]++
			}
		}
		if endless && p.Name == m.Info().HeadKey {
			width := p.Shape[1] // a logit of 0 is never the greatest of so many drawn ones
			clear(v[eos*width : (eos+1)*width])
		}
		entries = append(entries, safetensors.Entry{Name: p.Name, Shape: p.Shape, Float32: v})
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := safetensors.WriteFile(root, "model.safetensors", entries, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// find is a path of the repository, from a package's folder.
func find(t testing.TB, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			return filepath.Join(dir, path)
		}
		if filepath.Dir(dir) == dir {
			t.Fatalf("no %s above the test's folder", path)
		}
		dir = filepath.Dir(dir)
	}
}
