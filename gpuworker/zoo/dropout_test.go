package zoo

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// Dropout is trained with (verify's TestDropoutTrains), by the keys that transformers reads; leaving out whole layers and shaking routers'
// inputs are refused, by name.
func TestRandomChoicesThatAreRefusedInTrainingOnly(t *testing.T) {
	const mpt = `{"model_type":"mpt","d_model":8,"n_heads":2,"n_layers":1,"vocab_size":5,"resid_pdrop":0.5,"emb_pdrop":0.5`
	const moe = `{"model_type":"mixtral","hidden_size":8,"intermediate_size":8,"num_attention_heads":2,"num_key_value_heads":2,"num_hidden_layers":1,"num_local_experts":2,"vocab_size":5`
	const opt = `{"model_type":"opt","hidden_size":8,"word_embed_proj_dim":8,"num_attention_heads":2,"num_hidden_layers":1,"ffn_dim":8,"vocab_size":5`
	for name, c := range map[string]struct {
		config string
		drops  int
		refuse string
	}{
		"GPT-2's defaults": {`{"architectures":["GPT2LMHeadModel"],"n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5}`, 3, ""},
		"one of three":     {`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":0,"embd_pdrop":0.0}`, 1, ""},
		"none":             {`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":0,"embd_pdrop":0,"resid_pdrop":0}`, 0, ""},
		"OPT":              {opt + `}`, 1, ""},
		"OPT, layerdrop":   {opt + `,"layerdrop":0.1}`, 2, "config.json:layerdrop"},
		"Mixtral, jitter":  {moe + `,"router_jitter_noise":0.1}`, 1, "config.json:router_jitter_noise"},
		"MPT, unread keys": {mpt + `}`, 0, ""},
		"MPT":              {mpt + `,"attn_config":{"attn_pdrop":0.1}}`, 1, ""},
	} {
		m, err := New([]byte(c.config))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := m.Info().Dropout; len(got) != c.drops {
			t.Errorf("%s: drops %v, want %d probabilities", name, got, c.drops)
		}
		if keys := m.Info().DropoutKeys; len(keys) == 0 || slices.Contains(keys, LayerDrop) || slices.Contains(keys, RouterJitter) {
			t.Errorf("%s: drops by %q", name, keys)
		}
		switch err := m.Info().Trainable(); {
		case c.refuse == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refuse != "" && (!schemas.IsCode(err, schemas.CodeUnsupported) || !strings.Contains(err.Error(), c.refuse)):
			t.Errorf("%s: training is not refused by %s: %v", name, c.refuse, err)
		}
	}
	if _, err := New([]byte(`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":1.5}`)); !schemas.IsCode(err, schemas.CodeModel) {
		t.Errorf("a probability of 1.5 gives %v", err)
	}
}
