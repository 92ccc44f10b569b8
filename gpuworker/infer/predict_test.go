package infer

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/train"
)

// A model with a PEFT folder is asked what LLaMA-Factory was asked: the same prompt ids, and the same tokens as it generated. Asked again, with answers
// of other lengths beside, too.
func TestAnswersEqualLLaMAFactory(t *testing.T) {
	t.Parallel()
	dir := fixturetest.Dir(t, "e2e")
	m, err := Open(t.Context(), Options{Folders: train.Folders{Base: filepath.Join(dir, "model_llama3_memo"), Adapters: []string{filepath.Join(dir, "sft_lora_on_memo", "out")}},
		Template: "llama3", Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(filepath.Join(dir, "predict_lora_valsplit", "predict_detail.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rs []Request
	var want [][]int32
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var row struct {
			Prompt []int32 `json:"prompt_ids"`
			Made   []int32 `json:"gen_ids"`
		}
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		text := m.Encoder.Tokenizer.Decode(row.Prompt, false)
		_, question, ok := strings.Cut(text, "user<|end_header_id|>\n\n")
		question, _, ok2 := strings.Cut(question, "<|eot_id|><|start_header_id|>assistant")
		if !ok || !ok2 {
			t.Fatalf("no question in %q", text)
		}
		ids, err := m.Prompt(Conversation{Messages: []chat.Message{{Role: chat.RoleUser, Content: question}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(row.Prompt) < 240 && !slices.Equal(ids, row.Prompt) { // longer ones are cut there
			t.Errorf("prompt %v\nwant %v", ids, row.Prompt)
		}
		rs = append(rs, Request{Prompt: row.Prompt, MaxNewTokens: 40, Stop: m.Encoder.StopIDs()})
		want = append(want, row.Made)
	}
	if len(rs) < 10 {
		t.Fatalf("%d rows were found", len(rs))
	}
	e := engine(t, m, EngineOptions{Slots: 4})
	for range 2 {
		got, list := answers(t, e, rs...)
		for i := range got {
			if !slices.Equal(got[i], want[i]) {
				t.Errorf("row %d: %v\nwant %v", i, got[i], want[i])
			}
			if stopped := slices.Contains(rs[i].Stop, want[i][len(want[i])-1]); stopped != (list[i].Stats().Reason == ReasonStop) {
				t.Errorf("row %d ended with %+v", i, list[i].Stats())
			}
		}
	}
}

// The pieces of a streamed text are the text, whatever characters tokens are cut at.
func TestStreamedTextIsTheText(t *testing.T) {
	t.Parallel()
	for _, d := range list(t, fixturetest.Dir(t, "data", "tokenizers")) {
		tok, err := hftok.Load(d)
		if err != nil {
			continue
		}
		for _, text := range []string{"Hello, world! It 's a test , isn't it ?", "Grüße aus 北京 — 🤖👩‍👩‍👧 … ﷽ \u0301e", "  two  spaces\n\n\tand a tab\r\n", "def f(x):\n    return x ** 2  # ok", "' ' . ! n't 've 're 'm"} {
			ids := tok.Encode(text)
			d := decoder{tok: tok, skip: true}
			var b strings.Builder
			for _, id := range ids {
				b.WriteString(d.add(id))
			}
			b.WriteString(d.rest())
			if want := whole(tok, ids); b.String() != want {
				t.Errorf("%s: streamed %q\nwhole    %q", tok.Class(), b.String(), want)
			}
		}
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, filepath.Join(dir, e.Name()))
	}
	return out
}

// whole decodes all at once, with the tokenizer's own clean-up.
func whole(tok *hftok.Tokenizer, ids []int32) string {
	s := tok.Decode(ids, true)
	if tok.CleanUpSpaces() {
		s = hftok.CleanUp(s)
	}
	return s
}

// Stop texts end a text wherever pieces are cut, and are no part of it.
func TestStopTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stop       []string
		pieces     []string
		want, held string
	}{
		{[]string{"END"}, []string{"a E", "N", "D b"}, "a ", ""},
		{[]string{"END"}, []string{"a E", "N", "x EN"}, "a ENx ", "EN"},
		{[]string{"\n\n", "x"}, []string{"a\n", "b", "\n", "\nx"}, "a\nb", ""},
		{[]string{"abab"}, []string{"aba", "bab"}, "", ""},
		{nil, []string{"a", "b"}, "ab", ""},
	} {
		x := &Text{stop: c.stop}
		got := ""
		for _, p := range c.pieces {
			if got += x.cut(p); x.stopped {
				break
			}
		}
		if got != c.want || !x.stopped && x.held != c.held {
			t.Errorf("%q in %q: %q and %q held", c.stop, c.pieces, got, x.held)
		}
	}
}
