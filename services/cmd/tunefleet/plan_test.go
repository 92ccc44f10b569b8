package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlan: a method on a shape is planned per rank, the first row that fits is marked, and what cannot be planned is said.
func TestPlan(t *testing.T) {
	model := filepath.Join(t.TempDir(), "config.json")
	config := `{"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 6, "num_attention_heads": 4}`
	if err := os.WriteFile(model, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"plan", "--model", model, "--method", "full", "--seq", "512", "--micro-batch", "8", "--max-world", "4", "--json", "--memory", "1GiB"}, nil, &out, &errOut); code != 0 {
		t.Fatalf("exit %d: %s", code, errOut.String())
	}
	peak := map[[2]any]int64{}
	for line := range strings.Lines(out.String()) {
		var r planRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Fits == nil || !*r.Fits || r.Footprint.Parameters != 6*(4*64*64+3*64*176+2*64)+2*512*64+64 {
			t.Errorf("row %+v", r)
		}
		peak[[2]any{r.Footprint.World, r.Recompute}] = r.Footprint.Peak
	}
	if len(peak) != 6 || peak[[2]any{1, true}] >= peak[[2]any{1, false}] || peak[[2]any{4, false}] >= peak[[2]any{1, false}] {
		t.Errorf("peaks %v", peak)
	}
	out.Reset()
	if code := run(t.Context(), []string{"plan", "--model", model, "--method", "qlora", "--seq", "64", "--max-world", "1", "--memory", "64KiB"}, nil, &out, &errOut); code != 0 || !strings.Contains(out.String(), "none of these fits into 64.0 KiB") {
		t.Errorf("exit %d: %s", code, out.String())
	}
	for _, bad := range [][]string{{"plan"}, {"plan", "--model", "none-such"}, {"plan", "--model", model, "--method", "magic"}, {"plan", "--model", model, "--memory", "much"}} {
		if code := run(t.Context(), bad, nil, &out, &errOut); code == 0 {
			t.Errorf("%v succeeds", bad)
		}
	}
}
