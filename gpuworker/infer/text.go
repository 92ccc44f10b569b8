package infer

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
)

// heldTokens is how many tokens wait for the rest of a character: no character has more bytes than 4.
const heldTokens = 8

// decoder turns tokens into text as they come. Its pieces together are what the tokens decode to as a whole.
type decoder struct {
	tok *hftok.Tokenizer
	// skip leaves special tokens out.
	skip bool
	// ids are the tokens from the last but one that gave text on; the first shown of them are told already.
	ids   []int32
	shown int
	// raw is text that waits for what follows, of tokenizers that clean up.
	raw string
}

// add is the text that a token adds; "" while a character is not whole.
func (d *decoder) add(id int32) string {
	d.ids = append(d.ids, id)
	before, all := d.tok.Decode(d.ids[:d.shown], d.skip), d.tok.Decode(d.ids, d.skip)
	if len(all) <= len(before) || strings.HasSuffix(all, "\uFFFD") && len(d.ids)-d.shown < heldTokens {
		return ""
	}
	if d.shown > 0 {
		d.ids = d.ids[d.shown:]
	}
	d.shown = len(d.ids)
	return d.clean(all[len(before):], false)
}

// rest is the text of what was held back.
func (d *decoder) rest() string {
	before, all := d.tok.Decode(d.ids[:d.shown], d.skip), d.tok.Decode(d.ids, d.skip)
	return d.clean(all[min(len(before), len(all)):], true)
}

// clean cleans up as transformers does, where the tokenizer wants it: spaces before punctuation go. What may be the beginning of something to clean is
// held back.
func (d *decoder) clean(s string, last bool) string {
	if !d.tok.CleanUpSpaces() {
		return s
	}
	d.raw += s
	at := len(d.raw)
	if !last {
		if at = strings.LastIndexByte(d.raw, ' '); at >= 2 && d.raw[at-2:at] == " '" {
			at -= 2
		}
		if at < 0 {
			at = max(0, at)
		}
	}
	out := hftok.CleanUp(d.raw[:at])
	d.raw = d.raw[at:]
	return out
}

// TextOptions say how an answer becomes text.
type TextOptions struct {
	// KeepSpecial keeps special tokens.
	KeepSpecial bool
	// Stop are texts that end an answer; they are no part of it.
	Stop []string
}

// Text is an answer as text.
type Text struct {
	*Answer
	d       decoder
	stop    []string
	ids     []int32 // the stop ids, which are not shown unless special tokens are
	keep    bool
	held    string // may be the beginning of a stop text
	stopped bool
	over    bool
}

// Text reads an answer of the engine as text.
func (e *Engine) Text(a *Answer, o TextOptions) *Text {
	stop := slices.DeleteFunc(slices.Clone(o.Stop), func(s string) bool { return s == "" })
	return &Text{Answer: a, d: decoder{tok: e.model.Encoder.Tokenizer, skip: !o.KeepSpecial}, stop: stop, ids: a.r.Stop, keep: o.KeepSpecial}
}

// NextText waits for the next piece of text, which is not empty; io.EOF is the end.
func (t *Text) NextText(ctx context.Context) (string, error) {
	for !t.over {
		id, err := t.Next(ctx)
		s := ""
		switch {
		case errors.Is(err, io.EOF):
			t.over = true
			if s = t.cut(t.d.rest()); !t.stopped {
				s, t.held = s+t.held, ""
			}
		case err != nil:
			return "", err
		case !t.keep && slices.Contains(t.ids, id):
			continue
		default:
			s = t.cut(t.d.add(id))
		}
		if t.stopped {
			t.over = true
			t.Cancel()
		}
		if s != "" {
			return s, nil
		}
	}
	return "", io.EOF
}

// cut ends the text before a stop text, and holds back what may be the beginning of one.
func (t *Text) cut(s string) string {
	if len(t.stop) == 0 {
		return s
	}
	s, t.held = t.held+s, ""
	at := -1
	for _, w := range t.stop {
		if i := strings.Index(s, w); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		t.stopped = true
		return s[:at]
	}
	hold := 0
	for _, w := range t.stop {
		for n := min(len(w)-1, len(s)); n > hold; n-- {
			if strings.HasSuffix(s, w[:n]) {
				hold = n
				break
			}
		}
	}
	t.held = s[len(s)-hold:]
	return s[:len(s)-hold]
}

// Reason is why the text ended: ReasonStop also for a stop text. It is final once NextText has said io.EOF.
func (t *Text) Reason() Reason {
	if t.stopped {
		return ReasonStop
	}
	return t.Stats().Reason
}

// All reads the rest of the text.
func (t *Text) All(ctx context.Context) (string, error) {
	var b strings.Builder
	for {
		s, err := t.NextText(ctx)
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		b.WriteString(s)
	}
}
