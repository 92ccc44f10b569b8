package chat

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/jinja"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// ForTokenizer is the template by its name; without a name what the tokenizer's own chat template says (FromTokenizer), or plain text when it
// has none. now is the date that a chat template may tell.
func ForTokenizer(name string, tok *hftok.Tokenizer, now time.Time) (*Template, error) {
	if name != "" {
		return ByName(name)
	}
	if _, ok := tok.ChatTemplate(); ok {
		return FromTokenizer(tok, now)
	}
	return ByName("empty")
}

// Render renders a tokenizer's chat template as apply_chat_template does. vars are variables beside messages and add_generation_prompt: tools,
// enable_thinking, ... CodeModel when the tokenizer has no template or the template fails.
func Render(tok *hftok.Tokenizer, messages []Message, generationPrompt bool, vars *pyjson.Object, now time.Time) (string, error) {
	src, ok := tok.ChatTemplate()
	if !ok {
		return "", schemas.Errorf(schemas.CodeModel, "chat_template", "the tokenizer has no chat template")
	}
	t, err := jinja.Parse(src)
	if err != nil {
		return "", schemas.Errorf(schemas.CodeModel, "chat_template", "%v", err)
	}
	all := &pyjson.Object{}
	for _, r := range []hftok.Special{hftok.BOS, hftok.EOS, hftok.Unk, hftok.Sep, hftok.Pad, hftok.Cls, hftok.Mask} {
		if s, ok := tok.Special(r); ok {
			all.Set(string(r), s)
		}
	}
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = pyjson.NewObject("role", m.Role, "content", m.Content)
	}
	all.Set("messages", list)
	all.Set("tools", nil)
	all.Set("documents", nil)
	all.Set("add_generation_prompt", generationPrompt)
	for _, k := range vars.Keys() {
		all.Set(k, vars.Value(k))
	}
	s, err := t.Render(all, jinja.Options{Now: now})
	if err != nil {
		return "", schemas.Errorf(schemas.CodeModel, "chat_template", "%v", err)
	}
	return s, nil
}

const placeholder = "{{content}}"

// FromTokenizer finds out the slots of a tokenizer's chat template by rendering conversations of placeholders, as LLaMA-Factory does when no
// template is named. CodeModel when the template cannot be rendered or has no place for content.
func FromTokenizer(tok *hftok.Tokenizer, now time.Time) (*Template, error) {
	prefix := tok.Decode(tok.EncodeSpecial(""), false)
	if tok.CleanUpSpaces() {
		prefix = hftok.CleanUp(prefix)
	}
	render := func(prompt bool, messages ...Message) ([]rune, error) {
		s, err := Render(tok, messages, prompt, nil, now)
		return []rune(s), err
	}
	system, err := render(false, Message{RoleSystem, placeholder})
	if err != nil {
		return nil, err
	}
	noSystem, err := render(true, Message{RoleSystem, ""}, Message{RoleUser, placeholder})
	if err != nil {
		return nil, err
	}
	user, err := render(true, Message{RoleUser, placeholder})
	if err != nil {
		return nil, err
	}
	assistant, err := render(false, Message{RoleUser, placeholder}, Message{RoleAssistant, placeholder})
	if err != nil {
		return nil, err
	}
	// The slots begin behind the prefix, the answer behind the user's turn.
	behind := func(s []rune, n int) []rune { return s[min(n, len(s)):] }
	n := len([]rune(prefix))
	system, noSystem, user = behind(system, n), behind(noSystem, n), behind(user, n)
	assistant = behind(assistant, n+len(user))
	t := &Template{Class: ClassPlain, FunctionFormat: "default", ToolFormat: "default", ThoughtWords: [2]string{"<think>\n", "\n</think>\n\n"},
		ToolCallWords: [2]string{"<tool_call>", "</tool_call>"}}
	answer := string(assistant)
	if strings.Contains(answer, "<think>") {
		t.Class = ClassReasoning
	}
	answer = strings.TrimLeft(strings.NewReplacer("<think>", "", "</think>", "").Replace(answer), "\n")
	if len(user) > len(noSystem) {
		t.DefaultSystem = insertions(noSystem, user)
		alone := strings.Replace(string(system), placeholder, t.DefaultSystem, 1)
		user = behind(user, len([]rune(alone)))
	}
	yes := true
	t.EnableThinking, t.Today = &yes, now
	t.User, t.System, t.Assistant = []Element{{Text, string(user)}}, []Element{{Text, string(system)}}, []Element{{Text, answer}}
	t.Observation, t.Function = t.User, t.Assistant
	if prefix != "" {
		t.Prefix = []Element{{Text, prefix}}
	}
	return t, t.checkSlots()
}

// insertions are the characters of long that are passed over while short is followed in it.
func insertions(short, long []rune) string {
	var b strings.Builder
	i := 0
	for _, r := range long {
		switch {
		case i >= len(short):
			return b.String()
		case r == short[i]:
			i++
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// checkSlots refuses slots without a placeholder, which a template from a tokenizer can have.
func (t *Template) checkSlots() error {
	re := regexp.MustCompile(`\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}`)
	for name, slot := range map[string][]Element{"user": t.User, "system": t.System, "assistant": t.Assistant} {
		if !re.MatchString(slot[0].Text) {
			return schemas.Errorf(schemas.CodeModel, "chat_template", "no slot for the %s was found in the tokenizer's chat template", name).WithHint("name a template")
		}
	}
	if len(t.Prefix) > 0 && re.MatchString(t.Prefix[0].Text) {
		return fmt.Errorf("cannot use the chat template: its beginning %q looks like a slot", t.Prefix[0].Text)
	}
	return nil
}
