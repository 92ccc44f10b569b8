package report

import (
	"context"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
)

// Piece is a run of tokens that are all trained, or all not.
type Piece struct {
	Text    string `json:"text"`
	Trained bool   `json:"trained"`
	Tokens  int    `json:"tokens,omitempty"`
}

// Shown is a row as the model sees it.
type Shown struct {
	File string `json:"file"`
	Row  int    `json:"row"`
	// Answer is what the sequence's answer is: "chosen", "rejected", "good", "bad", or "" where there is one kind only.
	Answer string `json:"answer,omitempty"`
	Tokens int    `json:"tokens,omitempty"`
	// Truncated says that the cutoff took some of it.
	Truncated bool    `json:"truncated"`
	Pieces    []Piece `json:"pieces"`
}

// previewer shows rows.
type previewer struct {
	p, full *process.Processor // nil without a tokenizer
	tok     *hftok.Tokenizer
	left    int
	shown   []Shown
}

func newPreviewer(e Encoding, rows int) (*previewer, error) {
	v := &previewer{left: rows}
	if e.Tokenizer == "" {
		return v, nil
	}
	cutoff := e.Cutoff
	if cutoff <= 0 {
		cutoff = whole
	}
	var err error
	if v.p, v.tok, err = e.open(cutoff); err != nil {
		return nil, err
	}
	v.full, _, err = e.open(whole)
	return v, err
}

// add shows a row that can be used, as long as more are wanted: ErrEnough once none is.
func (v *previewer) add(s *Set, r *Record) error {
	if v.left > 0 && r.Usable {
		v.left--
		if err := v.show(s, r); err != nil {
			return err
		}
	}
	if v.left == 0 {
		return ErrEnough
	}
	return nil
}

func (v *previewer) show(s *Set, r *Record) error {
	if v.p == nil {
		for k := range max(1, len(r.Example.Response)) {
			v.shown = append(v.shown, Shown{File: r.File, Row: r.Row, Answer: r.answer(k), Pieces: turns(s, r, k)})
		}
		return nil
	}
	xs, err := encode(v.p, s, r)
	if err != nil {
		return err
	}
	all, err := encode(v.full, s, r)
	if err != nil {
		return err
	}
	for k, x := range xs {
		v.shown = append(v.shown, Shown{File: r.File, Row: r.Row, Answer: r.answer(k), Tokens: len(x.IDs), Truncated: len(all[k].IDs) > len(x.IDs), Pieces: pieces(v.tok, x)})
	}
	return nil
}

// Preview reads until it has shown so many rows that can be used: after templating when the encoding has a tokenizer, else as plain turns. Of a pair both
// answers are shown, one after the other.
func Preview(ctx context.Context, c Config, e Encoding, rows int) (*Set, []Shown, error) {
	v, err := newPreviewer(e, rows)
	if err != nil {
		return nil, nil, err
	}
	s, err := Each(ctx, c, v.add)
	if err != nil {
		return nil, nil, err
	}
	return s, v.shown, nil
}

// answer says what answer k of a row is.
func (r *Record) answer(k int) string {
	if r.Example.Pairs() && k < 2 {
		return [...]string{"chosen", "rejected"}[k]
	}
	return r.Judged
}

// pieces decodes the runs of a sample.
func pieces(tok *hftok.Tokenizer, x process.Sample) []Piece {
	var out []Piece
	for i := 0; i < len(x.IDs); {
		j := i
		trained := x.Labels[i] != process.Ignore
		for j < len(x.IDs) && (x.Labels[j] != process.Ignore) == trained {
			j++
		}
		out = append(out, Piece{Text: tok.Decode(x.IDs[i:j], false), Trained: trained, Tokens: j - i})
		i = j
	}
	return out
}

// turns shows a conversation with one of its answers, without a template.
func turns(s *Set, r *Record, answer int) []Piece {
	var out []Piece
	if s.Pretrain {
		return []Piece{{Text: r.Plain.Prompt, Trained: true}}
	}
	if r.Example.System != "" {
		out = append(out, Piece{Text: "system: " + r.Example.System + "\n"})
	}
	for i, m := range r.Example.Prompt {
		out = append(out, Piece{Text: m.Role + ": " + m.Content + "\n", Trained: i%2 == 1})
	}
	if answer < len(r.Example.Response) {
		m := r.Example.Response[answer]
		out = append(out, Piece{Text: m.Role + ": " + m.Content + "\n", Trained: true})
	}
	return out
}

// Plain marks the trained pieces with brackets, for terminals without colours.
func (v *Shown) Plain() string {
	var b strings.Builder
	for _, p := range v.Pieces {
		if p.Trained {
			b.WriteString("⟦" + p.Text + "⟧")
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}
