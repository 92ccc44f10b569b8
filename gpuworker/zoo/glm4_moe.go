package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// Glm4MoEConfig holds the keys of a Glm4MoeForCausalLM config.json that change arithmetic.
type Glm4MoEConfig struct {
	Sizes
	Rotary
	SharedRoute
	Eps           float64 `json:"rms_norm_eps"`
	AttentionBias bool    `json:"attention_bias"`
	QKNorm        bool    `json:"use_qk_norm"`
	Dropout       float64 `json:"attention_dropout"`
}

func glm4MoEEntries() []entry {
	return []entry{define("Glm4MoeForCausalLM", "glm4_moe", Glm4MoEConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000, Partial: some(0.5)},
		SharedRoute: SharedRoute{Experts: 128, Shared: some(1), TopK: 8, Inner: 1408, Groups: some(1), TopKGroups: some(1), Normalize: true, Scale: 1, FirstDense: 1},
		Sizes:       Sizes{Vocab: 151552, Hidden: 4096, Intermediate: 10944, Layers: 46, Heads: 96, KVHeads: some(8), MaxPositions: 131072, InitRange: 0.02, Act: "silu"}},
		nil, describeGlm4MoE)}
}

// WithDefaults implements configuration.
func (c Glm4MoEConfig) WithDefaults() Glm4MoEConfig {
	c.Rotary = c.withDefaults()
	return c
}

func (c Glm4MoEConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Odd = true
	return r
}

// Validate implements configuration.
func (c Glm4MoEConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	c.check(&p, 2)
	return p.err()
}

// dropouts implements configuration.
func (c Glm4MoEConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// glm4MoEBlock is Glm4MoeDecoderLayer of transformers (modeling_glm4_moe.py).
type glm4MoEBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	// Dense or Sparse.
	Dense  *nn.SwiGLU `hf:"mlp"`
	Sparse *sharedMoE `hf:"mlp"`
}

func describeGlm4MoE(c Glm4MoEConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) glm4MoEBlock {
		b := glm4MoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, false, c.InitRange)}
		if c.QKNorm {
			b.Attn.QNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
			b.Attn.KNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
		}
		if i < c.FirstDense {
			dense := newGated(c.Sizes, false)
			b.Dense = &dense
		} else {
			b.Sparse = newSharedMoE(c.Sizes, c.SharedRoute, c.sigmoidRoute(), true, false)
		}
		return b
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}

func (b *glm4MoEBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := denseOrSparse(t, b.MLPNorm.Forward(t, h), h, b.Dense, b.Sparse, p)
	t.Release(h)
	return y
}
