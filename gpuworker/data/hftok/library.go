package hftok

import (
	"fmt"
	"strings"
	"sync"

	"github.com/daulet/tokenizers"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// library is the engine of tokenizers that are not built here: Hugging Face's library, with the added tokens taken out, since they are found
// before it is asked. Its normalizer stays with it.
type library struct {
	t      *tokenizers.Tokenizer
	vocab  map[string]int32
	tokens map[int32]string
	// added are the file's added tokens, which whole knows: it decodes what has some of them, since decoders and the space between tokens of a
	// tokenizer without one reach over them. It is loaded when first needed.
	added map[string]int32
	whole func() (*tokenizers.Tokenizer, error)
}

func newLibrary(raw []byte) (*library, error) {
	o, err := pyjson.ParseObject(string(raw))
	if err != nil {
		return nil, err
	}
	o.Set("post_processor", nil)
	complete := pyjson.Dumps(o)
	list, _ := o.Value("added_tokens").([]any)
	o.Set("added_tokens", []any{})
	t, err := tokenizers.FromBytes([]byte(pyjson.Dumps(o)))
	if err != nil {
		return nil, fmt.Errorf("cannot load the tokenizer: %w", err)
	}
	l := &library{t: t, vocab: map[string]int32{}, tokens: map[int32]string{}}
	l.added = map[string]int32{}
	for _, v := range list {
		a, _ := v.(*pyjson.Object)
		s, _ := a.Value("content").(string)
		if id, ok := a.Value("id").(int64); ok {
			l.added[s] = int32(id)
		}
	}
	l.whole = sync.OnceValues(func() (*tokenizers.Tokenizer, error) { return tokenizers.FromBytes([]byte(complete)) })
	m, _ := o.Value("model").(*pyjson.Object)
	switch v := m.Value("vocab").(type) {
	case *pyjson.Object:
		for _, k := range v.Keys() {
			if id, ok := v.Value(k).(int64); ok {
				l.vocab[k] = int32(id)
			}
		}
	case []any: // Unigram: pairs of token and score
		for i, p := range v {
			if pair, ok := p.([]any); ok && len(pair) == 2 {
				if s, ok := pair[0].(string); ok {
					l.vocab[s] = int32(i)
				}
			}
		}
	}
	if len(l.vocab) == 0 {
		return nil, fmt.Errorf("cannot read the vocabulary: it is empty")
	}
	for s, id := range l.vocab {
		l.tokens[id] = s
	}
	return l, nil
}

func (l *library) append(dst []int32, text string, _ bool) []int32 {
	// The library takes C strings: a NUL would end the text.
	text = strings.ReplaceAll(text, "\x00", "")
	if text == "" {
		return dst
	}
	ids, _ := l.t.Encode(text, false)
	for _, id := range ids {
		dst = append(dst, int32(id))
	}
	return dst
}

func (l *library) decode(tokens []string) string {
	ids := make([]uint32, 0, len(tokens))
	var out strings.Builder
	by := l.t
	flush := func() {
		if len(ids) > 0 {
			out.WriteString(by.Decode(ids, false))
			ids = ids[:0]
		}
	}
	for _, t := range tokens {
		if id, ok := l.vocab[t]; ok {
			ids = append(ids, uint32(id))
			continue
		}
		if id, ok := l.added[t]; ok {
			if whole, err := l.whole(); err == nil {
				by = whole
				ids = append(ids, uint32(id))
				continue
			}
		}
		flush() // a token that was added later
		out.WriteString(t)
	}
	flush()
	return out.String()
}

func (l *library) tokenID(token string) (int32, bool) { id, ok := l.vocab[token]; return id, ok }

func (l *library) token(id int32) (string, bool) { s, ok := l.tokens[id]; return s, ok }

func (l *library) size() int32 { return int32(len(l.vocab)) }

func (l *library) each(f func(string)) {
	for t := range l.vocab {
		f(t)
	}
}
