// Package align turns rows of data sets into conversations, as LLaMA-Factory's converters do: formats alpaca, sharegpt and openai with their
// columns and tags, ranking and KTO data, tools and histories.
package align

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// Attr is what dataset_info.json says of a data set. An empty name means that there is no such column or tag.
type Attr struct {
	// Formatting is "alpaca", "sharegpt" or "openai".
	Formatting string
	// Ranking data has chosen and rejected answers.
	Ranking bool
	// Columns by what they hold: prompt, query, response, history, messages, system, tools, images, videos, audios, chosen, rejected, kto_tag.
	Columns map[string]string
	// Tags of messages: role_tag, content_tag, user_tag, assistant_tag, observation_tag, function_tag, system_tag.
	Tags map[string]string
	// Strict makes a missing column an error; otherwise it is null, as in a table.
	Strict bool
	// Shapes, when not nil, are those of the data set's nested values.
	Shapes *Shapes
}

// Turn is a message whose content may be something else than text, as the row has it.
type Turn struct {
	Role    string
	Content any
}

// Row is a converted row. Conversations with roles out of turn have no prompt; processors drop them.
type Row struct {
	Prompt, Response []Turn
	// System and Tools are text in a good row. Images, Videos and Audios are lists or nil.
	System, Tools, Images, Videos, Audios any
	// Broken says why the conversation has no prompt, "" when it has one.
	Broken string
	// judged says that the row is KTO data: the first of its two answers that is not empty counts.
	judged bool
}

// malformed is raised where the reference raises KeyError or TypeError; Convert returns it.
type malformed struct{ what string }

func fail(format string, args ...any) { panic(malformed{fmt.Sprintf(format, args...)}) }

// Convert converts a row. CodeData when the row does not have the shape that the format needs.
func Convert(row *pyjson.Object, a *Attr) (r *Row, err error) {
	defer func() {
		if x := recover(); x != nil {
			m, ok := x.(malformed)
			if !ok {
				panic(x)
			}
			r, err = nil, schemas.Errorf(schemas.CodeData, a.Formatting, "%s", m.what)
		}
	}()
	c := &converter{row, a}
	switch a.Formatting {
	case "alpaca", "":
		return c.alpaca(), nil
	case "sharegpt":
		return c.sharegpt(), nil
	case "openai":
		return c.openai(), nil
	}
	return nil, schemas.Errorf(schemas.CodeInvalid, "formatting", "unknown format %q", a.Formatting).WithHint("known formats: alpaca, sharegpt, openai")
}

type converter struct {
	row *pyjson.Object
	a   *Attr
}

// column is the value of a column, nil when the data set has none.
func (c *converter) column(role string) any {
	name := c.a.Columns[role]
	if name == "" {
		return nil
	}
	v, ok := c.row.Get(name)
	if !ok && c.a.Strict {
		fail("the column %q is missing", name)
	}
	return v
}

// needed is a column that rows of this kind cannot be without.
func (c *converter) needed(role string) any {
	if c.a.Columns[role] == "" && c.a.Strict {
		fail("the data set names no column for %s", role)
	}
	return c.column(role)
}

// textColumn is a column that is "" when the data set has none.
func (c *converter) textColumn(role string) any {
	if c.a.Columns[role] == "" {
		return ""
	}
	return c.column(role)
}

func (c *converter) media(r *Row) {
	get := func(role string) any {
		switch x := c.column(role).(type) {
		case nil:
			return nil
		case []any:
			if len(x) == 0 {
				return nil
			}
			return x
		default:
			return []any{x}
		}
	}
	r.Images, r.Videos, r.Audios = get("images"), get("videos"), get("audios")
}

func (c *converter) alpaca() *Row {
	r := &Row{}
	if history, ok := c.column("history").([]any); ok {
		for _, x := range history {
			p, ok := x.([]any)
			if !ok || len(p) != 2 {
				fail("a turn of the history is no pair")
			}
			r.Prompt = append(r.Prompt, Turn{chat.RoleUser, p[0]}, Turn{chat.RoleAssistant, p[1]})
		}
	}
	var query []string
	for _, role := range []string{"prompt", "query"} {
		if v := c.column(role); pyjson.Truthy(v) {
			s, ok := v.(string)
			if !ok {
				fail("the column %q is no text", c.a.Columns[role])
			}
			query = append(query, s)
		}
	}
	r.Prompt = append(r.Prompt, Turn{chat.RoleUser, strings.Join(query, "\n")})
	if tag, ok := c.column("kto_tag").(bool); ok {
		r.Response, r.judged = judged([]Turn{{chat.RoleAssistant, c.needed("response")}}, tag), true
	} else if chosen, rejected, ok := ranked[string](c); ok {
		r.Response = []Turn{{chat.RoleAssistant, chosen}, {chat.RoleAssistant, rejected}}
	} else if s, ok := c.column("response").(string); ok {
		r.Response = []Turn{{chat.RoleAssistant, s}}
	}
	r.System, r.Tools = c.textColumn("system"), c.textColumn("tools")
	c.media(r)
	return r
}

// ranked are the two answers of a row of ranking data; false when the row has none of that type. Like the reference it does not look for the
// second one when the first one is something else, nor for any in other data.
func ranked[T any](c *converter) (chosen, rejected T, ok bool) {
	if !c.a.Ranking {
		return chosen, rejected, false
	}
	if chosen, ok = c.needed("chosen").(T); !ok {
		return chosen, rejected, false
	}
	rejected, ok = c.needed("rejected").(T)
	return chosen, rejected, ok
}

// judged puts the empty answer behind a good one, or before a bad one.
func judged(answer []Turn, good bool) []Turn {
	empty := []Turn{{chat.RoleAssistant, ""}}
	if good {
		return append(answer, empty...)
	}
	return append(empty, answer...)
}

func (c *converter) field(m *pyjson.Object, tag string) any {
	v, ok := m.Get(c.a.Tags[tag])
	if !ok && c.a.Strict {
		fail("a message has no %q", c.a.Tags[tag])
	}
	return v
}

func message(v any) *pyjson.Object {
	m, ok := v.(*pyjson.Object)
	if !ok {
		fail("a message is no object")
	}
	return m
}

// messages are those of the row without a leading system message, whose text is returned; false when there is none.
func (c *converter) messages() (list []any, system any, has bool) {
	list, ok := c.column("messages").([]any)
	if !ok {
		fail("the column %q is no list of messages", c.a.Columns["messages"])
	}
	if tag := c.a.Tags["system_tag"]; tag != "" && len(list) > 0 {
		if m := message(list[0]); c.field(m, "role_tag") == tag {
			return list[1:], c.field(m, "content_tag"), true
		}
	}
	return list, nil, false
}

// role is what a tag stands for; false when it is none of the data set's tags.
func (c *converter) role(tag any) (string, bool) {
	out := ""
	for _, p := range [...][2]string{{"user_tag", chat.RoleUser}, {"assistant_tag", chat.RoleAssistant}, {"observation_tag", chat.RoleObservation},
		{"function_tag", chat.RoleFunction}, {"system_tag", chat.RoleSystem}} {
		if t := c.a.Tags[p[0]]; t != "" && tag == t {
			out = p[1] // of equal tags the last one counts
		}
	}
	return out, out != ""
}

// asks and answers report whether a tag may stand at an even or an odd place of a conversation.
func (c *converter) asks(tag any) bool {
	return tag != "" && (tag == c.a.Tags["user_tag"] || tag == c.a.Tags["observation_tag"])
}

func (c *converter) answers(tag any) bool {
	return tag != "" && (tag == c.a.Tags["assistant_tag"] || tag == c.a.Tags["function_tag"])
}

func (c *converter) sharegpt() *Row {
	r := &Row{}
	list, system, has := c.messages()
	if r.System = system; !has {
		r.System = c.textColumn("system")
	}
	var turns []Turn
	for i, v := range list {
		m := message(v)
		tag := c.field(m, "role_tag")
		if i%2 == 0 && !c.asks(tag) || i%2 == 1 && !c.answers(tag) {
			r.Broken = fmt.Sprintf("message %d has the role %s out of turn", i+1, pyjson.Repr(tag))
			break
		}
		role, _ := c.role(tag)
		turns = append(turns, Turn{role, c.field(m, "content_tag")})
	}
	c.split(r, turns)
	r.Tools = c.textColumn("tools")
	c.media(r)
	return r
}

// split makes prompt and response of the turns.
func (c *converter) split(r *Row, turns []Turn) {
	if r.Broken == "" && (len(turns)%2 != 0) != c.a.Ranking {
		r.Broken = fmt.Sprintf("%d messages do not end with the right one", len(turns))
	}
	if r.Broken != "" {
		return
	}
	last := max(len(turns)-1, 0)
	if tag, ok := c.column("kto_tag").(bool); ok {
		r.Prompt, r.Response, r.judged = turns[:last], judged(slices.Clone(turns[last:]), tag), true
		return
	}
	chosen, rejected, ok := ranked[*pyjson.Object](c)
	if !ok {
		r.Prompt, r.Response = turns[:last], turns[last:]
		return
	}
	r.Prompt = turns
	for _, m := range []*pyjson.Object{chosen, rejected} {
		role, ok := c.role(c.field(m, "role_tag"))
		if !ok {
			fail("an answer has the unknown role %s", pyjson.Repr(c.field(m, "role_tag")))
		}
		r.Response = append(r.Response, Turn{role, c.field(m, "content_tag")})
	}
}

const thinkingOff = "detailed thinking off"

func (c *converter) openai() *Row {
	r := &Row{}
	list, system, has := c.messages()
	if !has {
		system = c.orEmpty("system")
	}
	turns := c.openaiTurns(list)
	for i, t := range turns {
		if ask := t.Role == chat.RoleUser || t.Role == chat.RoleObservation; i%2 == 0 && !ask || i%2 == 1 && t.Role != chat.RoleAssistant && t.Role != chat.RoleFunction {
			r.Broken = fmt.Sprintf("message %d has the role %q out of turn", i+1, t.Role)
			break
		}
	}
	c.split(r, turns)
	r.Tools = c.orEmpty("tools")
	if c.a.Shapes != nil {
		r.Tools = c.a.Shapes.Tools.Apply(r.Tools)
	}
	switch r.Tools.(type) {
	case *pyjson.Object, []any:
		r.Tools = pyjson.Dumps(r.Tools)
	}
	r.System = openaiSystem(system, pyjson.Truthy(r.Tools))
	c.media(r)
	return r
}

// orEmpty is a column, "" when the row does not have it.
func (c *converter) orEmpty(role string) any {
	if v, ok := c.row.Get(c.a.Columns[role]); ok && c.a.Columns[role] != "" {
		return v
	}
	return ""
}

// openaiTurns joins the results of tools that follow each other, and takes the calls of an assistant's message for its content. Results at
// the very end are left out.
func (c *converter) openaiTurns(list []any) []Turn {
	var turns []Turn
	var results []any
	for _, v := range list {
		m := message(v)
		tag, content := c.field(m, "role_tag"), c.field(m, "content_tag")
		if calls := m.Value("tool_calls"); c.answers(tag) && pyjson.Truthy(calls) {
			content, tag = c.functions(calls), c.a.Tags["function_tag"]
		}
		if t := c.a.Tags["observation_tag"]; t != "" && tag == t {
			results = append(results, content)
			continue
		}
		if len(results) > 0 {
			turns = append(turns, Turn{chat.RoleObservation, joined(results)})
			results = nil
		}
		role, ok := c.role(tag)
		if !ok {
			fail("a message has the unknown role %s", pyjson.Repr(tag))
		}
		turns = append(turns, Turn{role, content})
	}
	return turns
}

// joined are the results of tools as one text.
func joined(results []any) string {
	out := make([]string, len(results))
	for i, v := range results {
		s, ok := v.(string)
		if !ok {
			fail("the result of a tool is no text")
		}
		out[i] = s
	}
	return strings.Join(out, "\n</tool_response>\n<tool_response>\n")
}

func (c *converter) functions(calls any) string {
	list, ok := calls.([]any)
	if !ok {
		fail("tool_calls is no list")
	}
	out := []any{}
	for _, x := range list {
		f, ok := message(x).Get("function")
		if !ok {
			fail("a call has no function")
		}
		if c.a.Shapes != nil {
			f = c.a.Shapes.Calls.Apply(f)
		}
		out = append(out, f)
	}
	return pyjson.Dumps(out)
}

// openaiSystem adds the words that the reference adds to the system text of this format.
func openaiSystem(system any, tools bool) any {
	if !pyjson.Truthy(system) {
		if tools {
			return system
		}
		return thinkingOff
	}
	s, ok := system.(string)
	switch {
	case !ok:
		fail("the system text is no text")
	case tools:
		s += "\n"
	case !strings.Contains(s, "detailed thinking on") && !strings.Contains(s, thinkingOff):
		s += "\n" + thinkingOff
	}
	return s
}

// Example is the row as processors take it. CodeData when a content is no text; the example that comes with that error has such contents
// empty, and tells whether the row would have been used at all.
func (r *Row) Example() (*process.Example, error) {
	e := &process.Example{}
	var err, bad error
	if e.Prompt, err = texts(r.Prompt); err != nil {
		bad = err
	}
	answers := r.Response
	if r.judged && len(answers) == 2 && answers[0].Content == nil { // null is as empty as "" there
		answers = []Turn{{answers[0].Role, ""}, answers[1]}
	}
	if e.Response, err = texts(answers); err != nil && bad == nil {
		bad = err
	}
	for _, m := range []struct {
		name string
		list any
	}{{"images", r.Images}, {"videos", r.Videos}, {"audios", r.Audios}} {
		if list, ok := m.list.([]any); ok && len(list) > 0 {
			e.Media = m.name
			break
		}
	}
	for _, p := range []struct {
		v    any
		to   *string
		name string
	}{{r.System, &e.System, "the system text"}, {r.Tools, &e.Tools, "the description of the tools"}} {
		s, ok := p.v.(string)
		if !ok && pyjson.Truthy(p.v) && bad == nil {
			bad = schemas.Errorf(schemas.CodeData, "", "%s is no text", p.name)
		}
		*p.to = s
	}
	return e, bad
}

func texts(turns []Turn) (out []chat.Message, err error) {
	out = make([]chat.Message, len(turns))
	for i, t := range turns {
		s, ok := t.Content.(string)
		if !ok && err == nil {
			err = schemas.Errorf(schemas.CodeData, "", "the content of a message of the role %q is no text", t.Role)
		}
		out[i] = chat.Message{Role: t.Role, Content: s}
	}
	return out, err
}
