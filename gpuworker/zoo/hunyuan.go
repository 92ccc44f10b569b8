package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// HunYuanConfig holds the keys of a HunYuanDenseV1ForCausalLM config.json that change arithmetic.
type HunYuanConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
}

func hunyuanEntries() []entry {
	return []entry{define("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", HunYuanConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 290943,
		Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048, Pad: some[int64](0), InitRange: 0.02, Act: "silu"}}, nil, describeHunYuan)}
}

// WithDefaults implements configuration. A dynamic scaling with alpha is a greater base, whatever the length.
func (c HunYuanConfig) WithDefaults() HunYuanConfig {
	c.Rotary = c.withDefaults()
	if s := c.RopeScaling; s != nil && s.Alpha != nil && *s.Alpha > 0 && (nn.Rope{Scaling: s}).Kind() == "dynamic" && c.headDim() > 2 {
		d := float64(c.headDim())
		c.RopeTheta *= math.Pow(*s.Alpha, d/(d-2))
		c.RopeScaling = nil
	}
	return c
}

// Validate implements configuration.
func (c HunYuanConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c HunYuanConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// hunyuanBlock is HunYuanDenseV1DecoderLayer of transformers (modeling_hunyuan_v1_dense.py).
type hunyuanBlock struct {
	AttnNorm nn.Norm     `hf:"input_layernorm"`
	Attn     hunyuanAttn `hf:"self_attn"`
	MLPNorm  nn.Norm     `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU   `hf:"mlp"`
}

// hunyuanAttn normalizes each query and key head after the rotation.
type hunyuanAttn struct {
	Q     nn.Linear `hf:"q_proj"`
	K     nn.Linear `hf:"k_proj"`
	V     nn.Linear `hf:"v_proj"`
	O     nn.Linear `hf:"o_proj"`
	QNorm *nn.Norm  `hf:"query_layernorm"`
	KNorm *nn.Norm  `hf:"key_layernorm"`
	nn.Heads
}

// add computes residual + attention of x [tokens, hidden], which it releases.
func (a *hunyuanAttn) add(t *nn.Tape, x, residual nn.Value, p *pass, layer int) nn.Value {
	l := nn.Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O, QNorm: a.QNorm, KNorm: a.KNorm, NormRotated: true}
	return a.Add(t, x, residual, l, p.Positions, p.layer(layer))
}

func (c HunYuanConfig) attention() hunyuanAttn {
	a := nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange)
	norm := func() *nn.Norm { return nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0) }
	return hunyuanAttn{Q: a.Q, K: a.K, V: a.V, O: a.O, Heads: a.Heads, QNorm: norm(), KNorm: norm()}
}

func (b *hunyuanBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.add(t, b.AttnNorm.Forward(t, x), x, p, layer)
	y := b.MLP.Add(t, b.MLPNorm.Forward(t, h), h)
	t.Release(h)
	return y
}

func describeHunYuan(c HunYuanConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) hunyuanBlock {
		return hunyuanBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLP: newGated(c.Sizes, false), Attn: c.attention()}
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
