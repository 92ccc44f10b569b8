package prep

import (
	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// tokenizedRow is a row of what LLaMA-Factory tokenized and saved.
type tokenizedRow struct {
	IDs       []int32 `json:"input_ids"`
	Labels    []int32 `json:"labels"`
	Positions []int32 `json:"position_ids"`
	Packing   *struct {
		Bounds  []int32 `json:"sequence_boundaries"`
		Padding int     `json:"right_padding_length"`
	} `json:"packing_params"`
	ChosenIDs      []int32 `json:"chosen_input_ids"`
	ChosenLabels   []int32 `json:"chosen_labels"`
	RejectedIDs    []int32 `json:"rejected_input_ids"`
	RejectedLabels []int32 `json:"rejected_labels"`
	KLIDs          []int32 `json:"kl_input_ids"`
	KLLabels       []int32 `json:"kl_labels"`
	Desired        bool    `json:"kto_tags"`
}

// tokenized takes the sequences of rows that are tokenized already.
func (e *factoryEncoder) tokenized(picks []source.Pick, m *made) {
	for _, k := range picks {
		row, err := e.row(k)
		if err == nil {
			var seqs []data.Sequence
			if seqs, err = e.saved(row); err == nil {
				m.seqs = append(m.seqs, seqs...)
				continue
			}
		}
		m.err = err
		return
	}
}

// saved makes a saved row's sequences, in the form of the output.
func (e *factoryEncoder) saved(row source.Row) ([]data.Sequence, error) {
	var r tokenizedRow
	if err := json.Unmarshal(row.Raw, &r); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, row.Place, "is no tokenized row: %v", err)
	}
	var out []data.Sequence
	switch e.o.Form {
	case "pairwise":
		out = []data.Sequence{{IDs: r.ChosenIDs, Labels: r.ChosenLabels}, {IDs: r.RejectedIDs, Labels: r.RejectedLabels}}
	case "kto":
		out = []data.Sequence{{IDs: r.IDs, Labels: r.Labels}, {IDs: r.KLIDs, Labels: r.KLLabels}}
		if r.Desired {
			out[0].Tag = 1
		}
	case "pt":
		out = []data.Sequence{{IDs: r.IDs, Labels: r.IDs}} // the collator makes labels of the ids
	case "predict":
		s := data.Sequence{IDs: append(append([]int32(nil), r.IDs...), r.Labels...)}
		for range r.IDs {
			s.Labels = append(s.Labels, data.IgnoreLabel)
		}
		s.Labels = append(s.Labels, r.Labels...)
		out = []data.Sequence{s}
	default:
		if len(r.IDs) == len(r.Labels) && r.Packing != nil {
			n := len(r.IDs) - r.Packing.Padding
			if n < 1 || n > len(r.IDs) {
				return nil, schemas.Errorf(schemas.CodeData, row.Place, "%d of %d tokens are padding", r.Packing.Padding, len(r.IDs))
			}
			r.IDs, r.Labels = r.IDs[:n], r.Labels[:n]
			out = []data.Sequence{{IDs: r.IDs, Labels: r.Labels, Docs: documents(r.Positions, n), Open: !e.o.Neat}}
			break
		}
		if n := len(r.IDs); n > 0 && len(r.Positions) == n && len(r.Labels) == n { // packed, documents see those before them
			for n > 1 && r.Positions[n-1] == 0 && r.Labels[n-1] == data.IgnoreLabel {
				n-- // padding
			}
			out = []data.Sequence{{IDs: r.IDs[:n], Labels: r.Labels[:n], Docs: documents(r.Positions, n), Open: true}}
			break
		}
		out = []data.Sequence{{IDs: e.padded(r.IDs, r.Labels), Labels: r.Labels}}
	}
	for _, s := range out {
		if len(s.IDs) == 0 || len(s.IDs) != len(s.Labels) {
			return nil, schemas.Errorf(schemas.CodeData, row.Place, "has %d ids and %d labels: it was tokenized for another stage than %s", len(s.IDs), len(s.Labels), e.p.prep.Factory.Stage).
				WithHint("give the stage and packing keys that it was made with")
		}
		for _, id := range s.IDs {
			if id < 0 || int(id) >= e.vocab {
				return nil, schemas.Errorf(schemas.CodeData, row.Place, "has the id %d, the tokenizer a vocabulary of %d: it was made with another tokenizer", id, e.vocab)
			}
		}
		for _, id := range s.Labels {
			if id != data.IgnoreLabel && (id < 0 || int(id) >= e.vocab) {
				return nil, schemas.Errorf(schemas.CodeData, row.Place, "has the label %d, the tokenizer a vocabulary of %d: it was made with another tokenizer", id, e.vocab)
			}
		}
	}
	return out, nil
}

// documents are the bounds of the stretches of positions that count from 0.
func documents(positions []int32, n int) []int32 {
	var out []int32
	for i := range min(n, len(positions)) {
		if positions[i] == 0 {
			out = append(out, int32(i))
		}
	}
	if len(out) == 0 || out[0] != 0 {
		return nil
	}
	return append(out, int32(n))
}
