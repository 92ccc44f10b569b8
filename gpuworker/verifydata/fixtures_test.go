package verifydata

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
)

func fixtures(t *testing.T) string {
	t.Helper()
	return fixturetest.Dir(t, "data")
}

// TestReferenceFolder computes the whole reference folder: every case is equal, and what is emitted has the same bytes.
func TestReferenceFolder(t *testing.T) {
	dir, emit := fixtures(t), t.TempDir()
	r, err := VerifyData(context.Background(), dir, Options{Emit: emit})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Files {
		if f.First != "" || f.Cases != f.Rows {
			t.Errorf("%s: %d of %d rows compared, %d equal: %s", f.File, f.Cases, f.Rows, f.Equal, f.First)
		}
		if tolerant(f.File) {
			continue
		}
		want, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.File)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(emit, filepath.FromSlash(f.File)))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			i := 0
			for i < len(got) && i < len(want) && got[i] == want[i] {
				i++
			}
			t.Errorf("%s: emitted bytes differ from byte %d: %.80q, want %.80q", f.File, i, got[i:], want[i:])
		}
	}
}

// tolerant reports whether a file holds floats that are compared with a tolerance, so that their last digits may differ.
func tolerant(path string) bool {
	return strings.HasPrefix(path, "metrics/") || strings.HasPrefix(path, "sched/") || path == "llamafactory_golden.json"
}

// TestStrippedInputs takes the expected values out of some files and demands that what is emitted is the original, and that one changed id is
// found.
func TestStrippedInputs(t *testing.T) {
	dir := fixtures(t)
	for file, keys := range map[string][]string{
		"templates/qwen3.jsonl": {"reasoning_template", "bos_token", "eos_token", "eos_token_id", "pad_token_id", "added_tokens", "oneturn_text", "turns_text", "turns_segments",
			"turns_ids", "oneturn_ids", "discard_history_cot"},
		"tokenizers/tiny_llama3/encode_cases.jsonl": {"ids", "tokens", "ids_with_special", "decode", "decode_skip_special", "decode_default", "decode_default_skip_special"},
		"sft/supervised.jsonl":                      {"outputs", "efficient_eos", "bos_token_id"},
		"sft/packed.jsonl":                          {"input_ids", "labels", "attention_mask", "position_ids", "packing_params"},
		"sft/examples.jsonl":                        {"aligned", "error"},
		"kto/kto.jsonl":                             {"input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tags"},
		"chat_templates/jinja_features.jsonl":       {"rendered"},
		"chat_templates/rendered.jsonl":             {"rendered"},
	} {
		in, emit := t.TempDir(), t.TempDir()
		copyInputs(t, dir, in, filepath.Dir(file))
		f, err := readFile(filepath.Join(dir, filepath.FromSlash(file)), file)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
		for i := range f.Rows {
			for _, k := range keys {
				f.Row(i).Delete(k)
			}
		}
		if err := write(in, f, f.Rows); err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyData(context.Background(), in, Options{Emit: emit, Base: dir}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(emit, filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		if g, w := withoutErrors(t, string(got)), withoutErrors(t, string(want)); g != w {
			i := 0
			for i < len(g) && i < len(w) && g[i] == w[i] {
				i++
			}
			t.Errorf("%s: emitted from byte %d %.120q, want %.120q", file, i, g[max(0, i-60):], w[max(0, i-60):])
		}
	}
}

// copyInputs copies the files that others of the folder are computed from.
func copyInputs(t *testing.T, from, to, folder string) {
	t.Helper()
	for _, name := range []string{"examples.jsonl", "texts.jsonl"} {
		b, err := os.ReadFile(filepath.Join(from, folder, name))
		if err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(to, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, folder, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// withoutErrors blanks the texts of errors, which are not compared.
func withoutErrors(t *testing.T, text string) string {
	t.Helper()
	for {
		i := strings.Index(text, `"error": "`)
		if i < 0 {
			return text
		}
		rest := text[i+len(`"error": `):]
		var s string
		d := json.NewDecoder(strings.NewReader(rest))
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		text = text[:i] + `"error":E` + rest[d.InputOffset():]
	}
}

// TestBrokenTwin changes one id and demands that the row is named.
func TestBrokenTwin(t *testing.T) {
	dir, in := fixtures(t), t.TempDir()
	file := "templates/llama3.jsonl"
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	k := strings.Index(lines[2], `"turns_ids": [[[`)
	lines[2] = lines[2][:k] + strings.Replace(lines[2][k:], ", ", ", 1", 1)
	if err := os.MkdirAll(filepath.Join(in, "templates"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in, filepath.FromSlash(file)), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := VerifyData(context.Background(), in, Options{Base: dir})
	if err != nil {
		t.Fatal(err)
	}
	if r.Pass || r.Cases-r.Equal != 1 || !strings.Contains(r.Err().Error(), "row 3") || !strings.Contains(r.Err().Error(), "turns_ids") {
		t.Errorf("the changed id was not found: %v", r.Err())
	}
}
