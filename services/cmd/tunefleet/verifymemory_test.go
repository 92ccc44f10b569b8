package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestPlannedMemoryIsResident: what a process takes for a training step is what plan says without running it, and what its threads hold, within
// 5 %; what was resident before, the program itself, apart.
func TestPlannedMemoryIsResident(t *testing.T) {
	model := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(model, []byte(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1376,
		"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"full", "lora", "int8", "qlora"} {
		args := []string{"--model", model, "--method", method, "--seq", "512", "--dtype", "fp32", "--json"}
		var planned planRow
		first(t, &planned, append([]string{"plan", "--max-world", "1"}, args...)...)
		var took memoryReport
		first(t, &took, append([]string{"verify", "memory", "--device", "cpu"}, args...)...)
		want := planned.Footprint.Peak + planned.Footprint.Threads
		if took.RSS == 0 {
			t.Skip("the system does not tell what is resident")
		}
		if got := took.RSS - took.Before; float64(got) < 0.95*float64(want) || float64(got) > 1.05*float64(want) {
			t.Errorf("%s: %d bytes are resident beside the program's %d (Go heap %d), planned %d", method, got, took.Before, took.GoHeap, want)
		}
	}
}

// TestTooMuchMemoryIsRefused: a step that does not fit is told and not begun.
func TestTooMuchMemoryIsRefused(t *testing.T) {
	cli(t, nil, "verify", "memory", "--model", "llama-2-7b", "--method", "lora", "--seq", "8", "--micro-batch", "200000", "--device", "cpu").
		want(t, schemas.ExitCodes()[schemas.CodeMemory], "will take about", "the step would take", "are free", "--force")
	if err := fits(5, 4); !schemas.IsCode(err, schemas.CodeMemory) {
		t.Errorf("5 bytes of 4 give %v", err)
	}
	if err := errors.Join(fits(4, 4), fits(5, 0)); err != nil {
		t.Error(err)
	}
}

// first decodes the first JSON value that a command prints.
func first(t *testing.T, v any, args ...string) {
	t.Helper()
	r := cli(t, nil, args...)
	r.want(t, 0)
	if err := json.NewDecoder(strings.NewReader(r.out)).Decode(v); err != nil {
		t.Fatalf("%v prints %q: %v", args, r.out, err)
	}
}
