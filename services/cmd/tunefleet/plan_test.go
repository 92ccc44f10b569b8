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
	out.Reset()
	if code := run(t.Context(), []string{"plan", "--model", model, "--method", "full", "--seq", "512", "--max-world", "1", "--offload-activations"}, nil, &out, &errOut); code != 0 || !strings.Contains(out.String(), "the inputs of blocks are the host's until the backward pass: ") {
		t.Errorf("exit %d: %s", code, out.String())
	}
	for _, bad := range [][]string{{"plan"}, {"plan", "--model", "none-such"}, {"plan", "--model", model, "--method", "magic"}, {"plan", "--model", model, "--memory", "much"}} {
		if code := run(t.Context(), bad, nil, &out, &errOut); code == 0 {
			t.Errorf("%v succeeds", bad)
		}
	}
}

// TestPlanTable: every method on Llama-2-7B and 70B takes less than LLaMA-Factory's table says, on devices that exist, and every public model
// is planned for every method.
func TestPlanTable(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"plan", "--table", "--json"}, nil, &out, &errOut); code != 0 {
		t.Fatalf("exit %d: %s", code, errOut.String())
	}
	want := map[string]int64{
		"llama-2-7b full, fp32 masters": 120, "llama-2-7b full, pure bf16": 60, "llama-2-7b lora": 16, "llama-2-7b qlora, int8": 10, "llama-2-7b qlora, nf4": 6,
		"llama-2-70b full, fp32 masters": 1200, "llama-2-70b full, pure bf16": 600, "llama-2-70b lora": 160, "llama-2-70b qlora, int8": 80, "llama-2-70b qlora, nf4": 48,
	}
	rows := 0
	for line := range strings.Lines(out.String()) {
		var r tableRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		rows++
		if !r.Fits || r.Footprint.Peak > r.Memory || r.Why == "" {
			t.Errorf("%s %s does not fit: %+v", r.Model, r.Method, r)
		}
		bar, ok := want[r.Model+" "+r.Method]
		if !ok {
			continue
		}
		delete(want, r.Model+" "+r.Method)
		if r.Total != int64(r.Devices)*r.Footprint.Peak || r.Total >= bar*1e9 || r.Upstream != bar*1e9 {
			t.Errorf("%s %s takes %d bytes on %d devices, LLaMA-Factory %d GB", r.Model, r.Method, r.Total, r.Devices, bar)
		}
	}
	if rows != len(publicConfigs())*len(recipes()) || len(want) > 0 {
		t.Errorf("%d rows; missing: %v", rows, want)
	}
}

// TestBenchZero: with ZeRO-3 a rank of n holds an n-th, four ranks save more than 60 % each, and plan predicts what they take.
func TestBenchZero(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"bench", "zero", "--seq", "16", "--json"}, nil, &out, &errOut); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out.String(), errOut.String())
	}
	want := 1
	for line := range strings.Lines(out.String()) {
		var r zeroRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Ranks != want || !r.OK || r.Largest.World != r.Ranks || r.GoHeap <= 0 {
			t.Errorf("row %+v", r)
		}
		if r.Ranks == 4 && r.Saving < 0.6 {
			t.Errorf("4 ranks save %.3f", r.Saving)
		}
		want *= 2
	}
	if want != 8 {
		t.Errorf("output %s", out.String())
	}
}
