package hftok

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/daulet/tokenizers"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// pair is a tokenizer and the library's of the same file.
type pair struct {
	name string
	t    *Tokenizer
	lib  *tokenizers.Tokenizer
}

func fixtureDir(t testing.TB) string {
	t.Helper()
	return fixturetest.Dir(t, "data", "tokenizers")
}

func load(t testing.TB, names ...string) []pair {
	t.Helper()
	dir := fixtureDir(t)
	var out []pair
	for _, n := range names {
		tok, err := Load(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := tok.model.(*native); !ok {
			t.Fatalf("%s is run by the library", n)
		}
		lib, err := tokenizers.FromFile(filepath.Join(dir, n, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lib.Close() })
		out = append(out, pair{n, tok, lib})
	}
	return out
}

func allNames() []string {
	return []string{"tiny_llama3", "tiny_qwen", "gpt2", "llama2", "llama2_nonlegacy", "phi3", "deepseek_llm", "falcon", "llama3", "qwen3"}
}

// same compares the ids of a text, twice: the second time they come from the cache.
func (p pair) same(t *testing.T, text string) {
	t.Helper()
	if text == "" || strings.Contains(text, "\x00") {
		return // the library takes C strings
	}
	ids, _ := p.lib.Encode(text, false)
	want := make([]int32, len(ids))
	for i, id := range ids {
		want[i] = int32(id)
	}
	for range 2 {
		if got := p.t.Encode(text); !slices.Equal(got, want) {
			i := 0
			for i < len(got) && i < len(want) && got[i] == want[i] {
				i++
			}
			t.Fatalf("%s: %q: from id %d on %v, the library has %v", p.name, text, i, got[i:min(i+9, len(got))], want[i:min(i+9, len(want))])
		}
	}
}

// TestCodePoints puts every code point between letters, digits, spaces and signs: its class decides where the text is cut.
func TestCodePoints(t *testing.T) {
	pairs := load(t, "tiny_llama3", "gpt2", "falcon", "deepseek_llm", "tiny_qwen", "phi3")
	// Every code point takes a minute; the set of TUNEFLEET_TEST_FULL=1 goes through all.
	step := rune(11)
	if os.Getenv("TUNEFLEET_TEST_FULL") == "1" {
		step = 1
	}
	for _, p := range pairs {
		var b strings.Builder
		for r := rune(1); r <= 0x2ffff; r += step {
			if r >= 0xd800 && r < 0xe000 {
				continue
			}
			for _, around := range [...][2]string{{"a", "b"}, {" ", "1"}, {"!", " x"}, {"'", "\n"}} {
				b.WriteString(around[0])
				b.WriteRune(r)
				b.WriteString(around[1])
			}
			if b.Len() > 300 {
				p.same(t, b.String())
				b.Reset()
			}
		}
	}
}

// TestRandomTexts compares on texts made of parts that pre-tokenizers treat differently.
func TestRandomTexts(t *testing.T) {
	parts := []string{" ", "  ", "\n", "\r\n", "\t", "the", "The", "'s", "'LL", "don't", "1", "12", "2024", "中文", "，", "é", "e\u0301", "😀", "<|im_start|>", "<s>", "</s>", "<unk>",
		"<|endoftext|>", "<|eot_id|>", "<|user|>", "<|end|>", "…", "!!", "--", "\u00a0", "\u2003", "\u3000", "_", "a_b", "ſ", "'ſ", "²", "Ⅷ", "١٢", "हिन्दी", "ß", "▁", "▁▁", "<0x0A>",
		"ing", "http://x.y/z?a=1", "{\"k\": [1, 2.5]}", ">>TITLE<<", "<｜begin▁of▁sentence｜>", "\u200d", "\ufeff", "\x01", "x86_64", strings.Repeat("ab", 40), strings.Repeat(" ", 30)}
	const rounds = 500
	for _, p := range load(t, allNames()...) {
		r := rand.New(rand.NewPCG(5, 7))
		for range rounds {
			var b strings.Builder
			for range r.IntN(14) {
				b.WriteString(parts[r.IntN(len(parts))])
			}
			p.same(t, b.String())
		}
	}
}

// TestAddedTokens compares with the library after it loaded the same file with one more added token.
func TestAddedTokens(t *testing.T) {
	for _, name := range []string{"tiny_qwen", "llama2_nonlegacy", "gpt2"} {
		raw, err := os.ReadFile(filepath.Join(fixtureDir(t), name, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		base := load(t, name)[0]
		tok := base.t.Clone()
		if n := tok.AddSpecial(EOS, "<|new|>"); n != 1 || tok.AddSpecial(EOS, "<|new|>") != 0 {
			t.Errorf("%s: %d tokens are new", name, n)
		}
		id, ok := tok.SpecialID(EOS)
		if !ok || int(id) != base.t.Len() {
			t.Errorf("%s: the new token has the id %d, want %d", name, id, base.t.Len())
		}
		var file map[string]any
		if err := json.Unmarshal(raw, &file); err != nil {
			t.Fatal(err)
		}
		list, _ := file["added_tokens"].([]any)
		file["added_tokens"] = append(list, map[string]any{"id": id, "content": "<|new|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
		raw, _ = json.Marshal(file)
		lib, err := tokenizers.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"<|new|>", "a <|new|> b", "<|new|>b<|new|>", "x<|ne"} {
			pair{name, tok, lib}.same(t, s)
			base.same(t, s)
		}
		_ = lib.Close()
	}
}

// TestCacheIsBounded holds that only short pieces are kept.
func TestCacheIsBounded(t *testing.T) {
	p := load(t, "tiny_llama3")[0]
	n, _ := p.t.model.(*native)
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		b := make([]byte, 1+r.IntN(80))
		for i := range b {
			b[i] = byte('a' + r.IntN(26))
		}
		n.bpe.append(nil, string(b))
	}
	for i := range n.cache {
		if c := n.cache[i].Load(); c != nil && len(c.text) > maxCached {
			t.Fatalf("a piece of %d bytes is in the cache", len(c.text))
		}
	}
}

func FuzzEncode(f *testing.F) {
	pairs := load(f, "tiny_llama3", "tiny_qwen", "llama2", "phi3", "falcon", "deepseek_llm", "gpt2")
	for _, s := range []string{"Hello world's 123 中文\n\n  x", "<|im_start|>user\nHi<|im_end|>", "'ſ ▁▁a▁b", "e\u0301\u0300"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		for _, p := range pairs {
			p.same(t, s)
			ids := p.t.Encode(s)
			if got := p.t.Decode(ids, false); got == "" && strings.TrimSpace(s) != "" && p.name == "gpt2" {
				t.Fatalf("%q decodes to nothing", s)
			}
		}
	})
}

// FuzzConfig reads anything as the configuration of a good tokenizer.
func FuzzConfig(f *testing.F) {
	good := []byte(`{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`)
	f.Add([]byte(`{"tokenizer_class":"LlamaTokenizer","add_bos_token":true,"bos_token":{"content":"a"},"added_tokens_decoder":{"2":{"content":"ab","special":true}}}`), []byte(`{"eos_token":"b"}`))
	f.Add([]byte(`{"chat_template":[{"name":"default","template":"{{ messages }}"}],"model_max_length":1e30}`), []byte(`{`))
	f.Fuzz(func(t *testing.T, config, special []byte) {
		tok, err := New("f", Files{Tokenizer: good, Config: config, SpecialMap: special})
		if err != nil {
			if !schemas.IsCode(err, schemas.CodeModel) {
				t.Fatalf("error has another code: %v", err)
			}
			return
		}
		for _, r := range roles() {
			tok.Special(r)
		}
		tok.Decode(tok.Encode("abba"), true)
	})
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat("The quick brown fox jumps over the lazy dog, and then it rests. 1234 times!\n", 20)
	for _, p := range load(b, "qwen3", "llama2") {
		b.Run(p.name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			var ids []int32
			for b.Loop() {
				ids = p.t.AppendEncode(ids[:0], text)
			}
		})
		b.Run(p.name+"/library", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				p.lib.Encode(text, false)
			}
		})
	}
}
