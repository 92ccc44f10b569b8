package verifydata

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestRandomRows computes random rows that testdata/random/make.py had LLaMA-Factory compute: odd texts, thoughts, tools, calls and data sets.
func TestRandomRows(t *testing.T) {
	const dir = "testdata/random/golden"
	emit := t.TempDir()
	r, err := VerifyData(context.Background(), dir, Options{Base: fixtures(t), Emit: emit})
	if err != nil {
		t.Fatal(err)
	}
	if r.Cases < 200 || len(r.Unsupported) > 0 {
		t.Errorf("%d cases, unsupported: %v", r.Cases, r.Unsupported)
	}
	for _, f := range r.Files {
		if f.First != "" || f.Equal != f.Rows {
			t.Errorf("%s: %d of %d rows are equal: %s", f.File, f.Equal, f.Rows, f.First)
		}
	}
	// Examples have all their fields, so that their bytes are those of the reference.
	for _, p := range []string{"sft/examples.jsonl", "pairwise/examples.jsonl", "kto/examples.jsonl", "templates/tool_utils.jsonl"} {
		want, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(emit, p))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: the bytes that are emitted differ", p)
		}
	}
}
