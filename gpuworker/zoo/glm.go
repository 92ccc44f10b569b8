package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// GlmConfig holds the keys of a GlmForCausalLM or Glm4ForCausalLM config.json that change arithmetic.
type GlmConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
}

func glmDefaults() GlmConfig {
	return GlmConfig{Eps: 1.5625e-07, AttentionBias: true, Rotary: Rotary{RopeTheta: 10000, Partial: some(0.5)}, Sizes: Sizes{Vocab: 151552, Hidden: 4096,
		Intermediate: 13696, Layers: 40, Heads: 32, KVHeads: some(2), HeadDim: some(128), MaxPositions: 131072, Pad: some[int64](151329), InitRange: 0.02, Act: "silu"}}
}

func glmEntries() []entry {
	return []entry{define("GlmForCausalLM", "glm", glmDefaults(), nil, describeGlm)}
}

// WithDefaults implements configuration.
func (c GlmConfig) WithDefaults() GlmConfig {
	c.Rotary = c.withDefaults()
	return c
}

func (c GlmConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Interleaved, r.Odd = true, true
	return r
}

// Validate implements configuration.
func (c GlmConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c GlmConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// glmBlock is GlmDecoderLayer of transformers (modeling_glm.py): llama's with gate and up projections in one.
type glmBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      fusedGated   `hf:"mlp"`
	feedForward
}

func (b *glmBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := nn.Gated(t, b.MLPNorm.Forward(t, h), h, &b.MLP.GateUp, nil, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describeGlm(c GlmConfig) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps) }
	d := newDecoder(c.Sizes, norm(), func(int) glmBlock {
		return glmBlock{AttnNorm: norm(), MLPNorm: norm(), MLP: newFusedGated(c.Sizes), feedForward: feedForward{c.activation()},
			Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, false, c.InitRange)}
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}
