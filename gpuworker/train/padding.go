package train

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data"
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
