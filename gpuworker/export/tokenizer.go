package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

// tokenizerFiles are what a Hugging Face folder holds of its tokenizer.
func tokenizerFiles() []string {
	return []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"}
}

// tokenizer is what goes beside the weights: files by name, and the special ids, -1 for none.
type tokenizer struct {
	files         map[string][]byte
	bos, eos, pad int32
}

// openTokenizer reads the tokenizer's files from the spec's reference, else from the uploaded base model. There may be none.
func openTokenizer(ctx context.Context, t *consume.Task, ref *schemas.Ref, r *train.Recipe) (*tokenizer, error) {
	out := &tokenizer{files: map[string][]byte{}, bos: -1, eos: -1, pad: -1}
	var files []schemas.File
	switch {
	case ref != nil:
		files = ref.Files
	case r.Base != nil:
		files = r.Base.Files
	}
	for _, f := range files {
		name := path.Base(f.Path)
		if !slices.Contains(tokenizerFiles(), name) || out.files[name] != nil {
			continue
		}
		raw, err := train.InputFile(ctx, t.Objects, t.Message.Tenant, f, data.MaxTokenizerBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot fetch the tokenizer: %w", err)
		}
		out.files[name] = raw
	}
	raw := out.files["tokenizer.json"]
	if raw == nil {
		return out, nil
	}
	return out, out.describe(raw)
}

// describe reads the special ids and adds the tokenizer_config.json that transformers needs where there is none.
func (t *tokenizer) describe(raw []byte) (err error) {
	tok, err := data.NewTokenizer("tokenizer.json", raw)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tok.Close()) }()
	t.bos, t.eos, t.pad = data.BOS(tok), data.EOS(tok), data.SpecialID(tok, "<pad>", "<|pad|>", "<|padding|>", "[PAD]", "<unk>")
	if t.files["tokenizer_config.json"] != nil {
		return nil
	}
	var f struct {
		Added []struct {
			ID      int32  `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return schemas.Errorf(schemas.CodeModel, "tokenizer.json", "cannot parse: %v", err)
	}
	doc := map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false}
	for _, a := range f.Added {
		for key, id := range map[string]int32{"bos_token": t.bos, "eos_token": t.eos, "pad_token": t.pad} {
			if a.ID == id {
				doc[key] = a.Content
			}
		}
	}
	config, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode tokenizer_config.json: %w", err)
	}
	t.files["tokenizer_config.json"] = append(config, '\n')
	return nil
}
