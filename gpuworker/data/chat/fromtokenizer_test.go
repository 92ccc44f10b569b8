package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
)

// TestFromTokenizer compares with LLaMA-Factory's parse_template (testdata/parsed.py).
func TestFromTokenizer(t *testing.T) {
	base := fixturetest.Dir(t, "data")
	raw, err := os.ReadFile("testdata/parsed.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Tokenizer, Jinja, Class, Error  string
		Prefix, System, User, Assistant []string
		DefaultSystem                   string `json:"default_system"`
	}
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) < 30 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, r := range rows {
		place := r.Tokenizer + " " + r.Jinja
		var f hftok.Files
		dir := filepath.Join(base, "tokenizers", r.Tokenizer)
		if f.Tokenizer, err = os.ReadFile(filepath.Join(dir, "tokenizer.json")); err != nil {
			t.Fatal(err)
		}
		if f.Config, err = os.ReadFile(filepath.Join(dir, "tokenizer_config.json")); err != nil {
			t.Fatal(err)
		}
		if r.Jinja != "" {
			if f.ChatTemplate, err = os.ReadFile(filepath.Join(base, "chat_templates", "jinja", r.Jinja)); err != nil {
				t.Fatal(err)
			}
		}
		tok, err := hftok.New(place, f)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ForTokenizer("", tok, time.Date(2025, 1, 2, 0, 0, 0, 0, time.UTC))
		if r.Error != "" {
			if err == nil {
				t.Errorf("%s: parsed, the reference has the error %s", place, r.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", place, err)
			continue
		}
		if x.Class != r.Class || x.DefaultSystem != r.DefaultSystem {
			t.Errorf("%s: class %s, want %s; default system %q, want %q", place, x.Class, r.Class, x.DefaultSystem, r.DefaultSystem)
		}
		for name, s := range map[string]struct {
			got  []Element
			want []string
		}{"prefix": {x.Prefix, r.Prefix}, "system": {x.System, r.System}, "user": {x.User, r.User}, "assistant": {x.Assistant, r.Assistant}} {
			if len(s.got) != len(s.want) || len(s.got) > 0 && s.got[0].Text != s.want[0] {
				t.Errorf("%s: %s is %q, want %q", place, name, s.got, s.want)
			}
		}
	}
}
