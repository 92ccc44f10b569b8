package chat

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// Kind is what an element stands for.
type Kind string

// The kinds of elements: text that is tokenized on its own, one token by its name, and the tokenizer's begin and end of a sequence, which are
// left out when it has none.
const (
	Text  Kind = "text"
	Token Kind = "token"
	BOS   Kind = "bos"
	EOS   Kind = "eos"
)

// Element is a part of a formatted message.
type Element struct {
	Kind Kind
	// Text is the text, or the name of the token.
	Text string
}

// UnmarshalJSON reads an element of templates.json: a string, {"token": name} or {"role": "bos_token"}.
func (e *Element) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte(`"`)) {
		e.Kind = Text
		return json.Unmarshal(b, &e.Text)
	}
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	switch {
	case m["token"] != "":
		*e = Element{Token, m["token"]}
	case m["role"] == "bos_token":
		*e = Element{Kind: BOS}
	case m["role"] == "eos_token":
		*e = Element{Kind: EOS}
	default:
		return fmt.Errorf("cannot read the element %s", b)
	}
	return nil
}

// The classes of templates.
const (
	ClassPlain     = "Template"
	ClassLlama2    = "Llama2Template"         // the system text is part of the first user's text
	ClassReasoning = "ReasoningTemplate"      // thoughts are added or taken away
	ClassGLM47     = "Glm47ReasoningTemplate" // an empty thought is its closing word alone
	ClassMossVL    = "MossVLTemplate"         // without system text, tools begin without their leading newlines
)

// Template is a chat template.
type Template struct {
	Name  string `json:"name"`
	Class string `json:"class"`
	// The slots: elements whose texts hold {{content}}.
	Prefix      []Element `json:"prefix"`
	System      []Element `json:"system"`
	User        []Element `json:"user"`
	Assistant   []Element `json:"assistant"`
	Observation []Element `json:"observation"`
	Function    []Element `json:"function"`
	// FunctionFormat and ToolFormat name the formats of calls and of the description of tools.
	FunctionFormat string `json:"function_format"`
	ToolFormat     string `json:"tool_format"`
	// Tools is the slot that takes the tools' JSON as it is, for templates without a ToolFormat.
	Tools         []Element `json:"tools"`
	DefaultSystem string    `json:"default_system"`
	// StopWords end an answer; with ReplaceEOS the first one becomes the tokenizer's end of sequence.
	StopWords []string `json:"stop_words"`
	// ThoughtWords and ToolCallWords are the words around thoughts and calls.
	ThoughtWords  [2]string `json:"thought_words"`
	ToolCallWords [2]string `json:"tool_call_words"`
	// EfficientEOS: no end of sequence in the assistant's slot; one is put behind the whole conversation.
	EfficientEOS bool `json:"efficient_eos"`
	ReplaceEOS   bool `json:"replace_eos"`
	ReplaceJinja bool `json:"replace_jinja_template"`
	// EnableThinking nil or false: empty thoughts belong to the prompt; false: thoughts are taken away; true: empty thoughts are trained.
	EnableThinking *bool `json:"enable_thinking"`
	// PreserveThinking keeps thoughts of earlier turns.
	PreserveThinking bool `json:"preserve_thinking"`
	// Media are the plugin and the tokens for images, video and audio.
	Media map[string]string `json:"media"`
	// Today is the date that tool descriptions tell; the zero value is 1 January of year 1.
	Today time.Time `json:"-"`
}

//go:embed templates.json
var templatesJSON []byte

// all parses the built-in templates, once.
//
//nolint:gochecknoglobals // a constant table, made when first needed
var all = sync.OnceValues(func() ([]Template, error) {
	var list []Template
	if err := json.Unmarshal(templatesJSON, &list); err != nil {
		return nil, fmt.Errorf("cannot read the built-in templates: %w", err)
	}
	return append(list, own()...), nil
})

// own are tunefleet's own templates.
func own() []Template {
	text := func(s string) Element { return Element{Text, s} }
	t := Template{Name: "tunefleet", Class: ClassPlain, Prefix: []Element{{Kind: BOS}}, System: []Element{text("<|system|>\n{{content}}\n")},
		User: []Element{text("<|user|>\n{{content}}<|assistant|>\n")},
		// The answer's leading space gives its first word the token that it has within text.
		Assistant: []Element{text(" {{content}}"), {Kind: EOS}}, FunctionFormat: "default", ToolFormat: "default",
		ThoughtWords: [2]string{"<think>\n", "\n</think>\n\n"}, ToolCallWords: [2]string{"<tool_call>", "</tool_call>"}}
	t.Observation, t.Function = t.User, t.Assistant
	review := t
	// The assistant's turn begins with the words that stand before a type in the clauses themselves, so that a model that knows nothing but
	// their text can go on from there.
	review.Name, review.User = "contract-review", []Element{text("<|user|>\n{{content}}<|assistant|>\nThis clause is a matter of")}
	review.Observation = review.User
	return []Template{t, review}
}

// Names lists the built-in templates, sorted.
func Names() []string {
	list, err := all()
	if err != nil {
		return nil
	}
	var out []string
	for i := range list {
		out = append(out, list[i].Name)
	}
	slices.Sort(out)
	return out
}

// ByName returns a copy of a built-in template; CodeInvalid with the nearest name when there is none.
func ByName(name string) (*Template, error) {
	list, err := all()
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Name == name {
			t := list[i]
			return &t, nil
		}
	}
	e := schemas.Errorf(schemas.CodeInvalid, "template", "unknown chat template %q", name)
	if near := schemas.Nearest(name, Names()); near != "" {
		return nil, e.WithHint("did you mean %q?", near)
	}
	return nil, e.WithHint("known templates: %s", strings.Join(Names(), ", "))
}

// Reasoning reports whether the template handles thoughts.
func (t *Template) Reasoning() bool { return t.Class == ClassReasoning || t.Class == ClassGLM47 }

// Options change a template.
type Options struct {
	// ToolFormat replaces the formats of tools and calls, "" keeps them.
	ToolFormat string
	// DefaultSystem replaces the default system text, nil keeps it.
	DefaultSystem *string
	// EnableThinking and PreserveThinking are for reasoning templates only.
	EnableThinking   *bool
	PreserveThinking bool
	// Today is the date that tool descriptions tell.
	Today time.Time
}

// With returns the template with options. CodeInvalid for an unknown tool format.
func (t *Template) With(o Options) (*Template, error) {
	c := *t
	c.Today = o.Today
	if o.ToolFormat != "" {
		if _, ok := ToolFormatByName(o.ToolFormat); !ok {
			return nil, schemas.Errorf(schemas.CodeInvalid, "tool_format", "unknown tool format %q", o.ToolFormat).
				WithHint("known formats: %s", strings.Join(ToolFormats(), ", "))
		}
		c.ToolFormat, c.FunctionFormat = o.ToolFormat, o.ToolFormat
		c.Function = []Element{{Text, "{{content}}"}}
		if !t.EfficientEOS {
			c.Function = append(c.Function, Element{Kind: EOS})
		}
	}
	if o.DefaultSystem != nil {
		c.DefaultSystem = *o.DefaultSystem
	}
	if t.Reasoning() {
		c.EnableThinking, c.PreserveThinking = o.EnableThinking, o.PreserveThinking
	}
	return &c, nil
}

// The roles of messages.
const (
	RoleUser        = "user"
	RoleAssistant   = "assistant"
	RoleSystem      = "system"
	RoleFunction    = "function"
	RoleObservation = "observation"
)

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Turn is what stands before an answer, and the answer.
type Turn struct{ Prompt, Response []Element }

// Turns formats a conversation as pairs of prompt and response. tools is JSON, "" for none. discard takes thoughts out of all turns but the
// last, for reasoning templates. A conversation whose last prompt has no answer is an error, as are unknown roles and calls that are no JSON.
func (t *Template) Turns(messages []Message, system, tools string, discard bool) ([]Turn, error) {
	if t.Reasoning() {
		messages = slices.Clone(messages)
		if t.EnableThinking != nil && !*t.EnableThinking {
			t.strip(messages, len(messages))
		}
		if discard {
			t.strip(messages, len(messages)-2)
		}
	}
	parts, err := t.format(messages, system, tools)
	if err != nil {
		return nil, err
	}
	if len(parts)%2 != 0 {
		return nil, fmt.Errorf("cannot pair %d messages: the last one has no answer", len(parts))
	}
	var turns []Turn
	for i := 0; i < len(parts); i += 2 {
		turn := Turn{parts[i], parts[i+1]}
		if t.Reasoning() && (!discard || i == len(parts)-2) {
			turn = t.addThought(turn, messages[i+1].Content)
		}
		turns = append(turns, turn)
	}
	return turns, nil
}

// OneTurn formats a conversation as everything before the last message, and that message. Reasoning templates take thoughts out of earlier
// turns unless PreserveThinking.
func (t *Template) OneTurn(messages []Message, system, tools string) (Turn, error) {
	if len(messages) == 0 {
		return Turn{}, fmt.Errorf("cannot format a conversation without messages")
	}
	last := len(messages) - 1
	if t.Reasoning() {
		messages = slices.Clone(messages)
		if !t.PreserveThinking {
			t.strip(messages, len(messages)-2)
		}
		if t.EnableThinking != nil && !*t.EnableThinking {
			messages[last].Content = t.removeThought(messages[last].Content)
		}
	}
	parts, err := t.format(messages, system, tools)
	if err != nil {
		return Turn{}, err
	}
	turn := Turn{slices.Concat(parts[:last]...), parts[last]}
	if t.Reasoning() {
		turn = t.addThought(turn, messages[last].Content)
	}
	return turn, nil
}

// strip takes the thoughts out of the answers before message end.
func (t *Template) strip(messages []Message, end int) {
	for i := 1; i < end; i += 2 {
		messages[i].Content = t.removeThought(messages[i].Content)
	}
}

func between(words [2]string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)` + regexp.QuoteMeta(words[0]) + `(.*?)` + regexp.QuoteMeta(words[1]))
}

func (t *Template) removeThought(s string) string {
	if !strings.Contains(s, t.ThoughtWords[0]) {
		return strings.TrimLeft(s, "\n")
	}
	return strings.TrimLeft(between(t.ThoughtWords).ReplaceAllLiteralString(s, ""), "\n")
}

// emptyThought is the thought of an answer without one.
func (t *Template) emptyThought() string {
	if t.Class == ClassGLM47 {
		return t.ThoughtWords[1]
	}
	return t.ThoughtWords[0] + t.ThoughtWords[1]
}

// addThought adds an empty thought to an answer without one: to the response when thinking is enabled, else to the prompt.
func (t *Template) addThought(turn Turn, content string) Turn {
	if strings.Contains(content, trim(t.ThoughtWords[0])) || strings.Contains(content, trim(t.ThoughtWords[1])) {
		return turn
	}
	thought := []Element{{Text, t.emptyThought()}}
	if t.EnableThinking != nil && *t.EnableThinking {
		turn.Response = append(thought, turn.Response...)
	} else {
		turn.Prompt = append(slices.Clip(turn.Prompt), thought...)
	}
	return turn
}

// format formats each message.
func (t *Template) format(messages []Message, system, tools string) ([][]Element, error) {
	if system == "" {
		system = t.DefaultSystem
	}
	out := make([][]Element, len(messages))
	for i, m := range messages {
		var parts []Element
		before := ""
		if i == 0 {
			parts = append(parts, t.Prefix...)
			if system != "" || tools != "" {
				head, err := t.head(system, tools)
				if err != nil {
					return nil, err
				}
				if t.Class == ClassLlama2 {
					before = head[0].Text
				} else {
					parts = append(parts, head...)
				}
			}
		}
		switch m.Role {
		case RoleUser:
			idx := fmt.Sprint(i / 2)
			if t.Class == ClassLlama2 {
				idx = ""
			}
			parts = append(parts, fill(t.User, before+m.Content, idx)...)
		case RoleAssistant:
			parts = append(parts, fill(t.Assistant, m.Content, "")...)
		case RoleObservation:
			parts = append(parts, fill(t.Observation, m.Content, "")...)
		case RoleFunction:
			text, err := t.calls(m.Content)
			if err != nil {
				return nil, err
			}
			parts = append(parts, fill(t.Function, text, "")...)
		default:
			return nil, fmt.Errorf("cannot format a message of the role %q", m.Role)
		}
		if slices.ContainsFunc(parts, func(e Element) bool { return pyjson.HasSurrogate(e.Text) }) {
			return nil, schemas.Errorf(schemas.CodeData, "", `the text of message %d holds half of a surrogate pair, such as \ud800, which no tokenizer takes`, i+1)
		}
		out[i] = slices.DeleteFunc(parts, func(e Element) bool { return e.Kind == Text && e.Text == "" })
	}
	return out, nil
}

// head is the system slot with the system text and the description of the tools.
func (t *Template) head(system, tools string) ([]Element, error) {
	switch {
	case tools == "":
	case t.ToolFormat == "" && len(t.Tools) > 0:
		system += fill(t.Tools, tools, "")[0].Text
	default:
		f, ok := ToolFormatByName(t.ToolFormat)
		if !ok {
			return nil, fmt.Errorf("cannot write tools in the unknown format %q", t.ToolFormat)
		}
		s, err := f.FormatTools(tools, t.Today)
		if err != nil {
			return nil, err
		}
		if t.Class == ClassMossVL && system == "" {
			s = strings.TrimLeft(s, "\n")
		}
		system += s
	}
	return fill(t.System, system, ""), nil
}

// fill puts content into a slot. idx, when not empty, is the number of the turn; it is looked for after the content was put in, so that
// {{idx}} in a user's text is replaced, too, as the reference does.
func fill(slot []Element, content, idx string) []Element {
	out := make([]Element, len(slot))
	for i, e := range slot {
		if e.Kind == Text {
			e.Text = strings.Replace(e.Text, "{{content}}", content, 1)
			if idx != "" {
				e.Text = strings.Replace(e.Text, "{{idx}}", idx, 1)
			}
		}
		out[i] = e
	}
	return out
}

// calls writes a function message (calls as JSON, with a thought before them or words around them) in the template's format.
func (t *Template) calls(content string) (string, error) {
	before := ""
	// Llama2's class passes no words, so that nothing but JSON is understood there.
	if t.Class != ClassLlama2 {
		if m := between(t.ToolCallWords).FindStringSubmatch(content); m != nil {
			before, content = strings.ReplaceAll(content, m[0], ""), m[1]
		} else if thought := between(t.ThoughtWords).FindString(content); thought != "" {
			before, content = thought, strings.ReplaceAll(content, thought, "")
		}
	}
	v, err := pyjson.Parse(content)
	if err != nil {
		return "", fmt.Errorf("cannot read the calls of a function message: %w", err)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	calls := make([]Call, len(list))
	for i, x := range list {
		o, ok := x.(*pyjson.Object)
		name, okn := o.Get("name")
		args, oka := o.Get("arguments")
		if !ok || !okn || !oka {
			return "", fmt.Errorf("cannot read call %d of a function message: it has no name and arguments", i+1)
		}
		calls[i] = call(name, args)
	}
	f, ok := ToolFormatByName(t.FunctionFormat)
	if !ok {
		return "", fmt.Errorf("cannot write calls in the unknown format %q", t.FunctionFormat)
	}
	s, err := f.FormatCalls(calls)
	return before + s, err
}

// Extract finds the calls in an assistant's message; nil when it has none.
func (t *Template) Extract(content string) ([]Call, error) {
	f, ok := ToolFormatByName(t.ToolFormat)
	if !ok {
		return nil, fmt.Errorf("cannot read calls in the unknown format %q", t.ToolFormat)
	}
	return f.Extract(content)
}
