package train

import (
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// padMultiple is what LLaMA-Factory's collators round the length of a batch up to in training; pretraining is not rounded.
const padMultiple = 8

// flosPerToken counts six operations for each parameter that belongs to no embedding (PreTrainedModel.floating_point_ops).
func flosPerToken(units []*autograd.Unit, head bool) float64 {
	if head {
		return 0
	}
	var n int64
	for _, u := range units {
		for _, p := range u.Params {
			if p.Role != autograd.RoleEmbedding {
				n += p.Len()
			}
		}
	}
	return 6 * float64(n)
}

// paddedTokens is how many positions upstream's batches of a step have, padding included: what it counts as tokens seen. The engine itself
// computes no padding. 0 when samples are not dealt as upstream does, or their lengths are not known.
func (s *session) paddedTokens(step int64) int64 {
	lengths, ok := s.data.(interface{ Length(i int) int })
	if s.stage.Order == nil || !ok {
		return 0
	}
	whole := 0
	if _, name, prep, err := data.FindOutput(s.t.Spec, s.stage.Data); err == nil {
		if o := data.Output(prep, name); o != nil && o.Packing && o.Form == "sft" {
			whole = o.CutoffLen + 1
		}
	}
	group, rows := groupOf(s.data), groupOf(s.data)
	if s.stage.Objective == "kto" {
		rows = 1 // the rows for the divergence are a batch of their own, which is not counted
	}
	var total int64
	for leaf := range s.plan.Leaves(step) {
		samples := s.plan.Leaf(step, leaf)
		longest := whole
		for _, i := range samples {
			for g := range rows {
				longest = max(longest, lengths.Length(int(i)*group+g))
			}
		}
		if s.stage.Objective != "pt" {
			longest = (longest + padMultiple - 1) / padMultiple * padMultiple
		}
		total += int64(longest) * int64(rows*len(samples))
	}
	return total
}

// padLength is the length of the longest of a leaf's sequences, rounded up.
func padLength(p *schemas.Padding, longest int) int {
	m := max(1, p.Multiple)
	return (longest + m - 1) / m * m
}

// padLeaf fills the sequences of a leaf to one length; the mask has 0 for what was added, nil when nothing was. Documents that do not see each
// other are not padded: LLaMA-Factory's mask lets such padding see every token, later ones too.
func padLeaf(seqs []Sequence, p *schemas.Padding) (out []Sequence, mask []uint8, err error) {
	longest := p.Whole
	for _, s := range seqs {
		if len(s.Docs) > 2 && !s.Open {
			return nil, nil, schemas.Errorf(schemas.CodeUnsupported, "pad", "packed sequences that do not see each other are not padded")
		}
		longest = max(longest, len(s.IDs))
	}
	n := padLength(p, longest)
	out = make([]Sequence, len(seqs))
	added := false
	label := int32(nn.IgnoreLabel)
	if p.Labels {
		label = p.ID
	}
	for i, s := range seqs {
		s = fillWhole(s, p)
		k := n - len(s.IDs)
		out[i] = Sequence{IDs: append(slices.Clone(s.IDs), slices.Repeat([]int32{p.ID}, k)...), Labels: append(slices.Clone(s.Labels), slices.Repeat([]int32{label}, k)...), Tag: s.Tag,
			Docs: alone(s.Docs, k), Open: s.Open}
		mask = append(append(mask, slices.Repeat([]uint8{1}, len(s.IDs))...), make([]uint8, k)...)
		added = added || k > 0
	}
	if !added {
		mask = nil
	}
	return out, mask, nil
}

// fillWhole fills a sequence to p.Whole with tokens that are seen and not trained on, each at position 0.
func fillWhole(s Sequence, p *schemas.Padding) Sequence {
	k := p.Whole - len(s.IDs)
	if k <= 0 {
		return s
	}
	if len(s.Docs) == 0 {
		s.Docs = []int32{0, int32(len(s.IDs))}
	}
	return Sequence{IDs: append(slices.Clone(s.IDs), slices.Repeat([]int32{p.ID}, k)...), Labels: append(slices.Clone(s.Labels), slices.Repeat([]int32{nn.IgnoreLabel}, k)...),
		Docs: alone(s.Docs, k), Open: true, Tag: s.Tag}
}

// alone adds k documents of one token, so that each is at position 0; sequences without documents stay so.
func alone(docs []int32, k int) []int32 {
	if len(docs) == 0 {
		return nil
	}
	docs = slices.Clone(docs)
	for range k {
		docs = append(docs, docs[len(docs)-1]+1)
	}
	return docs
}

// padLabels is how many labels padding adds to a leaf of these samples.
func padLabels(d Dataset, p *schemas.Padding, samples []int32) (int64, error) {
	if p == nil || !p.Labels || len(samples) == 0 {
		return 0, nil
	}
	lengths, ok := d.(interface{ Length(i int) int })
	if !ok {
		return 0, schemas.Errorf(schemas.CodeUnsupported, "pad", "these data do not tell the lengths of their sequences")
	}
	longest, sum := 0, 0
	for _, i := range samples {
		n := max(p.Whole, lengths.Length(int(i)))
		longest, sum = max(longest, n), sum+n
	}
	return int64(padLength(p, longest)*len(samples) - sum), nil
}
