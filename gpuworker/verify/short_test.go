package verify

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestShortAttention compares shifted short attention in training with a few lines of torch.
func TestShortAttention(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), python(t), "testdata/short/make.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, checkpoint := range []bool{false, true} {
		trained(t, dir, "", checkpoint, nil)
	}
}

// TestShortAttentionIsForLlama checks what cannot have it.
func TestShortAttentionIsForLlama(t *testing.T) {
	t.Parallel()
	const sizes = `"hidden_size":32,"num_hidden_layers":1,"vocab_size":11,"num_attention_heads":4`
	for _, c := range []struct{ config, want string }{
		{`{"model_type":"llama","num_key_value_heads":1,` + sizes + `}`, "must be even"},
		{`{"model_type":"qwen2","num_key_value_heads":2,` + sizes + `}`, "Qwen2ForCausalLM"},
	} {
		_, err := zoo.ShortAttention([]byte(c.config))
		if !schemas.IsCode(err, schemas.CodeUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.config, err)
		}
	}
}
