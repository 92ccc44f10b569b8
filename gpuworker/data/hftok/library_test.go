package hftok_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
)

// TestLibraryDecodesOverAddedTokens decodes with a model that is not built here and no decoder: tokenizers 0.22.2 puts a space between all
// tokens, added ones too.
func TestLibraryDecodesOverAddedTokens(t *testing.T) {
	dir := t.TempDir()
	file := `{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{"id": 3, "content": "<|x|>", "single_word": false, "lstrip": false,
		"rstrip": false, "normalized": false, "special": false}], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
		"decoder": null, "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "unk_token": "<unk>"}}`
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	tok, err := hftok.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Decode([]int32{1, 3, 2, 2}, false); got != "a <|x|> b b" {
		t.Errorf("decoded %q", got)
	}
}
