package data

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/daulet/tokenizers"

	"github.com/tunefleet/tunefleet/schemas"
)

// MaxTokenizerBytes bounds an accepted tokenizer.json.
const MaxTokenizerBytes = 64 << 20

// Tokenizer turns text into ids. Implementations are safe for one goroutine at a time.
type Tokenizer interface {
	// Encode returns the ids of a text; special tokens are recognized within it, none is added.
	Encode(text string) []int32
	// Decode is the text of ids without special tokens.
	Decode(ids []int32) string
	// TokenID returns the id of one token as the vocabulary writes it.
	TokenID(token string) (int32, bool)
	// VocabSize is the number of ids.
	VocabSize() int
	Close() error
}

// HFTokenizer is a Hugging Face tokenizer.json run by the tokenizers library.
type HFTokenizer struct {
	t     *tokenizers.Tokenizer
	added map[string]int32
	vocab map[string]int32
}

// NewTokenizer loads a tokenizer.json. Errors are CodeModel with the place.
func NewTokenizer(place string, b []byte) (*HFTokenizer, error) {
	if len(b) > MaxTokenizerBytes {
		return nil, schemas.Errorf(schemas.CodeModel, place, "the tokenizer has %d bytes, the limit is %d", len(b), MaxTokenizerBytes)
	}
	var f struct {
		Added []struct {
			ID      int32  `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
		Model struct {
			Vocab json.RawMessage `json:"vocab"`
		} `json:"model"`
	}
	if err := json.Unmarshal(b, &f); err != nil || f.Model.Vocab == nil {
		return nil, schemas.Errorf(schemas.CodeModel, place, "is not a tokenizer.json").
			WithHint("give the tokenizer.json of Hugging Face's tokenizers library")
	}
	t, err := tokenizers.FromBytes(b)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, place, "cannot load the tokenizer: %v", err)
	}
	h := &HFTokenizer{t: t, added: map[string]int32{}, vocab: map[string]int32{}}
	for _, a := range f.Added {
		h.added[a.Content] = a.ID
	}
	// Unigram vocabularies are lists of pairs; only their added tokens can be looked up by name.
	_ = json.Unmarshal(f.Model.Vocab, &h.vocab)
	return h, nil
}

// Encode implements Tokenizer.
func (h *HFTokenizer) Encode(text string) []int32 {
	// The library takes C strings: a NUL would end the text, and other bytes than UTF-8 would abort it.
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "\uFFFD")
	if text == "" {
		return nil
	}
	ids := h.t.EncodeWithOptions(text, false).IDs
	out := make([]int32, len(ids))
	for i, v := range ids {
		out[i] = int32(v)
	}
	return out
}

// Decode implements Tokenizer.
func (h *HFTokenizer) Decode(ids []int32) string {
	u := make([]uint32, 0, len(ids))
	for _, v := range ids {
		if v >= 0 {
			u = append(u, uint32(v))
		}
	}
	return h.t.Decode(u, true)
}

// TokenID implements Tokenizer.
func (h *HFTokenizer) TokenID(token string) (int32, bool) {
	if id, ok := h.added[token]; ok {
		return id, true
	}
	id, ok := h.vocab[token]
	return id, ok
}

// VocabSize implements Tokenizer.
func (h *HFTokenizer) VocabSize() int { return int(h.t.VocabSize()) }

// Close frees the library's memory.
func (h *HFTokenizer) Close() error {
	if err := h.t.Close(); err != nil {
		return fmt.Errorf("cannot close the tokenizer: %w", err)
	}
	return nil
}

// SpecialID returns the id of the first of the candidate tokens that the tokenizer has, -1 for none.
func SpecialID(t Tokenizer, candidates ...string) int32 {
	for _, c := range candidates {
		if id, ok := t.TokenID(c); ok {
			return id
		}
	}
	return -1
}

// EOS is the end-of-sequence id by the usual names, -1 for none.
func EOS(t Tokenizer) int32 {
	return SpecialID(t, "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>")
}

// BOS is the begin-of-sequence id by the usual names, -1 for none.
func BOS(t Tokenizer) int32 {
	return SpecialID(t, "<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>")
}
