package zoo

import (
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// A model that drops activations in training can be read, scored and exported; only training refuses it, naming every key.
func TestDropoutIsRefusedInTrainingOnly(t *testing.T) {
	for name, c := range map[string]struct{ config, keys string }{
		"GPT-2's defaults": {`{"architectures":["GPT2LMHeadModel"],"n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5}`, "attn_pdrop embd_pdrop resid_pdrop"},
		"one of three":     {`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":0,"embd_pdrop":0.0}`, "resid_pdrop"},
		"none":             {`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":0,"embd_pdrop":0,"resid_pdrop":0}`, ""},
		"OPT":              {`{"model_type":"opt","hidden_size":8,"word_embed_proj_dim":8,"num_attention_heads":2,"num_hidden_layers":1,"ffn_dim":8,"vocab_size":5}`, "dropout"},
	} {
		m, err := New([]byte(c.config))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = m.Info().Trainable()
		if c.keys == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !schemas.IsCode(err, schemas.CodeUnsupported) {
			t.Errorf("%s: training is not refused as unsupported: %v", name, err)
			continue
		}
		for key := range strings.FieldsSeq(c.keys) {
			if !strings.Contains(err.Error(), "config.json:"+key) {
				t.Errorf("%s: %q does not name %s", name, err, key)
			}
		}
	}
	if _, err := New([]byte(`{"model_type":"gpt2","n_embd":8,"n_head":2,"n_layer":1,"vocab_size":5,"attn_pdrop":1.5}`)); !schemas.IsCode(err, schemas.CodeModel) {
		t.Errorf("a probability of 1.5 gives %v", err)
	}
}
