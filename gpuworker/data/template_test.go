package data

import (
	"strings"
	"testing"
)

// TestThoughtsBelongToTheQuestion: an answer without a thought is asked for with an empty one, an answer with one is not.
func TestThoughtsBelongToTheQuestion(t *testing.T) {
	tok := tokenizer(t, fixtures(t), "tiny_qwen")
	tmpl, err := TemplateByName("qwen3")
	if err != nil {
		t.Fatal(err)
	}
	text := func(ids []int32) string { return tok.Decode(ids) }
	plain := EncodeChat(tok, tmpl, &Row{Prompt: "hello", Response: "world"}, 512)
	if got := text(plain.IDs); !strings.Contains(got, "assistant\n<think>\n\n</think>\n\nworld") {
		t.Errorf("without a thought: %q", got)
	}
	for i, l := range plain.Labels {
		if l != IgnoreLabel && strings.Contains(text(plain.IDs[i:i+1]), "think") {
			t.Errorf("the empty thought is trained at %d", i)
		}
	}
	thought := EncodeChat(tok, tmpl, &Row{Prompt: "hello", Response: "<think>\nso\n</think>\n\nworld"}, 512)
	if got := text(thought.IDs); strings.Count(got, "<think>") != 1 || !strings.Contains(got, "assistant\n<think>\nso\n</think>\n\nworld") {
		t.Errorf("with a thought: %q", got)
	}
	if got := text(tmpl.EncodePrompt(tok, "", "hello", "")); !strings.HasSuffix(got, "<think>\n\n</think>\n\n") {
		t.Errorf("a question to be answered: %q", got)
	}
}
