package train

import (
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// Experts that are drawn at random, as Phi MoE's are in training, are the same for any number of ranks, with blocks computed again, and after a
// resumption; evaluating draws none.
func TestDrawnExpertsAreTheSameOnAnyWorld(t *testing.T) {
	const config = `{"architectures":["PhimoeForCausalLM"],"vocab_size":97,"hidden_size":32,"intermediate_size":24,"num_hidden_layers":3,"num_attention_heads":4,
"num_key_value_heads":2,"max_position_embeddings":64,"num_local_experts":5,"num_experts_per_tok":2,"router_jitter_noise":JITTER,"initializer_range":0.2}`
	stage := func(jitter, recompute string) schemas.Stage {
		s := toyStage("train", "full")
		s.Train.Epochs, s.Train.Steps, s.Train.CommitEvery, s.Train.Recompute = 0, 4, 1, recompute
		s.Train.Model.Config = []byte(strings.Replace(config, "JITTER", jitter, 1))
		return s
	}
	want := newFleet(t, stage("0.3", "off")).complete("train", 1).StateHash
	for world, recompute := range map[int]string{2: "off", 3: "on", 4: "off"} {
		if got := newFleet(t, stage("0.3", recompute)).complete("train", world).StateHash; got != want {
			t.Errorf("%d ranks, recompute %s: weights differ", world, recompute)
		}
	}
	f := newFleet(t, stage("0.3", "off"))
	f.generation("train", plan{world: 2, killAt: 2, kill: 1})
	if got := f.complete("train", 3).StateHash; got != want {
		t.Error("killed after step 2: weights differ")
	}
	if newFleet(t, stage("0", "off")).complete("train", 1).StateHash == want {
		t.Error("no expert was drawn")
	}
}
