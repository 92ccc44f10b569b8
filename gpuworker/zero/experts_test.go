package zero_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
)

// mixture is a model with so many experts that a step reaches only some of them.
func mixture(hidden, layers, experts int) []byte {
	return fmt.Appendf(nil, `{"architectures":["MixtralForCausalLM"],"model_type":"mixtral","vocab_size":%d,"hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,
"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":%d,"num_experts_per_tok":1,"max_position_embeddings":64,"tie_word_embeddings":false}`,
		vocab, hidden, hidden+7, layers, experts)
}

// An expert that no leaf of a step reaches is left out of its update: values and state stay, whatever ranks computed the leaves. What was left
// out is counted, so that a training that goes on from a checkpoint, on any number of ranks, ends as one that was never stopped.
func TestExpertsWithoutTokensAreLeftOut(t *testing.T) {
	for _, name := range []string{optim.AdamW, optim.SGD, optim.Adafactor, optim.GaLore, optim.AdamW8bit, optim.Muon} {
		for _, lora := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, LoRA %v", name, lora), func(t *testing.T) {
				t.Parallel()
				s := setup{hidden: 24, layers: 2, experts: 12, lora: lora, leaves: 2, steps: 4, sharding: zero.None, optim: name, bucket: 20000, checkpoint: lora}
				want := runWorld(t, 1, s)[0]
				skips := want.state[zero.SkipsName+"@0"]
				if len(skips) != s.layers*s.experts || slices.Max(skips) < 2 || slices.Min(skips) != 0 {
					t.Fatalf("experts were left out %v times", skips)
				}
				for _, world := range []int{2, 3} {
					for _, sharding := range []string{zero.None, zero.Zero3} {
						c := s
						c.sharding = sharding
						got := runWorld(t, world, c)[0]
						if got.hash != want.hash || !slices.Equal(got.state[zero.SkipsName+"@0"], skips) {
							t.Errorf("world %d, %s: weights differ", world, sharding)
						}
					}
				}
				for stop := 1; stop < s.steps; stop++ {
					c := s
					c.steps = stop
					part := runWorld(t, 1, c)[0].state
					c = s
					c.first, c.restore = stop, part
					if got := runWorld(t, 1, c)[0]; got.hash != want.hash {
						t.Errorf("stopped after step %d: weights differ", stop)
					}
					c.sharding = zero.Zero3
					if got := runWorld(t, 2, c)[0]; got.hash != want.hash {
						t.Errorf("stopped after step %d, gone on with 2 ranks: weights differ", stop)
					}
				}
			})
		}
	}
}

// What was never reached is what it was, and what was reached is not.
func TestAnExpertNeverReachedKeepsItsValues(t *testing.T) {
	s := setup{hidden: 24, layers: 1, experts: 12, leaves: 1, steps: 2, sharding: zero.None, optim: optim.AdamW}
	at := func(steps int) map[string][]float32 {
		c := s
		c.steps = steps
		return runWorld(t, 1, c)[0].state
	}
	start, end := at(0), at(2)
	skips := end[zero.SkipsName+"@0"]
	same, moved := 0, 0
	for _, key := range slices.Sorted(maps.Keys(start)) {
		var expert int
		_, rest, ok := strings.Cut(key, ".experts.")
		if !ok || !strings.HasPrefix(key, zero.ParamPrefix) {
			continue
		}
		if _, err := fmt.Sscanf(rest, "%d.", &expert); err != nil {
			t.Fatal(err)
		}
		switch equal := slices.Equal(start[key], end[key]); {
		case skips[expert] == 2 && !equal:
			t.Errorf("%s was never reached and is not what it was", key)
		case skips[expert] < 2 && equal:
			t.Errorf("%s was reached and is what it was", key)
		case equal:
			same++
		default:
			moved++
		}
	}
	if same == 0 || moved == 0 {
		t.Fatalf("%d tensors stayed, %d moved: nothing is told apart", same, moved)
	}
}
