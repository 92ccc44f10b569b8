package adapter

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestPEFTConfigRoundTrip(t *testing.T) {
	t.Parallel()
	in := Config{Rank: 4, Alpha: 12.5, RSLoRA: true, Targets: []string{"v_proj", "q_proj"}}
	b, err := encodePEFT(in, "base", []string{"v_proj", "q_proj"}, []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePEFT(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rank != 4 || got.Alpha != 12.5 || !got.RSLoRA || strings.Join(got.Targets, ",") != "q_proj,v_proj" {
		t.Fatalf("%+v", got)
	}
	for _, c := range []Config{
		{Rank: 3, Alpha: 6, DoRA: true, Dropout: 0.25, Targets: []string{"q_proj"}, Save: []string{"embed_tokens"}, RankPattern: map[string]int{"q_proj": 7},
			AlphaPattern: map[string]float64{"v_proj": 3}, Exclude: []string{"layers.0.self_attn.q_proj"}},
		{Rank: 3, Alpha: 6, PiSSA: true, PiSSAIter: -1, Targets: []string{"q_proj"}},
		{Rank: 3, Alpha: 6, PiSSA: true, PiSSAIter: 16, Pattern: `.*\.q_proj`},
		{Kind: KindOFT, OFT: OFTConfig{BlockSize: 8, Terms: 4}, Targets: []string{"q_proj"}},
		{Kind: KindOFT, OFT: OFTConfig{Rank: 3, Share: true, Terms: 5}, Targets: []string{"q_proj"}},
		{Kind: KindBottleneck, Bottleneck: Houlsby(8, "gelu"), Targets: []string{"o_proj"}},
		{Kind: KindBottleneck, Bottleneck: Pfeiffer(8, "tanh"), Targets: []string{"down_proj"}},
	} {
		b, err := encodePEFT(c, "", c.Targets, nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parsePEFT(b)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if !reflect.DeepEqual(back, withEmpty(c)) {
			t.Errorf("%+v is read again as %+v", c, back)
		}
	}
	if !slices.Equal(got.Indexes, []int{1, 2}) {
		t.Fatal("layers_to_transform lost")
	}
	for path, want := range map[string]bool{"model.layers.2.self_attn.q_proj": true, "model.layers.0.self_attn.q_proj": false, "lm_head": false,
		"model.layers.0.mlp.experts.1.v_proj": true, "model.layers.1.mlp.experts.0.v_proj": false} {
		if got := got.matches(path, true) || path == "lm_head" && got.indexed(path); got != want {
			t.Errorf("layers_to_transform [1, 2] without a pattern: %s gets an adapter: %v", path, got)
		}
	}
	got.IndexAfter = []string{"layers"}
	if !got.matches("model.layers.1.mlp.experts.0.v_proj", true) || got.matches("model.layers.0.mlp.experts.1.v_proj", true) {
		t.Error("layers_pattern does not find the block")
	}
}

// withEmpty has empty maps where a file holds {}.
func withEmpty(c Config) Config {
	if c.Kind == "" && c.RankPattern == nil {
		c.RankPattern, c.AlphaPattern = map[string]int{}, map[string]float64{}
	}
	return c
}

func TestPEFTConfigRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	const base = `"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"]`
	for extra, code := range map[string]schemas.Code{
		`"use_qalora":true`:                          schemas.CodeUnsupported,
		`"bias":"all"`:                               schemas.CodeUnsupported,
		`"lora_bias":true`:                           schemas.CodeUnsupported,
		`"layer_replication":[[0,2]]`:                schemas.CodeUnsupported,
		`"target_parameters":["experts"]`:            schemas.CodeUnsupported,
		`"trainable_token_indices":[1]`:              schemas.CodeUnsupported,
		`"exclude_modules":".*q_proj"`:               schemas.CodeUnsupported,
		`"init_lora_weights":"olora"`:                schemas.CodeUnsupported,
		`"init_lora_weights":"pissa_niter_x"`:        schemas.CodeModel,
		`"peft_type":"IA3"`:                          schemas.CodeUnsupported,
		`"peft_type":"OFT","oft_block_size":4,"r":0`: schemas.CodeUnsupported,
		`"peft_type":"OFT","oft_block_size":4,"r":0,"use_cayley_neumann":true,"coft":true`: schemas.CodeUnsupported,
		`"peft_type":"BOTTLENECK","bottleneck_size":0,"non_linearity":"relu"`:              schemas.CodeInvalid,
		`"target_modules":"("`:               schemas.CodeInvalid,
		`"target_modules":[]`:                schemas.CodeModel,
		`"r":0`:                              schemas.CodeInvalid,
		`"rank_pattern":{"q_proj":0}`:        schemas.CodeInvalid,
		`"alpha_pattern":{"(":2}`:            schemas.CodeInvalid,
		`"lora_alpha":-1`:                    schemas.CodeInvalid,
		`"lora_dropout":1`:                   schemas.CodeInvalid,
		`"layers_to_transform":"everything"`: schemas.CodeModel,
	} {
		_, err := parsePEFT([]byte("{" + base + "," + extra + "}"))
		if !schemas.IsCode(err, code) {
			t.Errorf("%s: %v, want code %s", extra, err, code)
		}
	}
	if _, err := parsePEFT([]byte("{" + base + "}")); err != nil {
		t.Error(err)
	}
}

func FuzzPEFTConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"]}`))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear","layers_to_transform":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parsePEFT(b)
		if err == nil && c.Validate() != nil {
			t.Fatalf("accepted an invalid configuration: %+v", c)
		}
	})
}
