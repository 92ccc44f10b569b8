package data

import (
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/schemas"
)

// Template is a chat template in LLaMA-Factory's terms: each slot is a list of elements that are encoded one by one. An element is text with
// {{content}} in it, or one of bos and eos, which stand for an id and are skipped when the tokenizer has none.
type Template struct {
	Name string
	// Prefix begins the first turn.
	Prefix                  []string
	System, User, Assistant []string
	DefaultSystem           string
	// Stop is the token that replaces the tokenizer's end-of-sequence token ("": keep it).
	Stop string
	// TextEnd ends a document in pretraining ("": the end-of-sequence token).
	TextEnd string
	// SystemInUser prepends the system text to the user's content, encoded as one string (Llama2Template).
	SystemInUser bool
	// EndAll puts the end of sequence behind the whole conversation, whatever is cut off of it, rather than into the assistant's slot.
	EndAll bool
	// Thought, when not empty, are the words around a thought. A question whose answer has none ends with an empty thought, which is not
	// trained: what LLaMA-Factory does when thinking is neither enabled nor disabled.
	Thought [2]string
	// EmptyThought is such a thought.
	EmptyThought string
}

const (
	slot = "{{content}}"
	bos  = "\x00bos"
	eos  = "\x00eos"
	// token stands before a token that is no text.
	token = "\x00token:"
)

// templates are the built-in ones, by name, as LLaMA-Factory (v0.9.6.dev0) defines them, and "tunefleet", which our example uses.
func templates() []Template {
	chatml := Template{System: []string{"<|im_start|>system\n" + slot + "<|im_end|>\n"},
		User:      []string{"<|im_start|>user\n" + slot + "<|im_end|>\n<|im_start|>assistant\n"},
		Assistant: []string{slot + "<|im_end|>\n"}, Stop: "<|im_end|>"}
	named := func(t Template, name, system string) Template { t.Name, t.DefaultSystem = name, system; return t }
	return []Template{
		{Name: "empty", System: []string{slot}, User: []string{slot}, Assistant: []string{slot}},
		{Name: "default", System: []string{"System: " + slot, eos, "\n"}, User: []string{"Human: " + slot, eos, "\nAssistant:"},
			Assistant: []string{slot, eos, "\n"}},
		{Name: "alpaca", System: []string{slot}, User: []string{"### Instruction:\n" + slot + "\n\n### Response:\n"},
			Assistant:     []string{slot, eos, "\n\n"},
			DefaultSystem: "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"},
		named(chatml, "chatml", ""),
		named(chatml, "qwen3_nothink", ""),
		named(chatml, "qwen", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
		{Name: "llama3", Prefix: []string{bos}, System: []string{"<|start_header_id|>system<|end_header_id|>\n\n" + slot + "<|eot_id|>"},
			User:      []string{"<|start_header_id|>user<|end_header_id|>\n\n" + slot + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
			Assistant: []string{slot + "<|eot_id|>"}, Stop: "<|eot_id|>", TextEnd: "<|end_of_text|>"},
		{Name: "llama2", System: []string{"<<SYS>>\n" + slot + "\n<</SYS>>\n\n"}, User: []string{bos, "[INST] " + slot + " [/INST]"},
			Assistant: []string{slot, eos}, SystemInUser: true},
		{Name: "mistral", Prefix: []string{bos}, System: []string{slot + "\n\n"}, User: []string{"[INST] " + slot + "[/INST]"},
			Assistant: []string{" " + slot, eos}, SystemInUser: true},
		{Name: "vicuna", System: []string{slot}, User: []string{"USER: " + slot + " ASSISTANT:"}, Assistant: []string{slot, eos},
			DefaultSystem: "A chat between a curious user and an artificial intelligence assistant. " +
				"The assistant gives helpful, detailed, and polite answers to the user's questions."},
		// The answer's leading space gives its first word the token that it has within text.
		{Name: "tunefleet", Prefix: []string{bos}, System: []string{"<|system|>\n" + slot + "\n"},
			User: []string{"<|user|>\n" + slot + "<|assistant|>\n"}, Assistant: []string{" " + slot, eos}},
		// The assistant's turn begins with the words that stand before a type in the clauses themselves, so that a model that knows nothing
		// but their text can go on from there.
		{Name: "contract-review", Prefix: []string{bos}, System: []string{"<|system|>\n" + slot + "\n"},
			User: []string{"<|user|>\n" + slot + "<|assistant|>\nThis clause is a matter of"}, Assistant: []string{" " + slot, eos}},
	}
}

// TemplateByName finds a built-in template; CodeInvalid with the nearest name otherwise.
func TemplateByName(name string) (Template, error) {
	for _, t := range templates() {
		if t.Name == name {
			return t, nil
		}
	}
	// Every other template of LLaMA-Factory, as far as one question and one answer go.
	t, err := chat.ByName(name)
	if err != nil {
		return Template{}, err
	}
	return fromChat(t)
}

// fromChat takes over a template for single turns. CodeUnsupported for one that needs more.
func fromChat(t *chat.Template) (Template, error) {
	out := Template{Name: t.Name, DefaultSystem: t.DefaultSystem, EndAll: t.EfficientEOS, SystemInUser: t.Class == chat.ClassLlama2}
	for _, x := range []struct {
		from []chat.Element
		to   *[]string
	}{{t.Prefix, &out.Prefix}, {t.System, &out.System}, {t.User, &out.User}, {t.Assistant, &out.Assistant}} {
		for _, e := range x.from {
			switch e.Kind {
			case chat.Text:
				*x.to = append(*x.to, e.Text)
			case chat.BOS:
				*x.to = append(*x.to, bos)
			case chat.EOS:
				*x.to = append(*x.to, eos)
			case chat.Token:
				*x.to = append(*x.to, token+e.Text)
			default:
				return Template{}, schemas.Errorf(schemas.CodeUnsupported, "template", "%q has a %q, which this form of configuration does not know", t.Name, e.Kind)
			}
		}
	}
	if t.Reasoning() {
		out.Thought, out.EmptyThought = t.ThoughtWords, t.ThoughtWords[0]+t.ThoughtWords[1]
		if t.Class == chat.ClassGLM47 {
			out.EmptyThought = t.ThoughtWords[1]
		}
	}
	if t.ReplaceEOS && len(t.StopWords) > 0 {
		out.Stop = t.StopWords[0]
	}
	return out, nil
}

// EncodePrompt returns the ids of everything before the assistant's answer, which is looked at for thoughts only.
func (t Template) EncodePrompt(tok Tokenizer, system, user, answer string) []int32 {
	if system == "" {
		system = t.DefaultSystem
	}
	ids := t.encode(tok, nil, t.Prefix, "")
	switch {
	case system == "":
	case t.SystemInUser:
		user = strings.ReplaceAll(t.System[0], slot, system) + user
	default:
		ids = t.encode(tok, ids, t.System, system)
	}
	if !t.SystemInUser {
		// LLaMA-Factory fills the number of the turn into users' texts too, since it replaces placeholders after the content.
		user = strings.ReplaceAll(user, "{{idx}}", "0")
	}
	ids = t.encode(tok, ids, t.User, user)
	if open, end := strings.TrimSpace(t.Thought[0]), strings.TrimSpace(t.Thought[1]); open != "" && !strings.Contains(answer, open) && !strings.Contains(answer, end) {
		ids = append(ids, tok.Encode(t.EmptyThought)...)
	}
	return ids
}

// EncodeResponse returns the ids of the assistant's answer with its end.
func (t Template) EncodeResponse(tok Tokenizer, response string) []int32 {
	return t.encode(tok, nil, t.Assistant, response)
}

func (t Template) encode(tok Tokenizer, ids []int32, elements []string, content string) []int32 {
	for _, e := range elements {
		var id int32
		switch e {
		case bos:
			id = BOS(tok)
		case eos:
			id = t.EOS(tok)
		default:
			name, special := strings.CutPrefix(e, token)
			if !special {
				ids = append(ids, tok.Encode(strings.ReplaceAll(e, slot, content))...)
				continue
			}
			var ok bool
			if id, ok = tok.TokenID(name); !ok {
				id = -1
			}
		}
		if id >= 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// EOS is the end-of-sequence id under the template, -1 for none.
func (t Template) EOS(tok Tokenizer) int32 {
	if t.Stop != "" {
		if id, ok := tok.TokenID(t.Stop); ok {
			return id
		}
	}
	return EOS(tok)
}

// textEnd is the id that ends a document in pretraining, -1 for none.
func (t Template) textEnd(tok Tokenizer) int32 {
	if t.TextEnd != "" {
		if id, ok := tok.TokenID(t.TextEnd); ok {
			return id
		}
	}
	return t.EOS(tok)
}

// StopIDs are the ids that end a generated answer.
func (t Template) StopIDs(tok Tokenizer) []int32 {
	var out []int32
	for _, id := range []int32{t.EOS(tok), EOS(tok)} {
		if id >= 0 && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}
