package verify

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// TestBF16Fixtures: in bf16 the logits and the loss of some families are near the fp32 references.
func TestBF16Fixtures(t *testing.T) {
	for _, name := range []string{"llama3", "qwen2", "gemma2", "gpt2", "bloom", "gpt_oss", "deepseek_v3", "granitemoe"} {
		t.Run(name, func(t *testing.T) {
			rep, err := VerifyModel(context.Background(), filepath.Join(fixtures(t), "models", name), Options{DType: "bf16", Threads: 2, Checkpoint: name == "llama3"})
			mustPass(t, rep, err)
			for _, r := range rep.Rows {
				if strings.HasPrefix(r.Place, "grad.") && r.Limit != 0 || r.Place == "logits" && (r.Error == 0 || r.Limit == 0) {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	if _, err := VerifyModel(context.Background(), filepath.Join(fixtures(t), "models", "llama3"), Options{DType: "fp8"}); err == nil {
		t.Error("an unknown type was taken")
	}
}
