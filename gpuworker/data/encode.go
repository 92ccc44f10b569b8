package data

import (
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

// Pack joins sequences to longer ones of at most cutoff tokens. Text ("pt") runs on: everything is laid end to end and cut into blocks of
// exactly cutoff tokens, the rest is dropped; less than one block becomes one short sequence. Chat samples ("sft") stay whole: greedy
// knapsack, the longest that still fits goes in next, as LLaMA-Factory packs; samples over cutoff are left out. With neat the documents of
// a sequence are kept apart by Docs, else they see each other.
func Pack(seqs []Sequence, form string, cutoff int, neat bool) []Sequence {
	if form == "pt" {
		return packText(seqs, cutoff, neat)
	}
	seqs = slices.DeleteFunc(slices.Clone(seqs), func(s Sequence) bool { return len(s.IDs) == 0 })
	lengths := make([]int, len(seqs))
	for i, s := range seqs {
		lengths[i] = len(s.IDs)
	}
	var out []Sequence
	for _, sack := range process.Knapsack(lengths, cutoff) {
		var p Sequence
		bounds := []int32{0}
		for _, i := range sack {
			p.IDs, p.Labels = append(p.IDs, seqs[i].IDs...), append(p.Labels, seqs[i].Labels...)
			bounds = append(bounds, int32(len(p.IDs)))
		}
		if neat {
			p.Docs = bounds
		}
		out = append(out, p)
	}
	return out
}

func packText(seqs []Sequence, cutoff int, neat bool) []Sequence {
	var ids, labels []int32
	var ends []int
	for _, s := range seqs {
		ids, labels = append(ids, s.IDs...), append(labels, s.Labels...)
		ends = append(ends, len(ids))
	}
	if len(ids) == 0 {
		return nil
	}
	block := min(cutoff, len(ids))
	var out []Sequence
	next := 0
	for from := 0; from+block <= len(ids); from += block {
		to := from + block
		s := Sequence{IDs: slices.Clone(ids[from:to]), Labels: slices.Clone(labels[from:to])}
		bounds := []int32{0}
		for next < len(ends) && ends[next] <= from {
			next++
		}
		for k := next; k < len(ends) && ends[k] < to; k++ {
			bounds = append(bounds, int32(ends[k]-from))
		}
		if neat {
			s.Docs = append(bounds, int32(block))
		}
		out = append(out, s)
	}
	return out
}

// OutputTemplate is the template of an output; "" means default for chat samples and plain text for pretraining.
func OutputTemplate(o *schemas.PrepOutput) (Template, error) {
	name := o.Template
	if name == "" {
		name = map[bool]string{true: "default", false: "empty"}[o.Form == "sft"]
	}
	return TemplateByName(name)
}

// Encode makes the sequences of an output from rows: encoded, cut and packed as the output says. progress, when not nil, hears how many rows
// are done and may stop the work with an error. CodeInvalid for an unknown template, CodeData for a chat sample without an answer.
func Encode(tok Tokenizer, o *schemas.PrepOutput, rows []Row, progress func(done int) error) ([]Sequence, error) {
	t, err := OutputTemplate(o)
	if err != nil {
		return nil, err
	}
	seqs := make([]Sequence, 0, len(rows))
	for i := range rows {
		if progress != nil {
			if err := progress(i); err != nil {
				return nil, err
			}
		}
		var s Sequence
		if o.Form == "sft" {
			if rows[i].Answer() == "" {
				return nil, schemas.Errorf(schemas.CodeData, "", "row %d kept by cleaning has no response, label or explanation to train on", i+1).
					WithHint("columns maps response, or label, to a column")
			}
			s = EncodeChat(tok, t, &rows[i], o.CutoffLen)
		} else if s = EncodeText(tok, t, &rows[i]); !o.Packing && len(s.IDs) > o.CutoffLen {
			s = Sequence{IDs: s.IDs[:o.CutoffLen], Labels: s.Labels[:o.CutoffLen]}
		}
		if len(s.IDs) > 0 {
			seqs = append(seqs, s)
		}
	}
	if o.Packing {
		seqs = Pack(seqs, o.Form, o.CutoffLen, o.Neat)
	}
	return seqs, nil
}
