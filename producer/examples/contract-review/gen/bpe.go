package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// specials come first in the vocabulary: ids 0, 1, 2, ...
func specials() []string {
	return []string{"<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_start|>", "<|im_end|>"}
}

// pieces is GPT-2's pre-tokenizer without the look-ahead that Go's expressions lack; it matters for runs of white space only.
var pieces = regexp.MustCompile(`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+`)

// byteRunes is GPT-2's printable rune of every byte.
func byteRunes() [256]rune {
	var out [256]rune
	next := rune(256)
	for b := range 256 {
		switch {
		case b >= '!' && b <= '~', b >= 0xa1 && b <= 0xac, b >= 0xae:
			out[b] = rune(b)
		default:
			out[b] = next
			next++
		}
	}
	return out
}

type word struct {
	ids   []int
	count int
}

// TrainTokenizer trains byte-pair encoding over the bytes of texts (Sennrich et al. 2016, on bytes as in GPT-2) and returns a tokenizer.json
// of vocab tokens. Of pairs that occur equally often the one with the lower ids is merged first.
func TrainTokenizer(texts []string, vocab int) ([]byte, error) {
	special := specials()
	runes := byteRunes()
	tokens := slices.Clone(special)
	base := len(tokens)
	for b := range 256 {
		tokens = append(tokens, string(runes[b]))
	}
	if vocab < len(tokens) {
		return nil, fmt.Errorf("cannot train a tokenizer of %d tokens: bytes and special tokens alone are %d", vocab, len(tokens))
	}
	counts := map[string]int{}
	for _, t := range texts {
		for _, p := range pieces.FindAllString(t, -1) {
			counts[p]++
		}
	}
	var words []word
	for _, p := range sorted(counts) {
		w := word{count: counts[p]}
		for i := range len(p) {
			w.ids = append(w.ids, base+int(p[i]))
		}
		words = append(words, w)
	}
	var merges []string
	for len(tokens) < vocab {
		pair, n := commonest(words)
		if n < 1 {
			break
		}
		id := len(tokens)
		merges = append(merges, tokens[pair[0]]+" "+tokens[pair[1]])
		tokens = append(tokens, tokens[pair[0]]+tokens[pair[1]])
		for i := range words {
			words[i].merge(pair, id)
		}
	}
	for i := 0; len(tokens) < vocab; i++ { // a corpus too small for the vocabulary: reserved tokens keep the size as promised
		special = append(special, fmt.Sprintf("<|reserved_%d|>", i))
		tokens = append(tokens, special[len(special)-1])
	}
	return encodeTokenizer(tokens, special, merges)
}

// commonest is the pair of neighbours that occurs most often.
func commonest(words []word) (best [2]int, n int) {
	counts := map[[2]int]int{}
	for _, w := range words {
		for i := 1; i < len(w.ids); i++ {
			counts[[2]int{w.ids[i-1], w.ids[i]}] += w.count
		}
	}
	for p, c := range counts {
		if c > n || c == n && slices.Compare(p[:], best[:]) < 0 {
			best, n = p, c
		}
	}
	return best, n
}

func (w *word) merge(pair [2]int, id int) {
	out := w.ids[:0]
	for i := 0; i < len(w.ids); i++ {
		if i+1 < len(w.ids) && w.ids[i] == pair[0] && w.ids[i+1] == pair[1] {
			out = append(out, id)
			i++
			continue
		}
		out = append(out, w.ids[i])
	}
	w.ids = out
}

func encodeTokenizer(tokens, special, merges []string) ([]byte, error) {
	type added struct {
		ID         int    `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	type byteLevel struct {
		Type           string `json:"type"`
		AddPrefixSpace bool   `json:"add_prefix_space"`
		TrimOffsets    bool   `json:"trim_offsets"`
		UseRegex       bool   `json:"use_regex"`
	}
	ids := map[string]int{}
	for i, t := range tokens {
		if _, twice := ids[t]; twice {
			return nil, fmt.Errorf("token %q came out twice", t)
		}
		ids[t] = i
	}
	list := make([]added, 0, len(special))
	for _, t := range special {
		list = append(list, added{ID: ids[t], Content: t, Special: true})
	}
	// The vocabulary is written in the order of its ids, as people read it.
	var vocab bytes.Buffer
	for i, t := range tokens {
		k, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("cannot write the vocabulary: %w", err)
		}
		fmt.Fprintf(&vocab, "%s%s:%d", map[bool]string{true: "{", false: ","}[i == 0], k, i)
	}
	vocab.WriteByte('}')
	level := byteLevel{Type: "ByteLevel", TrimOffsets: true, UseRegex: true}
	out := struct {
		Version       string    `json:"version"`
		Truncation    any       `json:"truncation"`
		Padding       any       `json:"padding"`
		Added         []added   `json:"added_tokens"`
		Normalizer    any       `json:"normalizer"`
		PreTokenizer  byteLevel `json:"pre_tokenizer"`
		PostProcessor any       `json:"post_processor"`
		Decoder       byteLevel `json:"decoder"`
		Model         any       `json:"model"`
	}{Version: "1.0", Added: list, PreTokenizer: level, Decoder: level}
	out.Model = struct {
		Type         string          `json:"type"`
		Dropout      any             `json:"dropout"`
		UnkToken     any             `json:"unk_token"`
		Prefix       any             `json:"continuing_subword_prefix"`
		Suffix       any             `json:"end_of_word_suffix"`
		FuseUnk      bool            `json:"fuse_unk"`
		ByteFallback bool            `json:"byte_fallback"`
		IgnoreMerges bool            `json:"ignore_merges"`
		Vocab        json.RawMessage `json:"vocab"`
		Merges       []string        `json:"merges"`
	}{Type: "BPE", Vocab: vocab.Bytes(), Merges: merges}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		return nil, fmt.Errorf("cannot write tokenizer.json: %w", err)
	}
	return b.Bytes(), nil
}

func sorted(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), strings.Compare(a, b)) })
	return out
}
