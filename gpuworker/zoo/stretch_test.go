package zoo

import (
	"encoding/json"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestStretch follows LLaMA-Factory's rule: ceil(length / old), from the length of pretraining where the file names one.
func TestStretch(t *testing.T) {
	t.Parallel()
	type result struct {
		Max     int `json:"max_position_embeddings"`
		Scaling struct {
			Type     string  `json:"rope_type"`
			Factor   float64 `json:"factor"`
			Original float64 `json:"original_max_position_embeddings"`
			Low      float64 `json:"low_freq_factor"`
			High     float64 `json:"high_freq_factor"`
		} `json:"rope_scaling"`
	}
	for _, c := range []struct {
		kind, more           string
		length               int
		factor, original     float64
		low, high, positions int
	}{
		{"linear", "", 100, 4, 0, 0, 0, 128},
		{"dynamic", "", 33, 2, 32, 0, 0, 64},
		{"yarn", "", 64, 2, 32, 0, 0, 64},
		{"llama3", "", 65, 3, 32, 1, 4, 96},
		{"yarn", `,"rope_scaling":{"rope_type":"yarn","factor":2,"original_max_position_embeddings":16}`, 40, 3, 16, 0, 0, 48},
		{"linear", "", 32, 0, 0, 0, 0, 32},
	} {
		out, err := Stretch([]byte("{"+tiny+c.more+"}"), c.kind, c.length)
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatal(err)
		}
		s := r.Scaling
		if c.factor > 0 && s.Type != c.kind || s.Factor != c.factor || s.Original != c.original || int(s.Low) != c.low || int(s.High) != c.high || r.Max != c.positions {
			t.Errorf("%s to %d: %s", c.kind, c.length, out)
		}
		if _, err := New(out); err != nil {
			t.Error(err)
		}
	}
	if _, err := Stretch([]byte("{"+tiny+"}"), "ntk", 64); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Error(err)
	}
	gpt2 := `{"model_type":"gpt2","attn_pdrop":0,"embd_pdrop":0,"resid_pdrop":0,"n_positions":16}`
	if _, err := Stretch([]byte(gpt2), "yarn", 64); !schemas.IsCode(err, schemas.CodeUnsupported) {
		t.Error(err)
	}
}

// TestBalanceExperts turns the load-balancing loss on where there is one.
func TestBalanceExperts(t *testing.T) {
	t.Parallel()
	out, err := BalanceExperts([]byte(`{"model_type":"mixtral","hidden_size":8,"num_attention_heads":2,"num_key_value_heads":1,"num_hidden_layers":1,"vocab_size":11}`), 0.25)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(out)
	if err != nil {
		t.Fatal(err)
	}
	if i := m.Info(); !i.RouterAux || i.RouterAuxCoef != 0.25 {
		t.Errorf("coefficient %g, on %v", i.RouterAuxCoef, i.RouterAux)
	}
	if _, err := BalanceExperts([]byte("{"+tiny+"}"), 0.25); !schemas.IsCode(err, schemas.CodeUnsupported) {
		t.Error(err)
	}
}
