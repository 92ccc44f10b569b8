package chat

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// goldenCalls is testdata/calls.json, which calls.py makes with the reference: Out is null where that raises an exception.
type goldenCalls struct {
	Tools []struct {
		Format, In string
		Out        *string
	}
	Calls []struct {
		Format string
		In     [][2]string
		Out    *string
	}
	Messages []struct {
		Format, In string
		Out        json.RawMessage
	}
}

func readGoldenCalls(t *testing.T) goldenCalls {
	t.Helper()
	b, err := os.ReadFile("testdata/calls.json")
	if err != nil {
		t.Fatal(err)
	}
	var g goldenCalls
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Tools) < 200 || len(g.Calls) < 100 || len(g.Messages) < 100 {
		t.Fatalf("too few cases: %d, %d, %d", len(g.Tools), len(g.Calls), len(g.Messages))
	}
	return g
}

func formatNamed(t *testing.T, name string) *ToolFormat {
	t.Helper()
	f, ok := ToolFormatByName(name)
	if !ok {
		t.Fatalf("there is no format %q", name)
	}
	return f
}

// sameText compares a text that was written with the reference's; want is nil where the reference fails.
func sameText(t *testing.T, format string, in any, got string, err error, want *string) {
	t.Helper()
	switch {
	case want == nil && err == nil:
		t.Errorf("%s %q: wrote %q, the reference fails", format, in, got)
	case want != nil && err != nil:
		t.Errorf("%s %q: %v, the reference writes %q", format, in, err, *want)
	case want != nil && got != *want:
		t.Errorf("%s %q: wrote %q, the reference %q", format, in, got, *want)
	}
}

func TestToolsAndCallsOfOddShapes(t *testing.T) {
	g := readGoldenCalls(t)
	for _, c := range g.Tools {
		got, err := formatNamed(t, c.Format).FormatTools(c.In, time.Date(2025, 1, 2, 0, 0, 0, 0, time.UTC))
		sameText(t, c.Format, c.In, got, err, c.Out)
	}
	for _, c := range g.Calls {
		var calls []Call
		for _, p := range c.In {
			calls = append(calls, Call{Name: p[0], Arguments: p[1]})
		}
		got, err := formatNamed(t, c.Format).FormatCalls(calls)
		sameText(t, c.Format, c.In, got, err, c.Out)
	}
}

func TestExtractingCallsOfOddShapes(t *testing.T) {
	for _, c := range readGoldenCalls(t).Messages {
		calls, err := formatNamed(t, c.Format).Extract(c.In)
		if string(c.Out) == "null" {
			if err == nil {
				t.Errorf("%s %q: found %v, the reference fails", c.Format, c.In, calls)
			}
			continue
		}
		var got any = c.In
		if calls != nil {
			list := []any{}
			for _, x := range calls {
				list = append(list, []any{x.NameValue(), x.Arguments})
			}
			got = list
		}
		want, perr := pyjson.Parse(string(c.Out))
		if perr != nil {
			t.Fatal(perr)
		}
		if err != nil || !pyjson.Equal(got, want) {
			t.Errorf("%s %q:\n got %s (%v)\nwant %s", c.Format, c.In, pyjson.Dumps(got), err, pyjson.Dumps(want))
		}
	}
}

// TestNamesThatAreNoText: a call whose name is no text is written as it is where the format is JSON.
func TestNamesThatAreNoText(t *testing.T) {
	x, err := ByName("qwen3_nothink")
	if err != nil {
		t.Fatal(err)
	}
	turns, err := x.Turns([]Message{{RoleUser, "q"}, {RoleFunction, `{"name": ["f"], "arguments": {}}`}}, "", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := joined(turns[0].Response), "<tool_call>\n{\"name\": [\"f\"], \"arguments\": {}}\n</tool_call><|im_end|>\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzPythonCalls: whatever a model writes between the marks is read or refused, without a panic and in bounded depth.
func FuzzPythonCalls(f *testing.F) {
	for _, s := range []string{"[f(a=1), g(b='x', **{})]", "f(a={1: [2, (3,)], 'k': -1.5})", "f(x for x in [y] if z)", "f(a=lambda *q, k=1: q[1:2, ::3])",
		"f((yield), \"\"\"a\n\"\"\" b'c', a=0x1F)", strings.Repeat("f(", 300), strings.Repeat("[", 300), "f(a=" + strings.Repeat("-", 300) + "1)", "f(a=1 if x else 2,)\\\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		calls, err := parsePythonCalls(s)
		if err != nil {
			return
		}
		for _, c := range calls {
			if _, err := pyjson.Parse(c.Arguments); c.Name == "" || err != nil {
				t.Errorf("%q: the call %+v has no name or no JSON: %v", s, c, err)
			}
		}
	})
}
