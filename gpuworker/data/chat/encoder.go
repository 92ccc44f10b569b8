package chat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/schemas"
)

// NoID is the id of a token that the tokenizer does not have.
const NoID = -1

// Encoder tokenizes conversations: a template and a tokenizer that has the template's tokens. It is safe for concurrent use.
type Encoder struct {
	Template  *Template
	Tokenizer *hftok.Tokenizer
	// Added are the tokens that the tokenizer did not have before, with their ids. A model must have rows for them.
	Added map[string]int32
	// KeepMissing lets tokens that the tokenizer does not have stand as NoID in the ids of turns, as the reference does; otherwise they are
	// an error, since no model can take them.
	KeepMissing bool
	// bos, eos and pad are ids, NoID for none.
	bos, eos, pad int32
}

// NewEncoder gives a copy of the tokenizer what the template needs: its end of sequence and stop words as special tokens, and a padding
// token. CodeInvalid for a template that cannot be used.
func NewEncoder(t *Template, tok *hftok.Tokenizer) (*Encoder, error) {
	e := &Encoder{Template: t, Tokenizer: tok.Clone(), Added: map[string]int32{}}
	stop := t.StopWords
	if t.ReplaceEOS {
		if len(stop) == 0 {
			return nil, schemas.Errorf(schemas.CodeInvalid, "template", "%s replaces the end of sequence but has no stop word", t.Name)
		}
		e.replaceEOS(stop[0])
		stop = stop[1:]
	}
	if _, ok := e.Tokenizer.SpecialID(hftok.EOS); !ok {
		e.replaceEOS("<|endoftext|>")
	}
	if _, ok := e.Tokenizer.SpecialID(hftok.Pad); !ok {
		s, _ := e.Tokenizer.Special(hftok.EOS)
		e.Tokenizer.SetSpecial(hftok.Pad, s)
	}
	e.Tokenizer.AddAdditional(stop)
	for s, id := range e.Tokenizer.Added() {
		if _, had := tok.TokenID(s); !had {
			e.Added[s] = id
		}
	}
	id := func(r hftok.Special) int32 {
		if id, ok := e.Tokenizer.SpecialID(r); ok {
			return id
		}
		return NoID
	}
	e.bos, e.eos, e.pad = id(hftok.BOS), id(hftok.EOS), id(hftok.Pad)
	return e, nil
}

func (e *Encoder) replaceEOS(token string) {
	if s, ok := e.Tokenizer.Special(hftok.EOS); !ok || s != token {
		e.Tokenizer.AddSpecial(hftok.EOS, token)
	}
}

// BOSID is the id of the token that begins a sequence, EOSID that ends one and PadID that fills rows, under the template; NoID for none.
func (e *Encoder) BOSID() int32 { return e.bos }

// EOSID is the id of the end of a sequence.
func (e *Encoder) EOSID() int32 { return e.eos }

// PadID is the id of padding.
func (e *Encoder) PadID() int32 { return e.pad }

// AppendIDs adds the ids of elements to dst. A token that the tokenizer does not have becomes NoID.
func (e *Encoder) AppendIDs(dst []int32, elements []Element) []int32 {
	for _, x := range elements {
		switch x.Kind {
		case Text:
			dst = e.Tokenizer.AppendEncode(dst, x.Text)
		case Token:
			id, ok := e.Tokenizer.ConvertToken(x.Text)
			if !ok {
				id = NoID
			}
			dst = append(dst, id)
		case BOS:
			if e.bos != NoID {
				dst = append(dst, e.bos)
			}
		case EOS:
			if e.eos != NoID {
				dst = append(dst, e.eos)
			}
		}
	}
	return dst
}

// Text is the text that elements stand for.
func (e *Encoder) Text(elements []Element) string {
	var b strings.Builder
	for _, x := range e.Resolve(elements) {
		b.WriteString(x.Text)
	}
	return b.String()
}

// Resolve gives begin and end of a sequence their tokens, and leaves them out when the tokenizer has none.
func (e *Encoder) Resolve(elements []Element) []Element {
	var out []Element
	for _, x := range elements {
		switch {
		case x.Kind == BOS && e.bos == NoID, x.Kind == EOS && e.eos == NoID:
			continue
		case x.Kind == BOS:
			x.Text, _ = e.Tokenizer.Special(hftok.BOS)
		case x.Kind == EOS:
			x.Text, _ = e.Tokenizer.Special(hftok.EOS)
		}
		out = append(out, x)
	}
	return out
}

// Pair are the ids of a turn.
type Pair struct{ Prompt, Response []int32 }

// Turns tokenizes a conversation, see Template.Turns.
func (e *Encoder) Turns(messages []Message, system, tools string, discard bool) ([]Pair, error) {
	turns, err := e.Template.Turns(messages, system, tools, discard)
	if err != nil {
		return nil, err
	}
	out := make([]Pair, len(turns))
	for i, t := range turns {
		if out[i], err = e.pair(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// OneTurn tokenizes a conversation, see Template.OneTurn.
func (e *Encoder) OneTurn(messages []Message, system, tools string) (Pair, error) {
	t, err := e.Template.OneTurn(messages, system, tools)
	if err != nil {
		return Pair{}, err
	}
	return e.pair(t)
}

func (e *Encoder) pair(t Turn) (Pair, error) {
	p := Pair{e.AppendIDs(nil, t.Prompt), e.AppendIDs(nil, t.Response)}
	if e.KeepMissing {
		return p, nil
	}
	if slices.Contains(p.Prompt, NoID) || slices.Contains(p.Response, NoID) {
		for _, x := range slices.Concat(t.Prompt, t.Response) {
			if _, ok := e.Tokenizer.ConvertToken(x.Text); x.Kind == Token && !ok {
				return Pair{}, schemas.Errorf(schemas.CodeModel, "template", "the template %s needs the token %q, which the tokenizer does not have", e.Template.Name, x.Text)
			}
		}
	}
	return p, nil
}

// StopIDs are the ids that end an answer: the end of a sequence and the stop words, each once, in the order of the template.
func (e *Encoder) StopIDs() []int32 {
	var out []int32
	if e.eos != NoID {
		out = append(out, e.eos)
	}
	for _, w := range e.Template.StopWords {
		if id, ok := e.Tokenizer.ConvertToken(w); ok && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// slotWriter writes slots as a template of another language.
type slotWriter struct {
	text  func(s string) string
	value func(name string) string
	join  string
}

func (e *Encoder) slot(w slotWriter, slot []Element, placeholder string) (string, error) {
	var items []string
	for _, x := range slot {
		switch x.Kind {
		case Text:
			pieces := strings.Split(x.Text, "{{content}}")
			if pieces[0] != "" {
				items = append(items, w.text(pieces[0]))
			}
			if len(pieces) > 1 {
				items = append(items, w.value(placeholder))
				if pieces[1] != "" {
					items = append(items, w.text(pieces[1]))
				}
			}
		case Token:
			return "", fmt.Errorf("cannot write the template %s: it has tokens that are no text", e.Template.Name)
		case BOS, EOS:
			for _, r := range e.Resolve([]Element{x}) {
				items = append(items, w.text(r.Text))
			}
		}
	}
	return strings.Join(items, w.join), nil
}

// slots writes prefix, system, user and assistant.
func (e *Encoder) slots(w slotWriter, system, content string) (out [4]string, err error) {
	t := e.Template
	for i, s := range []struct {
		slot []Element
		name string
	}{{t.Prefix, content}, {t.System, system}, {t.User, content}, {t.Assistant, content}} {
		if out[i], err = e.slot(w, s.slot, s.name); err != nil {
			return out, err
		}
	}
	return out, nil
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }

// Jinja writes the template as a Jinja chat template for tokenizer_config.json: without tools and thoughts. An error says that the template
// has tokens that are no text.
func (e *Encoder) Jinja() (string, error) {
	// The text of a token is not escaped, as in the reference; no token has a quote.
	s, err := e.slots(slotWriter{quoted, func(n string) string { return n }, " + "}, "system_message", "content")
	if err != nil {
		return "", err
	}
	prefix, system, user, assistant := s[0], s[1], s[2], s[3]
	var b strings.Builder
	if prefix != "" {
		b.WriteString("{{ " + prefix + " }}")
	}
	if d := e.Template.DefaultSystem; d != "" {
		b.WriteString("{% set system_message = " + quoted(d) + " %}")
	}
	b.WriteString("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}" +
		"{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}")
	if e.Template.Class == ClassLlama2 {
		b.WriteString("{% for message in loop_messages %}{% if loop.index0 == 0 and system_message is defined %}" +
			"{% set content = " + system + " + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}")
	} else {
		b.WriteString("{% if system_message is defined %}{{ " + system + " }}{% endif %}" +
			"{% for message in loop_messages %}{% set content = message['content'] %}")
	}
	b.WriteString("{% if message['role'] == 'user' %}{{ " + user + " }}{% elif message['role'] == 'assistant' %}{{ " + assistant +
		" }}{% endif %}{% endfor %}")
	return b.String(), nil
}

// Ollama writes the template as an Ollama Modelfile: without tools and thoughts. An error says that the template has tokens that are no text.
func (e *Encoder) Ollama() (string, error) {
	s, err := e.slots(slotWriter{func(s string) string { return s }, func(n string) string { return "{{ " + n + " }}" }, ""}, ".System", ".Content")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# ollama modelfile auto-generated by llamafactory\n\nFROM .\n\nTEMPLATE \"\"\"" + s[0] + "{{ if .System }}" + s[1] + "{{ end }}" +
		`{{ range .Messages }}{{ if eq .Role "user" }}` + s[2] + `{{ else if eq .Role "assistant" }}` + s[3] + "{{ end }}{{ end }}\"\"\"\n\n")
	if d := e.Template.DefaultSystem; d != "" {
		b.WriteString("SYSTEM \"\"\"" + d + "\"\"\"\n\n")
	}
	for _, id := range setOrder(e.StopIDs()) {
		token, _ := e.Tokenizer.Token(id)
		b.WriteString("PARAMETER stop \"" + token + "\"\n")
	}
	b.WriteString("PARAMETER num_ctx 4096\n")
	return b.String(), nil
}

// setOrder is the order in which CPython iterates over a set that the ids were added to one by one: the reference writes stop words so.
func setOrder(ids []int32) []int32 {
	mask := 7
	table := make([]int32, mask+1)
	clear := func() {
		for i := range table {
			table[i] = NoID
		}
	}
	clear()
	put := func(id int32) {
		perturb, i := uint64(id), int(id)&mask
		for {
			// A run of up to 10 places is tried before the next jump, where it fits into the table.
			run := 0
			if i+9 <= mask {
				run = 9
			}
			for k := i; k <= i+run; k++ {
				if table[k] == NoID || table[k] == id {
					table[k] = id
					return
				}
			}
			perturb >>= 5
			i = int((uint64(i)*5 + 1 + perturb) & uint64(mask))
		}
	}
	used := 0
	for n, id := range ids {
		put(id)
		if used = n + 1; used*5 >= mask*3 {
			size := 8
			for size <= used*4 {
				size *= 2
			}
			old := table
			table, mask = make([]int32, size), size-1
			clear()
			for _, x := range old {
				if x != NoID {
					put(x)
				}
			}
		}
	}
	return slices.DeleteFunc(table, func(x int32) bool { return x == NoID })
}
