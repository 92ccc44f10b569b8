package config

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestVocabularyGrows adds tokens to a tokenizer and to the model that does not hold them.
func TestVocabularyGrows(t *testing.T) {
	dir := factoryProject(t)
	r, err := resolve(t, dir, "model_name_or_path=./short", "add_tokens=<x>,b,<s>,<y>", "add_special_tokens=<z>")
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Spec.Stages[1].Train.Model.Vocab; v != 64 {
		t.Errorf("the vocabulary is grown to %d, expected 64: 4 tokens, one added before and three now", v)
	}
	read := func(name string) (body []byte) {
		t.Helper()
		for _, f := range r.Spec.Stages[0].Prep.Tokenizer.Files {
			for _, in := range r.Inputs {
				if f.Path == name && in.File.SHA256 == f.SHA256 {
					if body, err = os.ReadFile(in.Local); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return body
	}
	var tok struct {
		Version string       `json:"version"`
		Added   []addedToken `json:"added_tokens"`
	}
	if err := json.Unmarshal(read("tokenizer.json"), &tok); err != nil {
		t.Fatal(err)
	}
	want := []addedToken{{ID: 4, Content: "<s>", Special: true}, {ID: 5, Content: "<x>", Normalized: true}, {ID: 6, Content: "<y>", Normalized: true}, {ID: 7, Content: "<z>", Special: true}}
	if len(tok.Added) != len(want) || tok.Version != "1.0" {
		t.Fatalf("%+v", tok)
	}
	for i, a := range tok.Added {
		if a != want[i] {
			t.Errorf("token %d is %+v, expected %+v", i, a, want[i])
		}
	}
	var c struct {
		Decoder map[string]addedToken `json:"added_tokens_decoder"`
		Length  int                   `json:"model_max_length"`
	}
	if err := json.Unmarshal(read("tokenizer_config.json"), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Decoder) != 4 || c.Decoder["7"].Content != "<z>" || !c.Decoder["7"].Special || c.Length != 9 {
		t.Errorf("%+v", c)
	}
	if text := string(read("tokenizer.json")); !strings.HasPrefix(text, `{"version"`) || !strings.Contains(text, "<x>") {
		t.Errorf("the file is %s", text)
	}
}

// TestVocabularyIsLeftAlone: what holds the tokenizer already stays, and what cannot be grown is refused.
func TestVocabularyIsLeftAlone(t *testing.T) {
	dir := factoryProject(t)
	write(t, dir, "short/config.json", `{"model_type":"llama","vocab_size":5}`)
	r, err := resolve(t, dir, "model_name_or_path=./short", "resize_vocab=true", "add_tokens=b", "template=empty")
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Spec.Stages[1].Train.Model.Vocab; v != 0 {
		t.Errorf("a vocabulary of 5 is grown to %d for 5 tokens", v)
	}
	// A template's stop words are added as upstream adds them.
	if r, err = resolve(t, dir, "model_name_or_path=./short", "resize_vocab=true", "template=llama3"); err != nil {
		t.Fatal(err)
	}
	if v := r.Spec.Stages[1].Train.Model.Vocab; v != 64 {
		t.Errorf("a vocabulary of 5 is grown to %d for 5 tokens and two stop words", v)
	}
	for _, more := range [][]string{{"quantization_bit=4"}, {"do_train=false", "do_predict=true", "predict_with_generate=true", "val_size=0.1"}} {
		args := append([]string{"model_name_or_path=./short", "add_tokens=<x>"}, more...)
		if _, err := resolve(t, dir, args...); !schemas.IsCode(err, schemas.CodeUnsupported) || !strings.Contains(err.Error(), "resize_vocab") {
			t.Errorf("%v: %v", more, err)
		}
	}
	if err := os.Remove(dir + "/short/tokenizer.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(t, dir, "model_name_or_path=./short", "add_tokens=<x>"); !schemas.IsCode(err, schemas.CodeUnsupported) {
		t.Error(err)
	}
}
