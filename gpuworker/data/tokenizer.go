package data

import (
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
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

// HFTokenizer is a Hugging Face tokenizer.json without its configuration. It is safe for concurrent use.
type HFTokenizer struct{ t *hftok.Tokenizer }

// NewTokenizer loads a tokenizer.json. Errors are CodeModel with the place.
func NewTokenizer(place string, b []byte) (*HFTokenizer, error) {
	if len(b) > MaxTokenizerBytes {
		return nil, schemas.Errorf(schemas.CodeModel, place, "the tokenizer has %d bytes, the limit is %d", len(b), MaxTokenizerBytes)
	}
	if len(b) == 0 {
		b = []byte{} // absent is not empty
	}
	t, err := hftok.New(place, hftok.Files{Tokenizer: b})
	if err != nil {
		return nil, err
	}
	return &HFTokenizer{t}, nil
}

// Encode implements Tokenizer. Bytes that are no UTF-8 become U+FFFD.
func (h *HFTokenizer) Encode(text string) []int32 { return h.t.Encode(text) }

// Decode implements Tokenizer.
func (h *HFTokenizer) Decode(ids []int32) string { return h.t.Decode(ids, true) }

// TokenID implements Tokenizer.
func (h *HFTokenizer) TokenID(token string) (int32, bool) { return h.t.TokenID(token) }

// VocabSize implements Tokenizer.
func (h *HFTokenizer) VocabSize() int { return h.t.Len() }

// Close implements Tokenizer; there is nothing to free.
func (h *HFTokenizer) Close() error { return nil }

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
