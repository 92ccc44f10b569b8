package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/schemas"
)

// vocabAlign is what a grown vocabulary is rounded up to, as upstream does.
const vocabAlign = 64

// vocabulary adds the tokens that the configuration names to the tokenizer and grows the model's vocabulary (resize_vocab) where it does not
// hold the tokenizer's.
func (b *factoryBuilder) vocabulary(ctx context.Context, folder string) error {
	v := b.v
	plain, special := v.list("add_tokens"), v.list("add_special_tokens")
	if len(plain)+len(special) == 0 && !v.truth("resize_vocab") {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(folder, tokenizerName))
	if errors.Is(err, os.ErrNotExist) {
		return schemas.Errorf(schemas.CodeUnsupported, "resize_vocab", "%s has no tokenizer.json; tokens are added there only", folder)
	}
	if err != nil {
		return fmt.Errorf("cannot read the tokenizer: %w", err)
	}
	t, err := openTokenizerFile(raw)
	if err != nil {
		return err
	}
	added := t.add(plain, false)
	added = append(added, t.add(special, true)...)
	if v.truth("resize_vocab") && v.text("template") != "" {
		c, err := chat.ByName(v.text("template"))
		if err != nil {
			return err
		}
		added = append(added, t.add(c.StopWords, true)...) // upstream adds those that the tokenizer lacks
	}
	if len(added) > 0 {
		if err := b.rewriteTokenizer(ctx, folder, t, added); err != nil {
			return err
		}
		b.notes = append(b.notes, fmt.Sprintf("tokenizer: %d tokens added", len(added)))
	}
	have, err := vocabularyOf(folder)
	if err != nil {
		return err
	}
	if n := t.length(); n > have {
		if v.text("quantization_bit") != "" {
			return schemas.Errorf(schemas.CodeUnsupported, "resize_vocab", "a quantized model's vocabulary is not grown").WithHint("grow it in a run without quantization_bit first")
		}
		b.vocab = (n + vocabAlign - 1) / vocabAlign * vocabAlign
		b.notes = append(b.notes, fmt.Sprintf("vocabulary: %d rows, the model has %d", b.vocab, have))
	}
	return nil
}

// vocabularyOf is the number of rows of a model's embedding by its config.json.
func vocabularyOf(folder string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		return 0, schemas.Errorf(schemas.CodeModel, folder, "cannot read config.json: %v", err)
	}
	var c struct {
		Vocab int `json:"vocab_size"`
	}
	if err := json.Unmarshal(raw, &c); err != nil || c.Vocab < 1 {
		return 0, schemas.Errorf(schemas.CodeUnsupported, "resize_vocab", "config.json of %s has no vocab_size", folder)
	}
	return c.Vocab, nil
}

// Names of the tokenizer's files that are rewritten.
const (
	tokenizerName       = "tokenizer.json"
	tokenizerConfigName = "tokenizer_config.json"
)

// rewriteTokenizer puts the changed files in place of the folder's own.
func (b *factoryBuilder) rewriteTokenizer(ctx context.Context, folder string, t *tokenizerJSON, added []addedToken) error {
	raw, err := t.encode()
	if err != nil {
		return err
	}
	files := map[string][]byte{tokenizerName: raw}
	config, err := os.ReadFile(filepath.Join(folder, tokenizerConfigName))
	if err == nil {
		if files[tokenizerConfigName], err = addToConfig(config, added); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read the tokenizer's configuration: %w", err)
	}
	for name, body := range files {
		local, err := keepMade(name, body)
		if err != nil {
			return err
		}
		f, err := b.c.add(ctx, local, name)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(b.tokenizer.Files, func(x schemas.File) bool { return x.Path == name })
		b.tokenizer.Files[i] = f
	}
	// added_tokens.json of older versions would contradict.
	b.tokenizer.Files = slices.DeleteFunc(b.tokenizer.Files, func(f schemas.File) bool { return f.Path == "added_tokens.json" })
	return nil
}

// keepMade writes a file that this program made where its content says, in the user's cache, so that it can be uploaded later.
func keepMade(name string, body []byte) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(body)
	dir := filepath.Join(cache, "tunefleet", "made", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make a folder for %s: %w", name, err)
	}
	p := filepath.Join(dir, name)
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return "", fmt.Errorf("cannot write %s: %w", name, err)
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), p)
	}
	if err != nil {
		return "", fmt.Errorf("cannot write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	return p, nil
}

// addedToken is an entry of tokenizer.json's added_tokens.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// tokenizerJSON is a tokenizer.json whose list of added tokens can grow; everything else stays as it is, in its order.
type tokenizerJSON struct {
	keys  []string
	parts map[string]json.RawMessage
	added []addedToken
	// model are the tokens of the model by content.
	model map[string]int
}

func openTokenizerFile(raw []byte) (*tokenizerJSON, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeModel, tokenizerName, format, args...)
	}
	t := &tokenizerJSON{model: map[string]int{}}
	var err error
	if t.keys, t.parts, err = orderedObject(raw); err != nil {
		return nil, bad("cannot parse: %v", err)
	}
	if list := t.parts["added_tokens"]; list != nil {
		if err := json.Unmarshal(list, &t.added); err != nil {
			return nil, bad("cannot parse added_tokens: %v", err)
		}
	}
	var m struct {
		Vocab json.RawMessage `json:"vocab"`
	}
	if err := json.Unmarshal(t.parts["model"], &m); err != nil {
		return nil, bad("cannot parse the model: %v", err)
	}
	var list [][]json.RawMessage // a unigram model's [[token, score], ...]
	if json.Unmarshal(m.Vocab, &t.model) == nil {
		return t, nil
	}
	if err := json.Unmarshal(m.Vocab, &list); err != nil {
		return nil, bad("cannot parse the vocabulary: %v", err)
	}
	clear(t.model)
	for i, e := range list {
		var s string
		if len(e) == 0 || json.Unmarshal(e[0], &s) != nil {
			return nil, bad("entry %d of the vocabulary is no token", i)
		}
		t.model[s] = i
	}
	return t, nil
}

// add appends tokens that are not there yet, with the ids that the tokenizers library gives them, and returns them.
func (t *tokenizerJSON) add(tokens []string, special bool) []addedToken {
	var out []addedToken
	for _, s := range tokens {
		known := slices.ContainsFunc(t.added, func(a addedToken) bool { return a.Content == s })
		if _, ok := t.model[s]; ok || known || s == "" {
			continue
		}
		id := len(t.model)
		for _, a := range t.added {
			id = max(id, a.ID+1)
		}
		a := addedToken{ID: id, Content: s, Normalized: !special, Special: special}
		t.added, out = append(t.added, a), append(out, a)
	}
	return out
}

// length is the number of tokens, added ones included.
func (t *tokenizerJSON) length() int {
	n := len(t.model)
	for _, a := range t.added {
		if _, ok := t.model[a.Content]; !ok {
			n++
		}
	}
	return n
}

func (t *tokenizerJSON) encode() ([]byte, error) {
	list, err := plainJSON(t.added)
	if err != nil {
		return nil, err
	}
	if t.parts["added_tokens"] == nil {
		t.keys = append(t.keys, "added_tokens")
	}
	t.parts["added_tokens"] = list
	return joinObject(t.keys, t.parts)
}

// addToConfig adds the tokens to tokenizer_config.json's added_tokens_decoder, where there is one.
func addToConfig(raw []byte, added []addedToken) ([]byte, error) {
	const key = "added_tokens_decoder"
	keys, parts, err := orderedObject(raw)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, tokenizerConfigName, "cannot parse: %v", err)
	}
	if parts[key] == nil {
		return raw, nil
	}
	ids, decoder, err := orderedObject(parts[key])
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, tokenizerConfigName, "cannot parse %s: %v", key, err)
	}
	for _, a := range added {
		id := strconv.Itoa(a.ID)
		entry, err := plainJSON(map[string]any{"content": a.Content, "lstrip": false, "normalized": a.Normalized, "rstrip": false, "single_word": false, "special": a.Special})
		if err != nil {
			return nil, err
		}
		ids, decoder[id] = append(ids, id), entry
	}
	if parts[key], err = joinObject(ids, decoder); err != nil {
		return nil, err
	}
	return joinObject(keys, parts)
}

// orderedObject reads the members of a JSON object with the order of their keys.
func orderedObject(raw []byte) (keys []string, parts map[string]json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	open, err := d.Token()
	if err != nil {
		return nil, nil, err
	}
	if open != json.Delim('{') {
		return nil, nil, errors.New("is no object")
	}
	parts = map[string]json.RawMessage{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, nil, err
		}
		name, _ := k.(string)
		if parts[name] == nil {
			keys = append(keys, name)
		}
		parts[name] = v
	}
	return keys, parts, nil
}

// joinObject is the reverse of orderedObject.
func joinObject(keys []string, parts map[string]json.RawMessage) ([]byte, error) {
	b := []byte{'{'}
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := plainJSON(k)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), parts[k]...)
	}
	return append(b, '}', '\n'), nil
}

// plainJSON encodes without HTML escapes: tokens are full of angle brackets.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("cannot encode the tokenizer: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
