package align

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// TestShapes: what datasets 4.0.0 gives for such rows, dumped by Python's json.
func TestShapes(t *testing.T) {
	rows := strings.Split(strings.TrimSpace(`
{"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"b":{"type":"string"}},"required":["b"]}}}]}
{"tools":[{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{"a":{"type":"integer","x":1},"b":{"enum":[1,2.5]}},"required":[]}}}]}
{"tools":null}
{"tools":[]}
{"messages":[{"role":"a","content":"x","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},{"role":"b","content":null}]}
{"messages":[{"role":"a","content":"x","tool_calls":[{"id":1,"function":{"arguments":{"b":"x","a":2.5,"c":{},"d":null,"e":[]},"name":"g"}}]}]}`), "\n")
	a := &Attr{Columns: map[string]string{"tools": "tools", "messages": "messages"}}
	var s Shapes
	for _, r := range rows {
		s.Look(json.RawMessage(r), a)
	}
	// Other parts of a preparation read them.
	b, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	s = Shapes{}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		`[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"b": {"type": "string", "enum": null}, "a": null}, "required": ["b"]}}}]`,
		`[{"type": "function", "function": {"name": "g", "description": null, "parameters": {"type": "object", "properties": {"b": {"type": null, "enum": [1.0, 2.5]}, "a": {"type": "integer", "x": 1}}, "required": []}}}]`,
		"null", "[]",
		`{"name": "f", "arguments": {"a": 1.0, "b": null, "c": null, "d": null, "e": null}}`,
		`{"name": "g", "arguments": {"a": 2.5, "b": "x", "c": {}, "d": null, "e": []}}`,
	} {
		o, err := pyjson.ParseObject(rows[i])
		if err != nil {
			t.Fatal(err)
		}
		shape, v := &s.Tools, o.Value("tools")
		if i > 3 {
			shape, v = &s.Calls, o.Value("messages").([]any)[0].(*pyjson.Object).Value("tool_calls").([]any)[0].(*pyjson.Object).Value("function")
		}
		if got := pyjson.Dumps(shape.Apply(v)); got != want {
			t.Errorf("row %d:\n%s, not\n%s", i, got, want)
		}
	}
	var mixed Shape
	for _, v := range []any{pyjson.NewObject("a", int64(1)), "text"} {
		mixed.Add(v)
	}
	if got := pyjson.Dumps(mixed.Apply(pyjson.NewObject("b", int64(2)))); got != `{"b": 2}` {
		t.Errorf("kinds that do not go together: %s", got)
	}
}
