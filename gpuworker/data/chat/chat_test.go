package chat

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTemplatesAreComplete(t *testing.T) {
	names := Names()
	if len(names) != 126 {
		t.Errorf("there are %d templates, want LLaMA-Factory's 124 and two of our own", len(names))
	}
	for _, n := range names {
		x, err := ByName(n)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := ToolFormatByName(x.FunctionFormat); !ok {
			t.Errorf("%s: unknown format of calls %q", n, x.FunctionFormat)
		}
		if _, ok := ToolFormatByName(x.ToolFormat); !ok && len(x.Tools) == 0 {
			t.Errorf("%s: unknown format of tools %q", n, x.ToolFormat)
		}
		if x.ReplaceEOS && len(x.StopWords) == 0 {
			t.Errorf("%s replaces the end of sequence without a stop word", n)
		}
	}
	if _, err := ByName("qwem3"); err == nil || !strings.Contains(err.Error(), "qwem3") {
		t.Errorf("unknown template: %v", err)
	}
}

func joined(es []Element) string {
	var b strings.Builder
	for _, e := range es {
		b.WriteString(e.Text)
	}
	return b.String()
}

// TestThinkingModes compares with what the reference's README says of the modes.
func TestThinkingModes(t *testing.T) {
	base, err := ByName("qwen3")
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	chat := []Message{{RoleUser, "q1"}, {RoleAssistant, "<think>\nt1\n</think>\n\na1"}, {RoleUser, "q2"}, {RoleAssistant, "a2"}}
	for _, c := range []struct {
		mode     *bool
		discard  bool
		answer1  string
		prompt2  bool // the empty thought belongs to the prompt of the second turn
		response string
	}{
		{&yes, false, "<think>\nt1\n</think>\n\na1<|im_end|>\n", false, "<think>\n\n</think>\n\na2<|im_end|>\n"},
		{&no, false, "a1<|im_end|>\n", true, "a2<|im_end|>\n"},
		{nil, false, "<think>\nt1\n</think>\n\na1<|im_end|>\n", true, "a2<|im_end|>\n"},
		{&yes, true, "a1<|im_end|>\n", false, "<think>\n\n</think>\n\na2<|im_end|>\n"},
	} {
		x, err := base.With(Options{EnableThinking: c.mode})
		if err != nil {
			t.Fatal(err)
		}
		turns, err := x.Turns(chat, "", "", c.discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := joined(turns[0].Response); got != c.answer1 {
			t.Errorf("%+v: first answer %q", c, got)
		}
		if got := joined(turns[1].Response); got != c.response {
			t.Errorf("%+v: last answer %q", c, got)
		}
		if got := strings.HasSuffix(joined(turns[1].Prompt), "<think>\n\n</think>\n\n"); got != c.prompt2 {
			t.Errorf("%+v: last prompt %q", c, joined(turns[1].Prompt))
		}
	}
	if chat[1].Content != "<think>\nt1\n</think>\n\na1" {
		t.Error("the caller's messages were changed")
	}
}

// TestCallsSurvive writes calls in every format and reads them back, for the formats whose writing can be read.
func TestCallsSurvive(t *testing.T) {
	calls := []Call{{Name: "get_weather", Arguments: `{"city": "Paris", "days": 3, "f": 1.5, "deep": {"a": [1, null, true]}}`}}
	for _, f := range toolFormats() {
		s, err := f.FormatCalls(calls)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if f.Name == "minimax2" { // the words around the calls are the template's
			s = "<minimax:tool_call>\n" + s + "\n</minimax:tool_call>"
		}
		got, err := f.Extract(s)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		switch f.Name {
		case "glm4_moe": // the reference reads it as Qwen's form, which it is not
			if got != nil {
				t.Errorf("%s: read %v", f.Name, got)
			}
		case "lfm2": // null and true inside of a literal are no Python
			if got != nil {
				t.Errorf("%s: read %v", f.Name, got)
			}
		case "gemma4": // keys are sorted
			if len(got) != 1 || got[0].Arguments != `{"city": "Paris", "days": 3, "deep": {"a": [1, null, true]}, "f": 1.5}` {
				t.Errorf("%s: read %v", f.Name, got)
			}
		default:
			if !slices.Equal(got, calls) {
				t.Errorf("%s: %q read as %v", f.Name, s, got)
			}
		}
	}
	lfm, _ := ToolFormatByName("lfm2")
	got, err := lfm.Extract(`<|tool_call_start|>[f(a='x\'\u00e9' "y", b=-0x1F, c=(1, 2.5e3,), d={'k': None, 1: [True]}, e=null), g()]<|tool_call_end|>`)
	want := []Call{{Name: "f", Arguments: `{"a": "x'éy", "b": -31, "c": [1, 2500.0], "d": {"k": null, "1": [true]}, "e": null}`}, {Name: "g", Arguments: "{}"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("lfm2: %v, %v", got, err)
	}
}

func TestToolsTellTheDate(t *testing.T) {
	f, _ := ToolFormatByName("llama3")
	s, err := f.FormatTools(`[{"name":"f"}]`, time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC))
	if err != nil || !strings.Contains(s, "Today Date: 04 Mar 2026") {
		t.Errorf("%q, %v", s, err)
	}
	for _, bad := range []string{"{", "3", `["x"]`, `[{"name":"f","parameters":{}}]`} {
		d, _ := ToolFormatByName("default")
		if s, err := d.FormatTools(bad, time.Time{}); err == nil {
			t.Errorf("%s was written as %q", bad, s)
		}
	}
}

// TestSetOrder compares with CPython: list({2038} plus the others, one by one).
func TestSetOrder(t *testing.T) {
	for _, c := range []struct{ in, want []int32 }{
		{[]int32{2038, 2048, 2049}, []int32{2048, 2049, 2038}},
		{[]int32{1, 9, 17}, []int32{1, 9, 17}},
		{[]int32{5, 4, 3, 2, 1, 40}, []int32{1, 2, 3, 4, 5, 40}},
	} {
		if got := setOrder(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.in, got, c.want)
		}
	}
}

func FuzzExtract(f *testing.F) {
	f.Add("Action: f\nAction Input: {\"a\": 1}")
	f.Add("<tool_call>\n{\"name\": \"x\", \"arguments\": {}}\n</tool_call>")
	f.Add("<|tool_call_start|>[f(a=[1, 'x'], **b)]<|tool_call_end|>")
	f.Add("<|tool_call>call:f{a:<|\"|>x<|\"|>}<tool_call|>")
	f.Add("<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"a\">1</parameter>\n</invoke>\n</minimax:tool_call>")
	formats := toolFormats()
	f.Fuzz(func(t *testing.T, s string) {
		for i := range formats {
			calls, err := formats[i].Extract(s)
			if err != nil {
				continue
			}
			for _, c := range calls {
				if c.Arguments == "" && formats[i].Name != "gemma4" {
					t.Fatalf("%s: a call without arguments in %q", formats[i].Name, s)
				}
			}
		}
	})
}
