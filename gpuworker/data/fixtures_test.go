package data

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// fixtures is the folder of LLaMA-Factory's own results.
func fixtures(t *testing.T) string { return fixturetest.Dir(t, "data") }

func lines[T any](t *testing.T, file string) []T {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []T
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, v)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func tokenizer(t *testing.T, dir, name string) *HFTokenizer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "tokenizers", name, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := NewTokenizer(name, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

// upstream is the tokenizer with the end-of-sequence token that the reference was made with, which tokenizer.json alone does not tell.
type upstream struct {
	Tokenizer
	eos int32
}

// TokenID answers for the names that EOS looks for.
func (u upstream) TokenID(token string) (int32, bool) {
	if token == "</s>" {
		return u.eos, u.eos >= 0
	}
	return u.Tokenizer.TokenID(token)
}

func TestTokenizersEncodeAsUpstream(t *testing.T) {
	dir := fixtures(t)
	names, err := filepath.Glob(filepath.Join(dir, "tokenizers", "tiny_*"))
	if err != nil || len(names) == 0 {
		t.Fatal("no tokenizers", err)
	}
	for _, n := range names {
		tok := tokenizer(t, dir, filepath.Base(n))
		cases := lines[struct {
			Text   string
			IDs    []int32
			Decode string `json:"decode_skip_special"`
		}](t, filepath.Join(n, "encode_cases.jsonl"))
		checked := 0
		for _, c := range cases {
			if strings.Contains(c.Text, "\x00") {
				continue // cannot pass the library's C strings; Encode drops them
			}
			checked++
			if got := tok.Encode(c.Text); !slices.Equal(got, c.IDs) {
				t.Fatalf("%s: %q became %v, want %v", n, c.Text, got, c.IDs)
			}
			if got := tok.Decode(c.IDs); got != c.Decode && !strings.Contains(c.Decode, "\x00") {
				t.Fatalf("%s: %v became %q, want %q", n, c.IDs, got, c.Decode)
			}
		}
		if checked < 20 {
			t.Fatalf("%s: only %d cases", n, checked)
		}
	}
}

func TestTemplatesEncodeAsUpstream(t *testing.T) {
	dir := fixtures(t)
	type message struct{ Role, Content string }
	loaded := map[string]*HFTokenizer{}
	checked := map[string]int{}
	for _, tmpl := range templates() {
		file := filepath.Join(dir, "templates", tmpl.Name+".jsonl")
		if _, err := os.Stat(file); err != nil {
			continue
		}
		for _, c := range lines[struct {
			Tokenizer string
			Case      string
			System    *string
			Tools     *string
			Messages  []message
			EOS       int32            `json:"eos_token_id"`
			Added     map[string]int32 `json:"added_tokens"`
			TurnsIDs  [][2][]int32     `json:"turns_ids"`
		}](t, file) {
			if !strings.HasPrefix(c.Tokenizer, "tiny_") || c.Tools != nil && *c.Tools != "" || len(c.Added) > 0 || len(c.Messages) != 2 ||
				c.Messages[0].Role != "user" || c.Messages[1].Role != "assistant" || len(c.TurnsIDs) != 1 {
				continue
			}
			if loaded[c.Tokenizer] == nil {
				loaded[c.Tokenizer] = tokenizer(t, dir, c.Tokenizer)
			}
			tok := upstream{loaded[c.Tokenizer], c.EOS}
			system := ""
			if c.System != nil {
				system = *c.System
			}
			if got, want := tmpl.EncodePrompt(tok, system, c.Messages[0].Content, c.Messages[1].Content), c.TurnsIDs[0][0]; !slices.Equal(got, want) {
				t.Errorf("%s, %s: prompt %v, want %v", tmpl.Name, c.Case, got, want)
			}
			if got, want := tmpl.EncodeResponse(tok, c.Messages[1].Content), c.TurnsIDs[0][1]; !slices.Equal(got, want) {
				t.Errorf("%s, %s: response %v, want %v", tmpl.Name, c.Case, got, want)
			}
			checked[tmpl.Name]++
		}
	}
	if len(checked) < 8 {
		t.Fatalf("checked only %v", checked)
	}
	t.Log(checked)
}

func TestCutAndKnapsackAsUpstream(t *testing.T) {
	dir := fixtures(t)
	n := map[string]int{}
	for _, c := range lines[struct {
		Kind     string
		Source   int             `json:"source_len"`
		Target   int             `json:"target_len"`
		Cutoff   int             `json:"cutoff_len"`
		Numbers  []int           `json:"numbers"`
		Capacity int             `json:"capacity"`
		Result   json.RawMessage `json:"result"`
	}](t, filepath.Join(dir, "sft", "utils.jsonl")) {
		n[c.Kind]++
		switch c.Kind {
		case "infer_seqlen":
			var want [2]int
			if err := json.Unmarshal(c.Result, &want); err != nil {
				t.Fatal(err)
			}
			if s, d := process.InferLengths(c.Source, c.Target, c.Cutoff); s != want[0] || d != want[1] {
				t.Errorf("%d and %d cut to %d: %d and %d, want %v", c.Source, c.Target, c.Cutoff, s, d, want)
			}
		case "greedy_knapsack":
			var want [][]int
			if err := json.Unmarshal(c.Result, &want); err != nil {
				t.Fatal(err)
			}
			var got [][]int
			for _, sack := range process.Knapsack(c.Numbers, c.Capacity) {
				var v []int
				for _, i := range sack {
					v = append(v, c.Numbers[i])
				}
				got = append(got, v)
			}
			if !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("capacity %d: %v, want %v", c.Capacity, got, want)
			}
		}
	}
	if n["infer_seqlen"] < 5 || n["greedy_knapsack"] < 3 {
		t.Fatalf("checked %v", n)
	}
}

func TestPretrainingTextAsUpstream(t *testing.T) {
	dir := fixtures(t)
	texts := lines[map[string]any](t, filepath.Join(dir, "pt", "aligned.jsonl"))
	var rows []Row
	for _, x := range texts {
		rows = append(rows, Row{Text: firstContent(t, x)})
	}
	checked := 0
	loaded := map[string]*HFTokenizer{}
	for _, c := range lines[struct {
		Template, Tokenizer string
		Cutoff              int       `json:"cutoff_len"`
		Packing             bool      `json:"packing"`
		AddBOS              bool      `json:"add_bos_token"`
		EOSText             string    `json:"eos_text"`
		IDs                 [][]int32 `json:"input_ids"`
	}](t, filepath.Join(dir, "pt", "pretrain.jsonl")) {
		if c.AddBOS || !strings.HasPrefix(c.Tokenizer, "tiny_") {
			continue
		}
		if loaded[c.Tokenizer] == nil {
			loaded[c.Tokenizer] = tokenizer(t, dir, c.Tokenizer)
		}
		tok := loaded[c.Tokenizer]
		id, ok := tok.TokenID(c.EOSText)
		if !ok {
			t.Fatalf("%s has no %s", c.Tokenizer, c.EOSText)
		}
		name := strings.Replace(c.Template, "qwen3", "chatml", 1)
		var seqs []Sequence
		e := Encoding{Tokenizer: upstream{tok, id}, Output: &schemas.PrepOutput{Form: "pt", Template: name, CutoffLen: c.Cutoff, Packing: c.Packing}, Dir: t.TempDir()}
		err := Encode(e, eachOf(rows), func(s Sequence) error { seqs = append(seqs, s); return nil })
		if err != nil {
			t.Fatal(err)
		}
		got := make([][]int32, len(seqs))
		for i, s := range seqs {
			got[i] = s.IDs
			if !slices.Equal(s.IDs, s.Labels) {
				t.Fatal("a token of a text is not trained")
			}
		}
		if !slices.EqualFunc(got, c.IDs, slices.Equal) {
			t.Errorf("%s %s cutoff %d packing %v: %d sequences, want %d", c.Template, c.Tokenizer, c.Cutoff, c.Packing, len(got), len(c.IDs))
		}
		checked++
	}
	if checked < 6 {
		t.Fatalf("checked only %d", checked)
	}
}

// eachOf gives rows one by one.
func eachOf(rows []Row) func(func(*Row) error) error {
	return func(f func(*Row) error) error {
		for i := range rows {
			if err := f(&rows[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// firstContent is the user's first content of an aligned example.
func firstContent(t *testing.T, x map[string]any) string {
	t.Helper()
	p, ok := x["_prompt"].([]any)
	if !ok {
		a, _ := x["aligned"].(map[string]any)
		p, ok = a["_prompt"].([]any)
	}
	if !ok || len(p) == 0 {
		t.Fatalf("example has no prompt: %v", x)
	}
	s, _ := p[0].(map[string]any)["content"].(string)
	return s
}

func TestChatSamplesAsUpstream(t *testing.T) {
	dir := fixtures(t)
	type turn struct{ Role, Content string }
	type aligned struct {
		Prompt   []turn `json:"_prompt"`
		Response []turn `json:"_response"`
		System   string `json:"_system"`
		Tools    string `json:"_tools"`
	}
	examples := map[int]aligned{}
	for _, e := range lines[struct {
		ID      int     `json:"id"`
		Aligned aligned `json:"aligned"`
	}](t, filepath.Join(dir, "sft", "examples.jsonl")) {
		examples[e.ID] = e.Aligned
	}
	checked := 0
	loaded := map[string]*HFTokenizer{}
	for _, c := range lines[struct {
		Template, Tokenizer string
		EOS                 int32 `json:"eos_token_id"`
		Args                struct {
			Cutoff        int   `json:"cutoff_len"`
			TrainOnPrompt bool  `json:"train_on_prompt"`
			Thinking      *bool `json:"enable_thinking"`
		} `json:"args"`
		Outputs []struct {
			Example int     `json:"example"`
			IDs     []int32 `json:"input_ids"`
			Labels  []int32 `json:"labels"`
		} `json:"outputs"`
	}](t, filepath.Join(dir, "sft", "supervised.jsonl")) {
		tmpl, err := TemplateByName(c.Template)
		if err != nil || !strings.HasPrefix(c.Tokenizer, "tiny_") || c.Args.TrainOnPrompt {
			continue
		}
		if tmpl.EmptyThought != "" && c.Args.Thinking != nil {
			continue // empty thoughts belong to the question here
		}
		if loaded[c.Tokenizer] == nil {
			loaded[c.Tokenizer] = tokenizer(t, dir, c.Tokenizer)
		}
		tok := upstream{loaded[c.Tokenizer], c.EOS}
		if full, err := chat.ByName(c.Template); err == nil && slices.ContainsFunc(full.StopWords, func(w string) bool { _, ok := tok.TokenID(w); return !ok }) {
			continue // upstream adds them to the tokenizer
		}
		for _, o := range c.Outputs {
			e := examples[o.Example]
			if len(e.Prompt) != 1 || len(e.Response) != 1 || e.Tools != "" || e.Prompt[0].Role != "user" || e.Response[0].Role != "assistant" || o.IDs == nil ||
				e.Response[0].Content == "" {
				continue
			}
			got := EncodeChat(tok, tmpl, &Row{System: e.System, Prompt: e.Prompt[0].Content, Response: e.Response[0].Content}, c.Args.Cutoff)
			if !slices.Equal(got.IDs, o.IDs) || !slices.Equal(got.Labels, o.Labels) {
				t.Errorf("%s cutoff %d example %d: %v, want %v", c.Template, c.Args.Cutoff, o.Example, got, o)
			}
			checked++
		}
	}
	if checked < 20 {
		t.Fatalf("checked only %d", checked)
	}
	t.Logf("%d samples", checked)
}
