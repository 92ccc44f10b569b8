package data

import (
	"errors"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/schemas"
)

// EncodeText encodes a row for pretraining: its text and the end of a document, every token trained.
func EncodeText(tok Tokenizer, t Template, r *Row) Sequence {
	ids := slices.Clone(tok.Encode(r.Plain()))
	if id := t.textEnd(tok); id >= 0 {
		ids = append(ids, id)
	}
	return Sequence{IDs: ids, Labels: slices.Clone(ids)}
}

// EncodeChat encodes a row for supervised fine-tuning: the prompt is not trained, the answer is. Longer pairs are cut to cutoff tokens,
// shared between prompt and answer as LLaMA-Factory's infer_seqlen does.
func EncodeChat(tok Tokenizer, t Template, r *Row, cutoff int) Sequence {
	src, dst := t.EncodePrompt(tok, r.System, r.User(), r.Answer()), t.EncodeResponse(tok, r.Answer())
	end := int32(-1)
	if t.EndAll {
		if end = t.EOS(tok); end >= 0 {
			cutoff--
		}
	}
	ns, nd := process.InferLengths(len(src), len(dst), cutoff)
	s := Sequence{IDs: slices.Concat(src[:ns], dst[:nd]), Labels: make([]int32, 0, ns+nd)}
	for range ns {
		s.Labels = append(s.Labels, IgnoreLabel)
	}
	s.Labels = append(s.Labels, dst[:nd]...)
	if end >= 0 {
		s.IDs, s.Labels = append(s.IDs, end), append(s.Labels, end)
	}
	return s
}

// packer joins sequences to longer ones of at most cutoff tokens and gives them to add. Text ("pt") runs on: everything is laid end to end and
// cut into blocks of exactly cutoff tokens, the rest is dropped; less than one block becomes one short sequence. Chat samples ("sft") stay
// whole: greedy knapsack, the longest that still fits goes in next, as LLaMA-Factory packs; samples over cutoff are left out. With neat the
// documents of a sequence are kept apart by Docs, else they see each other.
type packer interface {
	take(s Sequence) error
	finish() error
	close() error
}

// textPacker packs text; it holds less than a block and a document.
type textPacker struct {
	cutoff      int
	neat        bool
	add         func(Sequence) error
	ids, labels []int32
	ends        []int // of the documents in ids
	packed      bool
}

func (p *textPacker) take(s Sequence) error {
	p.ids, p.labels = append(p.ids, s.IDs...), append(p.labels, s.Labels...)
	p.ends = append(p.ends, len(p.ids))
	from := 0
	for ; len(p.ids)-from >= p.cutoff; from += p.cutoff {
		if err := p.block(from, p.cutoff); err != nil {
			return err
		}
	}
	if from > 0 {
		p.ids, p.labels = append(p.ids[:0], p.ids[from:]...), append(p.labels[:0], p.labels[from:]...)
		p.ends = slices.DeleteFunc(p.ends, func(end int) bool { return end <= from })
		for i := range p.ends {
			p.ends[i] -= from
		}
	}
	return nil
}

// block gives n tokens.
func (p *textPacker) block(from, n int) error {
	s := Sequence{IDs: slices.Clone(p.ids[from : from+n]), Labels: slices.Clone(p.labels[from : from+n])}
	if p.neat {
		s.Docs = []int32{0}
		for _, end := range p.ends {
			if end > from && end < from+n {
				s.Docs = append(s.Docs, int32(end-from))
			}
		}
		s.Docs = append(s.Docs, int32(n))
	}
	p.packed = true
	return p.add(s)
}

func (p *textPacker) finish() error {
	if p.packed || len(p.ids) == 0 {
		return nil
	}
	return p.block(0, len(p.ids))
}

func (p *textPacker) close() error { return nil }

// chatPacker packs samples, which wait in a scratch file: which go together is known when all are there.
type chatPacker struct {
	cutoff  int
	neat    bool
	add     func(Sequence) error
	wait    *ShardFile
	lengths []int
}

func (p *chatPacker) take(s Sequence) error {
	p.lengths = append(p.lengths, len(s.IDs))
	return p.wait.Add(s)
}

func (p *chatPacker) finish() error {
	size, _, err := p.wait.Finish()
	if err != nil {
		return err
	}
	samples, err := OpenShard(p.wait.Reader(), size, "scratch file")
	if err != nil {
		return err
	}
	for _, sack := range process.Knapsack(p.lengths, p.cutoff) {
		var all Sequence
		bounds := []int32{0}
		for _, i := range sack {
			s, err := samples.Sequence(i)
			if err != nil {
				return err
			}
			all.IDs, all.Labels = append(all.IDs, s.IDs...), append(all.Labels, s.Labels...)
			bounds = append(bounds, int32(len(all.IDs)))
		}
		if p.neat {
			all.Docs = bounds
		}
		if err := p.add(all); err != nil {
			return err
		}
	}
	return nil
}

func (p *chatPacker) close() error { return p.wait.Close() }

// OutputTemplate is the template of an output; "" means default for chat samples and plain text for pretraining.
func OutputTemplate(o *schemas.PrepOutput) (Template, error) {
	name := o.Template
	if name == "" {
		name = map[bool]string{true: "default", false: "empty"}[o.Form == "sft"]
	}
	return TemplateByName(name)
}

// Encoding is how rows become sequences.
type Encoding struct {
	Tokenizer Tokenizer
	Output    *schemas.PrepOutput
	// Dir is for scratch files.
	Dir string
	// Progress, when not nil, hears how many rows are done and may stop the work with an error.
	Progress func(done int) error
}

// Encode makes the sequences of an output from the rows that each gives, encoded, cut and packed as the output says, and gives them to add in
// their order. It holds one row, or one packed block, in memory; of chat samples that are packed also their lengths. CodeInvalid for an unknown
// template, CodeData for a chat sample without an answer.
func Encode(e Encoding, each func(func(*Row) error) error, add func(Sequence) error) (err error) {
	o := e.Output
	t, err := OutputTemplate(o)
	if err != nil {
		return err
	}
	take := add
	var p packer
	if o.Packing {
		if o.Form == "pt" {
			p = &textPacker{cutoff: o.CutoffLen, neat: o.Neat, add: add}
		} else {
			wait, err := NewShardFile(e.Dir, 1, false)
			if err != nil {
				return err
			}
			p = &chatPacker{cutoff: o.CutoffLen, neat: o.Neat, add: add, wait: wait}
		}
		defer func() { err = errors.Join(err, p.close()) }()
		take = p.take
	}
	n := 0
	err = each(func(r *Row) error {
		if e.Progress != nil {
			if err := e.Progress(n); err != nil {
				return err
			}
		}
		n++
		var s Sequence
		if o.Form == "sft" {
			if r.Answer() == "" {
				return schemas.Errorf(schemas.CodeData, "", "row %d kept by cleaning has no response, label or explanation to train on", n).
					WithHint("columns maps response, or label, to a column")
			}
			s = EncodeChat(e.Tokenizer, t, r, o.CutoffLen)
		} else if s = EncodeText(e.Tokenizer, t, r); !o.Packing && len(s.IDs) > o.CutoffLen {
			s = Sequence{IDs: s.IDs[:o.CutoffLen], Labels: s.Labels[:o.CutoffLen]}
		}
		if len(s.IDs) == 0 {
			return nil
		}
		return take(s)
	})
	if err != nil || p == nil {
		return err
	}
	return p.finish()
}
