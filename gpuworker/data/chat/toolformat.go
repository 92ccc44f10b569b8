package chat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// Call is one call of a tool: its name and its arguments as JSON.
type Call struct {
	Name, Arguments string
	// OddName is the name as JSON where a message has something else than text for it (Name is then Python's str of it), "" otherwise:
	// formats that write JSON repeat such a name as it is.
	OddName string
}

// NameValue is the name as the message had it: text, or the value that stood for it.
func (c Call) NameValue() any {
	if v, err := pyjson.Parse(c.OddName); err == nil {
		return v
	}
	return c.Name
}

// ToolFormat is a way to write tools and calls.
type ToolFormat struct {
	// Name is "default", "qwen", ...
	Name string
	// Tools writes the description of the tools that goes into the system text; the list is not empty.
	tools func(tools []any, today time.Time) string
	// Calls writes an assistant's message that calls tools.
	calls func(calls []Call) string
	// Extract finds the calls in a message; nil when it has none, or none that can be read.
	extract func(content string) []Call
}

// ToolFormats lists the names of the formats, sorted.
func ToolFormats() []string {
	var out []string
	for _, f := range toolFormats() {
		out = append(out, f.Name)
	}
	slices.Sort(out)
	return out
}

// ToolFormatByName finds a format; false when there is none.
func ToolFormatByName(name string) (*ToolFormat, bool) {
	for _, f := range toolFormats() {
		if f.Name == name {
			return &f, true
		}
	}
	return nil, false
}

// malformed is what the writers below raise, as a panic within this file, when a tool or a call does not have the shape they need: as Python
// raises KeyError or TypeError. guard turns it into an error.
type malformed struct{ what string }

func fail(format string, args ...any) { panic(malformed{fmt.Sprintf(format, args...)}) }

// guard runs f and returns what it raised as an error.
func guard(f func() string) (s string, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, ok := r.(malformed)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("cannot write tools or calls: %s", m.what)
		}
	}()
	return f(), nil
}

// FormatTools writes the description of tools given as JSON, "" for an empty list. today is the date that some formats (llama3) tell the model.
func (f *ToolFormat) FormatTools(toolsJSON string, today time.Time) (string, error) {
	v, err := pyjson.Parse(toolsJSON)
	if err != nil {
		return "", fmt.Errorf("cannot read the tools: %w", err)
	}
	switch x := v.(type) {
	case []any:
		if len(x) == 0 {
			return "", nil
		}
		return guard(func() string { return f.tools(x, today) })
	case *pyjson.Object, string:
		if !pyjson.Truthy(x) {
			return "", nil
		}
		if f.Name == "seed_oss" { // the one format that writes what there is as a whole
			return seedTools(x), nil
		}
	}
	return "", fmt.Errorf("cannot read the tools: they must be a list of objects")
}

// FormatCalls writes an assistant's message that calls tools.
func (f *ToolFormat) FormatCalls(calls []Call) (string, error) {
	return guard(func() string { return f.calls(calls) })
}

// Extract finds the calls in an assistant's message; nil when it has none, or none that can be read. An error says that a call has a shape
// that the reference cannot read either.
func (f *ToolFormat) Extract(content string) (calls []Call, err error) {
	_, err = guard(func() string { calls = f.extract(content); return "" })
	return calls, err
}

// object is a JSON object or an error.
func object(v any, what string) *pyjson.Object {
	o, ok := v.(*pyjson.Object)
	if !ok {
		fail("%s is no object", what)
	}
	return o
}

// must is the value of a key that has to be there.
func must(o *pyjson.Object, key string) any {
	v, ok := o.Get(key)
	if !ok {
		fail("%q is missing", key)
	}
	return v
}

// text is a string or an error.
func text(v any, what string) string {
	s, ok := v.(string)
	if !ok {
		fail("%s is no string", what)
	}
	return s
}

// get is dict.get with a default.
func get(o *pyjson.Object, key string, def any) any {
	if v, ok := o.Get(key); ok {
		return v
	}
	return def
}

// unwrapped is the function of {"type": "function", "function": {...}}, or the tool itself.
func unwrapped(v any, absent func(o *pyjson.Object) any) any {
	o := object(v, "a tool")
	if o.Value("type") == "function" {
		return get(o, "function", absent(o))
	}
	return o
}

func orEmpty(*pyjson.Object) any    { return "" }
func orItself(o *pyjson.Object) any { return o }
func arguments(c Call) any          { return parsed(c.Arguments) }
func dumps(v any) string            { return pyjson.Dumps(v) }
func named(c Call, key string) any {
	return pyjson.NewObject("name", c.NameValue(), key, arguments(c))
}
func wrapped(v any) any {
	if o := object(v, "a tool"); o.Value("type") == "function" {
		return o
	}
	return pyjson.NewObject("type", "function", "function", v)
}

func parsed(s string) any {
	v, err := pyjson.Parse(s)
	if err != nil {
		fail("arguments are no JSON: %v", err)
	}
	return v
}

// lines writes each tool with f.
func lines(tools []any, f func(v any) string) string {
	var b strings.Builder
	for _, t := range tools {
		b.WriteString(f(t))
	}
	return b.String()
}

// valueText is a string itself, anything else as JSON.
func valueText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return dumps(v)
}

// textNamed is a call for the formats that need its name to be text.
func textNamed(c Call) Call {
	text(c.NameValue(), "the name of a call")
	return c
}

func joinCalls(calls []Call, sep string, f func(c Call) string) string {
	var out []string
	for _, c := range calls {
		out = append(out, f(c))
	}
	return strings.Join(out, sep)
}

// xmlCall writes a call with one element for each argument.
func xmlCall(c Call, open, param, value, endParam, end string) string {
	var b strings.Builder
	fmt.Fprintf(&b, open, c.Name)
	args := object(arguments(c), "the arguments")
	for _, k := range args.Keys() {
		b.WriteString(fmt.Sprintf(param, k) + value + valueText(args.Value(k)) + endParam)
	}
	return b.String() + end
}

func qwenTools(prompt string) func([]any, time.Time) string {
	return func(tools []any, _ time.Time) string {
		return strings.Replace(prompt, "{tool_text}", lines(tools, func(v any) string { return "\n" + dumps(wrapped(v)) }), 1)
	}
}

func qwenCalls(calls []Call) string {
	return joinCalls(calls, "\n", func(c Call) string { return "<tool_call>\n" + dumps(named(c, "arguments")) + "\n</tool_call>" })
}

func seedTools(tools any) string {
	return strings.Replace(promptSeed, "{tool_text}", "\n"+dumps(tools), 1)
}

func toolFormats() []ToolFormat {
	fill := func(prompt, s string) string { return strings.Replace(prompt, "{tool_text}", s, 1) }
	return []ToolFormat{
		{"default", func(t []any, _ time.Time) string { return defaultTools(t) }, func(calls []Call) string {
			return joinCalls(calls, "\n", func(c Call) string { return "Action: " + c.Name + "\nAction Input: " + c.Arguments })
		}, extractDefault},
		{"gemma4", func(t []any, _ time.Time) string { return gemmaTools(t) }, gemmaCalls, extractGemma},
		{"glm4", func(t []any, _ time.Time) string {
			return fill(promptGLM4, lines(t, func(v any) string {
				o := object(unwrapped(v, orEmpty), "a tool")
				return "\n\n## " + pyjson.Str(must(o, "name")) + "\n\n" + pyjson.Dump(o, pyjson.Style{Indent: 4}) + "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
			}))
		}, func(calls []Call) string {
			if len(calls) != 1 {
				fail("this format has no parallel calls")
			}
			return calls[0].Name + "\n" + calls[0].Arguments
		}, extractGLM4},
		{"llama3", func(t []any, today time.Time) string {
			return strings.Replace(fill(promptLlama3, lines(t, func(v any) string { return pyjson.Dump(wrapped(v), pyjson.Style{Indent: 4}) + "\n\n" })),
				"{date}", today.Format("02 Jan 2006"), 1)
		}, func(calls []Call) string {
			var list []any
			for _, c := range calls {
				list = append(list, named(c, "parameters"))
			}
			if len(list) == 1 {
				return dumps(list[0])
			}
			return dumps(list)
		}, func(s string) []Call { return extractJSON(s, "parameters") }},
		{"lfm2", func(t []any, _ time.Time) string {
			var list []any
			for _, v := range t {
				list = append(list, unwrapped(v, orItself))
			}
			return fill(promptLFM2, dumps(list))
		}, lfmCalls, extractLFM},
		{"minimax1", func(t []any, _ time.Time) string {
			return fill(promptMiniMax1, lines(t, func(v any) string { return dumps(unwrapped(v, orEmpty)) + "\n" }))
		}, func(calls []Call) string {
			return "<tool_calls>\n" + joinCalls(calls, "\n", func(c Call) string { return dumps(named(c, "arguments")) }) + "\n</tool_calls>"
		}, extractMiniMax1},
		{"minimax2", func(t []any, _ time.Time) string {
			return fill(promptMiniMax2, lines(t, func(v any) string { return "<tool>" + dumps(unwrapped(v, orEmpty)) + "</tool>\n" }))
		}, func(calls []Call) string {
			return joinCalls(calls, "\n", func(c Call) string {
				return xmlCall(c, `<invoke name="%s">`, "\n<parameter name=\"%s\">", "", "</parameter>", "\n</invoke>")
			})
		}, extractMiniMax2},
		{"mistral", func(t []any, _ time.Time) string {
			var list []any
			for _, v := range t {
				list = append(list, wrapped(v))
			}
			return "[AVAILABLE_TOOLS] " + dumps(list) + "[/AVAILABLE_TOOLS]"
		}, func(calls []Call) string {
			list := []any{}
			for _, c := range calls {
				list = append(list, named(c, "arguments"))
			}
			return dumps(list)
		}, func(s string) []Call { return extractJSON(s, "arguments") }},
		{"qwen", qwenTools(promptQwen), qwenCalls, extractQwen},
		{"qwen3_5", func(t []any, _ time.Time) string {
			return fill(promptQwen35, lines(t, func(v any) string { return "\n" + dumps(unwrapped(v, orItself)) }))
		}, func(calls []Call) string {
			return joinCalls(calls, "\n", func(c Call) string {
				return xmlCall(c, "<tool_call>\n<function=%s>", "\n<parameter=%s>", "\n", "\n</parameter>", "\n</function>\n</tool_call>")
			})
		}, func(s string) []Call { return extractXML(s, reQwen35, reParameter, true) }},
		{"glm4_moe", qwenTools(promptGLM4MoE), func(calls []Call) string {
			return joinCalls(calls, "\n", func(c Call) string {
				return xmlCall(textNamed(c), "\n<tool_call>%s", "\n<arg_key>%s</arg_key>", "\n<arg_value>", "</arg_value>", "")
			})
		}, extractQwen},
		{"seed_oss", func(t []any, _ time.Time) string { return seedTools(t) }, func(calls []Call) string {
			return joinCalls(calls, "\n", func(c Call) string {
				return xmlCall(textNamed(c), "\n<seed:tool_call>\n<function=%s", "\n<parameter=%s>", "", "</parameter>", "\n</function>\n</seed:tool_call>")
			})
		}, func(s string) []Call { return extractXML(s, reSeed, reParameter, false) }},
		{"ling", func(t []any, now time.Time) string { return qwenTools(promptLing)(t, now) + "\ndetailed thinking off" }, qwenCalls, extractQwen},
	}
}

func defaultTools(tools []any) string {
	var out strings.Builder
	var names []string
	for _, v := range tools {
		o := object(unwrapped(v, orEmpty), "a tool")
		params := object(must(o, "parameters"), "parameters")
		props := object(must(params, "properties"), "properties")
		required := get(params, "required", []any{})
		var args strings.Builder
		for _, name := range props.Keys() {
			p := object(props.Value(name), "a parameter")
			need, enum, items := "", "", ""
			if contains(required, name, "required") {
				need = ", required"
			}
			if e := p.Value("enum"); pyjson.Truthy(e) {
				enum = ", should be one of [" + joinStrings(e) + "]"
			}
			if e := p.Value("items"); pyjson.Truthy(e) {
				items = ", where each item should be " + pyjson.Str(get(object(e, "items"), "type", ""))
			}
			fmt.Fprintf(&args, "  - %s (%s%s): %s%s%s\n", name, pyjson.Str(get(p, "type", "")), need, pyjson.Str(get(p, "description", "")), enum, items)
		}
		name := must(o, "name")
		fmt.Fprintf(&out, "> Tool Name: %s\nTool Description: %s\nTool Args:\n%s\n", pyjson.Str(name), pyjson.Str(get(o, "description", "")), args.String())
		names = append(names, text(name, "the name of a tool"))
	}
	return strings.NewReplacer("{tool_text}", out.String(), "{tool_names}", strings.Join(names, ", ")).Replace(promptDefault)
}

// contains is Python's name in v.
func contains(v any, name, what string) bool {
	switch x := v.(type) {
	case []any:
		return slices.ContainsFunc(x, func(e any) bool { return e == name })
	case string:
		return strings.Contains(x, name)
	case *pyjson.Object:
		_, ok := x.Get(name)
		return ok
	}
	fail("%s is no list", what)
	return false
}

// iterated is what Python's for goes through: the items of a list, the characters of a text, the keys of an object.
func iterated(v any, what string) []any {
	var parts []string
	switch x := v.(type) {
	case []any:
		return x
	case string:
		parts = strings.Split(x, "")
	case *pyjson.Object:
		parts = x.Keys()
	default:
		fail("%s is no list", what)
	}
	out := make([]any, len(parts))
	for i, s := range parts {
		out[i] = s
	}
	return out
}

// joinStrings is ", ".join(v).
func joinStrings(v any) string {
	var out []string
	for _, e := range iterated(v, "enum") {
		out = append(out, text(e, "a value of enum"))
	}
	return strings.Join(out, ", ")
}

// upper is str.upper, which writes one letter as several where it has no capital: ß as SS.
func upper(s string) string { return cases.Upper(language.Und).String(s) }

const gemmaQuote = `<|"|>`

func gemmaTools(tools []any) string {
	var out []string
	for _, v := range tools {
		o := object(unwrapped(v, orItself), "a tool")
		s := "declaration:" + pyjson.Str(must(o, "name")) + "{description:" + gemmaQuote + pyjson.Str(get(o, "description", "")) + gemmaQuote
		if p := o.Value("parameters"); pyjson.Truthy(p) {
			s += ",parameters:{" + gemmaParameters(object(p, "parameters")) + "}"
		}
		if r := o.Value("response"); pyjson.Truthy(r) {
			resp := object(r, "response")
			var parts []string
			if d := resp.Value("description"); pyjson.Truthy(d) {
				parts = append(parts, "description:"+gemmaQuote+pyjson.Str(d)+gemmaQuote)
			}
			if upper(pyjson.Str(get(resp, "type", ""))) == "OBJECT" {
				parts = append(parts, "type:"+gemmaQuote+"OBJECT"+gemmaQuote)
			}
			s += ",response:{" + strings.Join(parts, ",") + "}"
		}
		out = append(out, s+"}")
	}
	return strings.Join(out, "\n")
}

func gemmaParameters(p *pyjson.Object) string {
	typed := func(v any) string { return "type:" + gemmaQuote + upper(pyjson.Str(v)) + gemmaQuote }
	var parts []string
	if v := p.Value("properties"); pyjson.Truthy(v) {
		props := object(v, "properties")
		var list []string
		for _, name := range props.Keys() {
			schema := object(props.Value(name), "a parameter")
			var items []string
			if d := schema.Value("description"); pyjson.Truthy(d) {
				items = append(items, "description:"+gemmaQuote+pyjson.Str(d)+gemmaQuote)
			}
			if t := schema.Value("type"); pyjson.Truthy(t) {
				items = append(items, typed(t))
			}
			list = append(list, name+":{"+strings.Join(items, ",")+"}")
		}
		parts = append(parts, "properties:{"+strings.Join(list, ",")+"}")
	}
	if v := p.Value("required"); pyjson.Truthy(v) {
		var names []string
		for _, e := range iterated(v, "required") {
			names = append(names, gemmaQuote+pyjson.Str(e)+gemmaQuote)
		}
		parts = append(parts, "required:["+strings.Join(names, ",")+"]")
	}
	if v := p.Value("type"); pyjson.Truthy(v) {
		parts = append(parts, typed(v))
	}
	return strings.Join(parts, ",")
}

func gemmaCalls(calls []Call) string {
	return joinCalls(calls, "", func(c Call) string {
		s := "<|tool_call>call:" + c.Name + "{"
		v, err := pyjson.Parse(c.Arguments)
		switch x := v.(type) {
		case *pyjson.Object:
			s += strings.TrimSuffix(strings.TrimPrefix(gemmaValue(x), "{"), "}")
		case string:
			s += x
		default:
			if err != nil {
				s += c.Arguments
			} else {
				s += gemmaValue(v)
			}
		}
		return s + "}<tool_call|>"
	})
}

func gemmaValue(v any) string {
	switch x := v.(type) {
	case string:
		return gemmaQuote + x + gemmaQuote
	case bool, nil:
		return dumps(x)
	case *pyjson.Object:
		var items []string
		for _, k := range slices.Sorted(slices.Values(x.Keys())) {
			items = append(items, k+":"+gemmaValue(x.Value(k)))
		}
		return "{" + strings.Join(items, ",") + "}"
	case []any:
		var items []string
		for _, e := range x {
			items = append(items, gemmaValue(e))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return pyjson.Str(v)
}

func lfmCalls(calls []Call) string {
	return "<|tool_call_start|>[" + joinCalls(calls, ", ", func(c Call) string {
		args := object(arguments(c), "the arguments")
		var parts []string
		for _, k := range args.Keys() {
			if s, ok := args.Value(k).(string); ok {
				parts = append(parts, k+`="`+s+`"`)
			} else {
				parts = append(parts, k+"="+dumps(args.Value(k)))
			}
		}
		return c.Name + "(" + strings.Join(parts, ", ") + ")"
	}) + "]<|tool_call_end|>"
}
