package zoo

import (
	"encoding/json"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// LlamaConfig holds the keys of a LlamaForCausalLM config.json that change arithmetic. Zero values mean the defaults of transformers.
type LlamaConfig struct {
	Vocab         int             `json:"vocab_size"`
	Hidden        int             `json:"hidden_size"`
	Intermediate  int             `json:"intermediate_size"`
	Layers        int             `json:"num_hidden_layers"`
	Heads         int             `json:"num_attention_heads"`
	KVHeads       int             `json:"num_key_value_heads"`
	HeadDim       int             `json:"head_dim"`
	MaxPositions  int             `json:"max_position_embeddings"`
	Act           string          `json:"hidden_act"`
	Eps           float64         `json:"rms_norm_eps"`
	InitRange     float64         `json:"initializer_range"`
	Tied          bool            `json:"tie_word_embeddings"`
	AttentionBias bool            `json:"attention_bias"`
	MLPBias       bool            `json:"mlp_bias"`
	Dropout       float64         `json:"attention_dropout"`
	RopeTheta     float64         `json:"rope_theta"`
	RopeScaling   *nn.RopeScaling `json:"rope_scaling"`
	// RopeParameters is transformers 5's spelling of rope_theta and rope_scaling.
	RopeParameters *nn.RopeScaling `json:"rope_parameters"`
	Quantization   json.RawMessage `json:"quantization_config"`
}

// WithDefaults fills what the file leaves out, as LlamaConfig of transformers 4.57 does.
func (c LlamaConfig) WithDefaults() LlamaConfig {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Vocab, 32000)
	def(&c.Hidden, 4096)
	def(&c.Intermediate, 11008)
	def(&c.Layers, 32)
	def(&c.Heads, 32)
	def(&c.KVHeads, c.Heads)
	if c.Heads > 0 {
		def(&c.HeadDim, c.Hidden/c.Heads)
	}
	def(&c.MaxPositions, 2048)
	if c.Act == "" {
		c.Act = "silu"
	}
	if c.Eps == 0 {
		c.Eps = 1e-6
	}
	if c.InitRange == 0 {
		c.InitRange = 0.02
	}
	if p := c.RopeParameters; p != nil {
		if c.RopeScaling == nil {
			c.RopeScaling = p
		}
		if p.Theta != nil && c.RopeTheta == 0 {
			c.RopeTheta = *p.Theta
		}
	}
	if c.RopeTheta == 0 {
		c.RopeTheta = 10000
	}
	return c
}

// Rope describes the rotary tables.
func (c LlamaConfig) Rope() nn.Rope {
	return nn.Rope{Dim: c.HeadDim, Theta: c.RopeTheta, MaxPos: c.MaxPositions, Scaling: c.RopeScaling}
}

// Validate reports every problem of the configuration at once.
func (c LlamaConfig) Validate() error {
	var errs []error
	bad := func(code schemas.Code, key, format string, args ...any) {
		errs = append(errs, schemas.Errorf(code, "config.json:"+key, format, args...))
	}
	const limit, mostLayers = 1 << 24, 4096
	if c.Layers > mostLayers {
		bad(schemas.CodeModel, "num_hidden_layers", "%d exceeds %d", c.Layers, mostLayers)
	}
	for _, d := range []struct {
		key string
		v   int
	}{{"vocab_size", c.Vocab}, {"hidden_size", c.Hidden}, {"intermediate_size", c.Intermediate}, {"num_hidden_layers", c.Layers},
		{"num_attention_heads", c.Heads}, {"num_key_value_heads", c.KVHeads}, {"head_dim", c.HeadDim}, {"max_position_embeddings", c.MaxPositions}} {
		if d.v < 1 || d.v > limit {
			bad(schemas.CodeModel, d.key, "%d is not between 1 and %d", d.v, limit)
		}
	}
	if c.KVHeads > 0 && c.Heads%c.KVHeads != 0 {
		bad(schemas.CodeModel, "num_key_value_heads", "%d heads are not a multiple of %d", c.Heads, c.KVHeads)
	}
	if c.Act != "silu" && c.Act != "swish" {
		bad(schemas.CodeUnsupported, "hidden_act", "activation %q is not supported for llama (silu is)", c.Act)
	}
	if !(c.Eps > 0) {
		bad(schemas.CodeModel, "rms_norm_eps", "%g is not positive", c.Eps)
	}
	if c.Dropout != 0 {
		bad(schemas.CodeUnsupported, "attention_dropout", "attention dropout is not supported")
	}
	if len(c.Quantization) > 0 && string(c.Quantization) != "null" {
		bad(schemas.CodeUnsupported, "quantization_config", "quantized weights are not supported")
	}
	if err := c.Rope().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
