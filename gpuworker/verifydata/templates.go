package verifydata

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// today is the date that the reference's tools were described on.
func today() time.Time { return time.Date(2025, 1, 2, 0, 0, 0, 0, time.UTC) }

func templateSuite() Suite {
	return Suite{Name: "templates", Match: func(p string) bool { ok, _ := path.Match("templates/*.jsonl", p); return ok },
		Run: func(ctx context.Context, env *Env, f *File) ([]Case, error) {
			run := templateCase
			switch path.Base(f.Path) {
			case "templates_meta.jsonl":
				run = metaCase
			case "tool_utils.jsonl":
				run = toolCase
			}
			out := make([]Case, len(f.Rows))
			for i := range f.Rows {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				out[i] = run(env, f.Row(i))
			}
			return out, nil
		}}
}

// encoder makes an encoder of the template and the tokenizer that a row names.
func (e *Env) encoder(row *pyjson.Object, o chat.Options) (*chat.Encoder, error) {
	o.Today = today()
	name, _ := row.Value("template").(string)
	tokName, _ := row.Value("tokenizer").(string)
	t, err := chat.ByName(name)
	if err != nil {
		return nil, err
	}
	if t, err = t.With(o); err != nil {
		return nil, err
	}
	v, err := e.Shared("encoder "+name+" "+tokName, func() (any, error) {
		tok, err := e.Tokenizer(tokName)
		if err != nil {
			return nil, err
		}
		return chat.NewEncoder(t, tok)
	})
	if err != nil {
		return nil, err
	}
	c := *v.(*chat.Encoder) //nolint:forcetypeassert // made above
	c.Template, c.KeepMissing = t, true
	return &c, nil
}

func boolOf(v any) *bool {
	if b, ok := v.(bool); ok {
		return &b
	}
	return nil
}

func messagesOf(v any) []chat.Message {
	list, _ := v.([]any)
	out := make([]chat.Message, 0, len(list))
	for _, x := range list {
		o, _ := x.(*pyjson.Object)
		role, _ := o.Value("role").(string)
		content, _ := o.Value("content").(string)
		out = append(out, chat.Message{Role: role, Content: content})
	}
	return out
}

func addedObject(e *chat.Encoder) *pyjson.Object {
	names := make([]string, 0, len(e.Added))
	for s := range e.Added {
		names = append(names, s)
	}
	slices.SortFunc(names, func(a, b string) int { return int(e.Added[a] - e.Added[b]) })
	o := &pyjson.Object{}
	for _, s := range names {
		o.Set(s, int64(e.Added[s]))
	}
	return o
}

func templateOrder() []string {
	return []string{"template", "tokenizer", "case", "system", "tools", "messages", "reasoning_template", "enable_thinking", "preserve_thinking", "bos_token", "eos_token",
		"eos_token_id", "pad_token_id", "added_tokens", "oneturn_text", "turns_text", "turns_segments", "turns_ids", "oneturn_ids", "discard_history_cot", "error"}
}

func templateCase(env *Env, row *pyjson.Object) Case {
	c := Case{Order: templateOrder(), Results: []string{"turns_ids", "oneturn_ids", "turns_text", "oneturn_text"}}
	o := chat.Options{EnableThinking: boolOf(row.Value("enable_thinking"))}
	if p := boolOf(row.Value("preserve_thinking")); p != nil {
		o.PreserveThinking = *p
	}
	e, err := env.encoder(row, o)
	if err != nil {
		c.Err = err
		return c
	}
	bos, _ := specialValues(e.Tokenizer, hftok.BOS)
	eos, eosID := specialValues(e.Tokenizer, hftok.EOS)
	_, padID := specialValues(e.Tokenizer, hftok.Pad)
	c.Fields = []Field{{Key: "reasoning_template", Value: e.Template.Reasoning()}, {Key: "bos_token", Value: bos}, {Key: "eos_token", Value: eos},
		{Key: "eos_token_id", Value: eosID}, {Key: "pad_token_id", Value: padID}, {Key: "added_tokens", Value: addedObject(e)}}
	messages := messagesOf(row.Value("messages"))
	system, _ := row.Value("system").(string)
	tools, _ := row.Value("tools").(string)
	one, err := e.Template.OneTurn(messages, system, tools)
	if err != nil {
		c.Err = err
		return c
	}
	turns, err := e.Template.Turns(messages, system, tools, false)
	if err != nil {
		c.Err = err
		return c
	}
	tokenizer, _ := row.Value("tokenizer").(string)
	c.Fields = append(c.Fields, Field{Key: "oneturn_text", Value: pairOf(one, textOf(e))}, Field{Key: "turns_text", Value: listOf(turns, textOf(e))})
	if strings.HasPrefix(tokenizer, "tiny_") { // the reference leaves the segments out for tokenizers of full size
		c.Fields = append(c.Fields, Field{Key: "turns_segments", Value: listOf(turns, segmentsOf(e))})
	}
	c.Fields = append(c.Fields, Field{Key: "turns_ids", Value: listOf(turns, elementIDs(e))}, Field{Key: "oneturn_ids", Value: pairOf(one, elementIDs(e))})
	if e.Template.Reasoning() {
		discarded, err := e.Template.Turns(messages, system, tools, true)
		if err != nil {
			c.Err = err
			return c
		}
		c.Fields = append(c.Fields, Field{Key: "discard_history_cot",
			Value: pyjson.NewObject("turns_text", listOf(discarded, textOf(e)), "turns_ids", listOf(discarded, elementIDs(e)))})
	}
	return c
}

func metaCase(env *Env, row *pyjson.Object) Case {
	c := Case{Order: []string{"template", "template_class", "tokenizer", "default_system", "stop_words", "thought_words", "tool_call_words", "efficient_eos", "replace_eos",
		"replace_jinja_template", "default_enable_thinking", "bos_token", "bos_token_id", "eos_token", "eos_token_id", "pad_token", "pad_token_id", "added_tokens",
		"stop_token_ids", "jinja_template", "ollama_modelfile", "error"}, Results: []string{"jinja_template"}}
	e, err := env.encoder(row, chat.Options{})
	if err != nil {
		c.Err = err
		return c
	}
	name, _ := row.Value("template").(string)
	t, err := chat.ByName(name)
	if err != nil {
		c.Err = err
		return c
	}
	add := func(k string, v any) { c.Fields = append(c.Fields, Field{Key: k, Value: v}) }
	add("template_class", t.Class)
	add("default_system", t.DefaultSystem)
	add("stop_words", anys(t.StopWords))
	add("thought_words", anys(t.ThoughtWords[:]))
	add("tool_call_words", anys(t.ToolCallWords[:]))
	add("efficient_eos", t.EfficientEOS)
	add("replace_eos", t.ReplaceEOS)
	add("replace_jinja_template", t.ReplaceJinja)
	var thinking any
	if t.EnableThinking != nil {
		thinking = *t.EnableThinking
	}
	add("default_enable_thinking", thinking)
	for _, r := range []hftok.Special{hftok.BOS, hftok.EOS, hftok.Pad} {
		s, id := specialValues(e.Tokenizer, r)
		add(string(r), s)
		add(string(r)+"_id", id)
	}
	add("added_tokens", addedObject(e))
	add("stop_token_ids", anys(slices.Sorted(slices.Values(e.StopIDs()))))
	var jinja, ollama any
	if s, err := e.Jinja(); err == nil {
		jinja = s
	}
	tokenizer, _ := row.Value("tokenizer").(string)
	if s, err := e.Ollama(); err == nil && strings.HasPrefix(tokenizer, "tiny_") { // left out for tokenizers of full size
		ollama = s
	}
	add("jinja_template", jinja)
	add("ollama_modelfile", ollama)
	return c
}

func callsValue(calls []chat.Call, content string) any {
	if calls == nil {
		return content
	}
	out := []any{}
	for _, c := range calls {
		out = append(out, []any{c.NameValue(), c.Arguments})
	}
	return out
}

func toolCase(_ *Env, row *pyjson.Object) Case {
	name, _ := row.Value("tool_format").(string)
	f, ok := chat.ToolFormatByName(name)
	c := Case{}
	if !ok {
		c.Err = errUnknown("tool format", name)
		return c
	}
	switch row.Value("kind") {
	case "tool_formatter":
		c.Order, c.Results = []string{"kind", "tool_format", "tools", "date", "output", "error"}, []string{"output"}
		tools, _ := row.Value("tools").(string)
		var s string
		if s, c.Err = f.FormatTools(tools, today()); c.Err == nil {
			c.Fields = []Field{{Key: "date", Value: today().Format("02 Jan 2006")}, {Key: "output", Value: s}, {Key: "error", Value: nil}}
		}
	case "function_formatter":
		c.Order, c.Results = []string{"kind", "tool_format", "calls", "output", "extracted", "error"}, []string{"output"}
		list, _ := row.Value("calls").([]any)
		var calls []chat.Call
		for _, x := range list {
			if p, ok := x.([]any); ok && len(p) == 2 {
				calls = append(calls, chat.Call{Name: pyjson.Str(p[0]), Arguments: pyjson.Str(p[1])})
			}
		}
		var s string
		if s, c.Err = f.FormatCalls(calls); c.Err == nil {
			var found []chat.Call
			found, c.Err = f.Extract(s)
			c.Fields = []Field{{Key: "output", Value: s}, {Key: "extracted", Value: callsValue(found, s)}}
		}
	case "tool_extractor":
		c.Order, c.Results = []string{"kind", "tool_format", "content", "extracted", "error"}, []string{"extracted"}
		content, _ := row.Value("content").(string)
		var found []chat.Call
		found, c.Err = f.Extract(content)
		c.Fields = []Field{{Key: "extracted", Value: callsValue(found, content)}}
	default:
		c.Err = errUnknown("kind", pyjson.Str(row.Value("kind")))
	}
	for _, x := range c.Fields {
		if c.Err == nil && pyjson.HasSurrogate(pyjson.Dumps(x.Value)) {
			c.Err = errSurrogate // as for who wrote the reference
		}
	}
	return c
}

var errSurrogate = errors.New("the result holds half of a surrogate pair, which cannot be written")

// pairOf and listOf write turns the way the reference does, each side by f.
func pairOf(t chat.Turn, f func([]chat.Element) any) any { return []any{f(t.Prompt), f(t.Response)} }

func listOf(turns []chat.Turn, f func([]chat.Element) any) any {
	out := []any{}
	for _, t := range turns {
		out = append(out, pairOf(t, f))
	}
	return out
}

func textOf(e *chat.Encoder) func([]chat.Element) any {
	return func(x []chat.Element) any { return e.Text(x) }
}

func segmentsOf(e *chat.Encoder) func([]chat.Element) any {
	return func(x []chat.Element) any {
		out := []any{}
		for _, el := range e.Resolve(x) {
			out = append(out, []any{string(el.Kind), el.Text})
		}
		return out
	}
}

func elementIDs(e *chat.Encoder) func([]chat.Element) any {
	return func(x []chat.Element) any { return idValues(e.AppendIDs(nil, x)) }
}

// idValues writes ids, null for a token that the tokenizer does not have.
func idValues(ids []int32) []any {
	out := anys(ids)
	for i, id := range ids {
		if id == chat.NoID {
			out[i] = nil
		}
	}
	return out
}

func errUnknown(what, name string) error {
	return schemas.Errorf(schemas.CodeData, name, "is an unknown %s", what)
}
