package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// OlmoeConfig holds the keys of an OlmoeForCausalLM config.json that change arithmetic.
type OlmoeConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps           float64        `json:"rms_norm_eps"`
	AttentionBias bool           `json:"attention_bias"`
	Clip          maybe[float64] `json:"clip_qkv"`
	Experts       int            `json:"num_experts"`
	TopK          int            `json:"num_experts_per_tok"`
	Normalize     bool           `json:"norm_topk_prob"`
	Dropout       float64        `json:"attention_dropout"`
}

func olmoeEntries() []entry {
	return []entry{define("OlmoeForCausalLM", "olmoe", OlmoeConfig{Eps: 1e-5, Experts: 64, TopK: 8, RouterAux: RouterAux{AuxCoef: 0.01},
		Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 50304, Hidden: 2048, Intermediate: 2048, Layers: 16, Heads: 16, MaxPositions: 4096,
			Pad: some[int64](1), InitRange: 0.02, Act: "silu"}}, nil, describeOlmoe)}
}

// WithDefaults implements configuration. Heads are always hidden/heads long.
func (c OlmoeConfig) WithDefaults() OlmoeConfig {
	c.Rotary = c.withDefaults()
	c.HeadDim = maybe[int]{}
	return c
}

// Validate implements configuration.
func (c OlmoeConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.experts("num_experts", c.Experts, "num_experts_per_tok", c.TopK)
	if c.Clip.ok {
		p.positive("clip_qkv", c.Clip.v)
	}
	return p.err()
}

// dropouts implements configuration.
func (c OlmoeConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// olmoeBlock is OlmoeDecoderLayer of transformers (modeling_olmoe.py): the norms of queries and keys span all heads.
type olmoeBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      linearMoE    `hf:"mlp"`
}

func describeOlmoe(c OlmoeConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) olmoeBlock {
		b := olmoeBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange)}
		q, k := nn.NewRMSNorm(c.Heads*c.headDim(), c.Eps), nn.NewRMSNorm(c.kv()*c.headDim(), c.Eps)
		b.Attn.QNorm, b.Attn.KNorm, b.Attn.Clip = &q, &k, float32(c.Clip.or(0))
		b.MLP = linearMoE{Gate: nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange),
			Experts: newExperts(c.Experts, c.Hidden, c.Intermediate, false, c.activation(), c.InitRange),
			route:   ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Normalize: c.Normalize}}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	c.balance(&d, c.Experts)
	return d
}

func (b *olmoeBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := b.MLP.add(t, b.MLPNorm.Forward(t, h), h, p)
	t.Release(h)
	return y
}
