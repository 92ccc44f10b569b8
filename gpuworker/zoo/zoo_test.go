package zoo

import (
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

const tiny = `"architectures":["LlamaForCausalLM"],"hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,
"num_key_value_heads":1,"vocab_size":11,"max_position_embeddings":32`

func TestParameterNamesAndUnits(t *testing.T) {
	t.Parallel()
	for _, tied := range []bool{false, true} {
		cfg := "{" + tiny + `,"attention_bias":true,"tie_word_embeddings":` + map[bool]string{true: "true", false: "false"}[tied] + "}"
		m, err := New([]byte(cfg))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, p := range nn.Params(m.Root()) {
			seen[p.Name]++
		}
		units := 0
		for _, u := range m.Units() {
			for _, p := range u.Params {
				units++
				if seen[p.Name] != 1 {
					t.Errorf("%s of unit %s is not a parameter of the model", p.Name, u.Name)
				}
			}
		}
		if units != len(seen) {
			t.Errorf("%d parameters in units, %d in the model", units, len(seen))
		}
		for _, want := range []string{"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.bias", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"} {
			if seen[want] != 1 {
				t.Errorf("no parameter %s", want)
			}
		}
		if got := seen["lm_head.weight"] == 1; got == tied {
			t.Errorf("tied %v, head in the model: %v", tied, got)
		}
	}
}

func TestStrictBinding(t *testing.T) {
	t.Parallel()
	m, err := New([]byte("{" + tiny + "}"))
	if err != nil {
		t.Fatal(err)
	}
	params := nn.Params(m.Root())
	var es []safetensors.Entry
	for _, p := range params {
		switch p.Name {
		case "model.norm.weight":
			continue
		case "lm_head.weight":
			es = append(es, safetensors.Entry{Name: p.Name, Shape: []int64{p.Len()}, Float32: make([]float32, p.Len())})
		default:
			es = append(es, safetensors.Entry{Name: p.Name, Shape: p.Shape, Float32: make([]float32, p.Len())})
		}
	}
	es = append(es, safetensors.Entry{Name: "model.layers.0.extra", Shape: []int64{1}, Float32: []float32{1}},
		safetensors.Entry{Name: "model.layers.0.self_attn.rotary_emb.inv_freq", Shape: []int64{1}, Float32: []float32{1}})
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := safetensors.WriteFile(root, "model.safetensors", es, nil); err != nil {
		t.Fatal(err)
	}
	set, err := safetensors.OpenModel(root)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	err = CheckWeights(m.Info(), params, set)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"model.norm.weight: tensor is missing", "lm_head.weight: tensor has shape", "model.layers.0.extra: tensor is not part"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "inv_freq") {
		t.Errorf("an ignorable tensor is reported: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg, want string
		code      schemas.Code
	}{
		{`{`, "cannot parse", schemas.CodeModel},
		{`{}`, "architectures", schemas.CodeModel},
		{`{"architectures":["LlamaForCausalML"]}`, "LlamaForCausalLM", schemas.CodeUnsupported},
		{`{"architectures":["LlamaForCausalLM"],"hidden_act":"mish"}`, "hidden_act", schemas.CodeUnsupported},
		{`{"architectures":["LlamaForCausalLM"],"num_attention_heads":6,"num_key_value_heads":4,"head_dim":8}`, "multiple", schemas.CodeModel},
		{`{"architectures":["LlamaForCausalLM"],"rope_scaling":{"rope_type":"spiral"}}`, "spiral", schemas.CodeUnsupported},
		{`{"architectures":["LlamaForCausalLM"],"rope_scaling":{"rope_type":"longrope"}}`, "long_factor", schemas.CodeModel},
		{`{"model_type":"lama"}`, "llama", schemas.CodeUnsupported},
		{`{"architectures":["LlamaForCausalLM"],"rope_scaling":{"rope_type":"linear"}}`, "factor", schemas.CodeModel},
		{`{"architectures":["LlamaForCausalLM"],"hidden_size":-4}`, "hidden_size", schemas.CodeModel},
		{`{"architectures":["LlamaForCausalLM"],"quantization_config":{"bits":4}}`, "quantization_config", schemas.CodeUnsupported},
	} {
		_, err := New([]byte(c.cfg))
		if err == nil || !strings.Contains(err.Error(), c.want) || !schemas.IsCode(err, c.code) {
			t.Errorf("%s: %v, want %q with code %s", c.cfg, err, c.want, c.code)
		}
	}
}

// FuzzConfig makes models of arbitrary configurations: what is accepted can be listed, and nothing crashes.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("{" + tiny + "}"))
	f.Add([]byte(`{"architectures":["LlamaForCausalLM"],"num_hidden_layers":1,"hidden_size":4,"num_attention_heads":1,"vocab_size":3,"rope_scaling":{"type":"yarn","factor":2}}`))
	for _, e := range architectures() {
		f.Add([]byte(`{"model_type":"` + e.modelTypes[0] + `","hidden_size":8,"num_attention_heads":2,"num_key_value_heads":1,"num_hidden_layers":2,"n_head":2,"n_layer":2,` +
			`"head_dim":4,"vocab_size":5,"dropout":0,"attn_pdrop":0,"embd_pdrop":0,"resid_pdrop":0,"attention_dropout":0,"residual_dropout":0,` +
			`"sliding_window":3,"layer_types":["full_attention","sliding_attention"],"rope_scaling":{"type":"dynamic","factor":2,"alpha":3},"qk_layernorm":true,` +
			`"num_experts":4,"num_experts_per_tok":2,"n_routed_experts":4,"n_group":1,"topk_group":1,"moe_k":2}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		m, err := New(b)
		if err != nil {
			return
		}
		if m.Info().Vocab < 1 || len(nn.Params(m.Root())) == 0 || len(m.Units()) < 2 {
			t.Fatal("accepted a model without vocabulary or parameters")
		}
	})
}
