package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// GraniteConfig holds the keys of a GraniteForCausalLM config.json that change arithmetic.
type GraniteConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	MLPBias       bool    `json:"mlp_bias"`
	// Multipliers of embeddings, residual branches and scores; logits are divided by LogitsScaling.
	Embedding     float64 `json:"embedding_multiplier"`
	Residual      float64 `json:"residual_multiplier"`
	Attention     float64 `json:"attention_multiplier"`
	LogitsScaling float64 `json:"logits_scaling"`
}

func graniteEntries() []entry {
	return []entry{define("GraniteForCausalLM", "granite", GraniteConfig{Eps: 1e-6, Embedding: 1, Residual: 1, Attention: 1, LogitsScaling: 1,
		Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048, InitRange: 0.02,
			Act: "silu"}}, nil, describeGranite)}
}

// WithDefaults implements configuration.
func (c GraniteConfig) WithDefaults() GraniteConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c GraniteConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	for key, v := range map[string]float64{"rms_norm_eps": c.Eps, "embedding_multiplier": c.Embedding, "residual_multiplier": c.Residual,
		"attention_multiplier": c.Attention, "logits_scaling": c.LogitsScaling} {
		p.positive(key, v)
	}
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c GraniteConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// graniteBlock is GraniteDecoderLayer of transformers (modeling_granite.py): llama's with scaled residual branches.
type graniteBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU    `hf:"mlp"`
	scale    float32
}

func (b *graniteBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := b.Attn.Add(t, b.AttnNorm.Forward(t, x), nn.Value{}, p.Positions, p.layer(layer))
	h := addScaled(t, x, a, b.scale)
	m := b.MLP.Add(t, b.MLPNorm.Forward(t, h), nn.Value{})
	y := addScaled(t, h, m, b.scale)
	t.Release(h)
	return y
}

func describeGranite(c GraniteConfig) description {
	h := c.geometry()
	h.Scale = c.Attention
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) graniteBlock {
		return graniteBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLP: newGated(c.Sizes, c.MLPBias),
			Attn: nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange), scale: float32(c.Residual)}
	})
	d.embed.Scale = float32(c.Embedding)
	d.logitScale = 1 / c.LogitsScaling
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
