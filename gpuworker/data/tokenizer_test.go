package data

import (
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

const exampleTokenizer = "../../producer/examples/contract-review/tokenizer/tokenizer.json"

func TestTheExamplesTokenizer(t *testing.T) {
	b, err := os.ReadFile(exampleTokenizer)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := NewTokenizer("tokenizer.json", b)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if tok.VocabSize() != 2048 || BOS(tok) != 1 || EOS(tok) != 2 {
		t.Fatalf("%d tokens, begin %d, end %d", tok.VocabSize(), BOS(tok), EOS(tok))
	}
	for _, s := range []string{"The Seller shall meet all instalments.", "Ärger über 5 €\n\t„x“", " a  b ", "日本"} {
		if got := tok.Decode(tok.Encode(s)); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	}
	if ids := tok.Encode("<|user|>"); len(ids) != 1 {
		t.Errorf("a special token became %v", ids)
	}
	if got := tok.Decode(tok.Encode("a\x00b\xff")); got != "a\x00b\uFFFD" {
		t.Errorf("a NUL and a byte that is no UTF-8 became %q", got)
	}
	// What transformers' apply_chat_template gives for the same conversation with tokenizer_config.json.
	tmpl, err := TemplateByName("contract-review")
	if err != nil {
		t.Fatal(err)
	}
	ids := tmpl.EncodePrompt(tok, "", "Which type of clause is this?\nThe Seller shall meet all instalments.", "")
	ids = append(ids, tmpl.EncodeResponse(tok, "payment\nIt is.")...)
	text := ""
	for _, id := range ids {
		switch id {
		case 1, 2:
		case 5:
			text += "<|user|>"
		case 6:
			text += "<|assistant|>"
		default:
			text += tok.Decode([]int32{id})
		}
	}
	if want := "<|user|>\nWhich type of clause is this?\nThe Seller shall meet all instalments.<|assistant|>\nThis clause is a matter of payment\nIt is."; text != want {
		t.Errorf("the conversation is %q, want %q", text, want)
	}
	if ids[0] != 1 || ids[len(ids)-1] != 2 {
		t.Errorf("ids are %v", ids)
	}
}

func TestBadTokenizersAreRefused(t *testing.T) {
	for _, s := range []string{"", "{}", "[]", "null", `{"model":{"vocab":{}}}`, `{"model":{"type":"Nosuch","vocab":{"a":0}}}`, "\x80\x03"} {
		tok, err := NewTokenizer("tokenizer.json", []byte(s))
		if !schemas.IsCode(err, schemas.CodeModel) || !strings.Contains(err.Error(), "tokenizer.json") {
			t.Errorf("%q: %v %v", s, tok, err)
		}
	}
}

func FuzzNewTokenizer(f *testing.F) {
	b, err := os.ReadFile(exampleTokenizer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)/2])
	f.Add([]byte(`{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`))
	f.Add([]byte(`{"model":{"vocab":{"a":-1}},"added_tokens":[{"id":-1,"content":""}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := NewTokenizer("f", b)
		if err != nil {
			if !schemas.IsCode(err, schemas.CodeModel) {
				t.Fatalf("error has another code: %v", err)
			}
			return
		}
		if err := tok.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
