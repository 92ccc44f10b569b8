package zoo_test

import (
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// TestALiBiModels: models whose heads are no power of two, or many, keep packed documents apart, decode with a cache as they compute at
// once, and give the same bits when blocks are recomputed; a hole in the attention mask is, except for MPT, as if its tokens were not there.
func TestALiBiModels(t *testing.T) {
	for name, keys := range map[string]map[string]any{
		"BloomForCausalLM":  {"num_attention_heads": 12, "hidden_size": 48},
		"FalconForCausalLM": {"alibi": true, "num_attention_heads": 16, "hidden_size": 64, "ffn_hidden_size": 20},
		"MptForCausalLM":    {"num_attention_heads": 12, "hidden_size": 48},
	} {
		t.Run(name, func(t *testing.T) {
			model := func() zoo.Model {
				raw, err := zoo.Override(small(t, name).Info().Config, keys)
				if err != nil {
					t.Fatal(err)
				}
				m, err := zoo.New(raw)
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			b := leaf(4, 2, 13)
			b.Mask = slices.Repeat([]uint8{1}, 26)
			for _, i := range []int{4, 5, 9, 13, 17} {
				b.Mask[i] = 0
			}
			r := newModelRig(t, model(), autograd.Config{}, nil)
			_, want := r.step(t, b)
			_, got := newModelRig(t, model(), autograd.Config{Checkpoint: true}, nil).step(t, b)
			sameGrads(t, "recomputed", got, want)
			packed(t, r)
			cached(t, r)
			if name == "MptForCausalLM" {
				return
			}
			z := r.logits(t, b)
			for row := range 2 {
				whole := &nn.Batch{Rows: 1}
				var there []float32
				for i := row * 13; i < (row+1)*13; i++ {
					if b.Mask[i] != 0 {
						whole.IDs = append(whole.IDs, b.IDs[i])
						there = append(there, z[i*50:(i+1)*50]...)
					}
				}
				whole.Seq = len(whole.IDs)
				near(t, "tokens without the holes", there, r.logits(t, whole), 1e-5)
			}
		})
	}
}
