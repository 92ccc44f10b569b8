package prep

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// FuzzTokenizedRow: whatever a saved row holds, it is refused or makes sequences that can be trained on.
func FuzzTokenizedRow(f *testing.F) {
	for _, s := range []string{
		`{"input_ids":[1,2,3],"attention_mask":[1,1,1],"labels":[-100,2,3]}`,
		`{"input_ids":[1,2,3],"labels":[-100,-100,2,3]}`,
		`{"input_ids":[5,6,7,0],"labels":[-100,6,7,-100],"position_ids":[0,1,0,0],"packing_params":{"sequence_boundaries":[0,2,3,4],"right_padding_length":1}}`,
		`{"input_ids":[5,6,7,0,0],"labels":[-100,6,7,-100,-100],"position_ids":[0,1,0,0,0]}`,
		`{"input_ids":[1],"labels":[1],"position_ids":[7],"packing_params":{"right_padding_length":-9223372036854775808}}`,
		`{"chosen_input_ids":[1,2],"chosen_labels":[-100,2],"rejected_input_ids":[1,3],"rejected_labels":[-100,3]}`,
		`{"input_ids":[1,2],"labels":[-100,2],"kl_input_ids":[1,4],"kl_labels":[-100,4],"kto_tags":true}`,
		`{"input_ids":[9,999],"labels":[9,-7]}`, `{"input_ids":null,"labels":{}}`, `[]`, `{`,
	} {
		for form := range byte(8) {
			f.Add([]byte(s), form)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, form byte) {
		const vocab = 100
		o := &schemas.PrepOutput{Form: []string{"sft", "pt", "pairwise", "kto", "predict", "sft", "sft", "sft"}[form%8], Packing: form%8 > 5, Neat: form%8 > 6}
		e := &factoryEncoder{p: &part{prep: &schemas.PrepStage{Factory: &schemas.FactorySpec{Stage: "sft"}}}, o: o, vocab: vocab, pad: chat.NoID}
		if form%8 == 5 {
			e.pad = 0
		}
		seqs, err := e.saved(source.Row{Place: "rows:1", Raw: json.RawMessage(raw)})
		if err != nil {
			if !schemas.IsCode(err, schemas.CodeData) {
				t.Fatalf("%v has another code than data", err)
			}
			return
		}
		for _, s := range seqs {
			if len(s.IDs) == 0 || len(s.IDs) != len(s.Labels) {
				t.Fatalf("%d ids, %d labels", len(s.IDs), len(s.Labels))
			}
			for i, id := range s.IDs {
				if l := s.Labels[i]; id < 0 || id >= vocab || l != data.IgnoreLabel && (l < 0 || l >= vocab) {
					t.Fatalf("the id %d and the label %d of a vocabulary of %d", id, l, vocab)
				}
			}
			if s.Docs != nil && (len(s.Docs) < 2 || s.Docs[0] != 0 || int(s.Docs[len(s.Docs)-1]) != len(s.IDs) || !slices.IsSorted(s.Docs) || len(slices.Compact(slices.Clone(s.Docs))) != len(s.Docs)) {
				t.Fatalf("documents %v of %d tokens", s.Docs, len(s.IDs))
			}
		}
	})
}
