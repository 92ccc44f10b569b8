package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// QwenMoEConfig holds the keys of a Qwen2MoeForCausalLM or Qwen3MoeForCausalLM config.json that change arithmetic.
type QwenMoEConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps       float64    `json:"rms_norm_eps"`
	UseWindow bool       `json:"use_sliding_window"`
	Window    maybe[int] `json:"sliding_window"`
	// Dense are the layers without experts; of the others each SparseStep-th has them.
	Dense      []int   `json:"mlp_only_layers"`
	SparseStep int     `json:"decoder_sparse_step"`
	Experts    int     `json:"num_experts"`
	TopK       int     `json:"num_experts_per_tok"`
	Inner      int     `json:"moe_intermediate_size"`
	Normalize  bool    `json:"norm_topk_prob"`
	Dropout    float64 `json:"attention_dropout"`
	// QKVBias and SharedInner are Qwen2-MoE's, AttentionBias Qwen3-MoE's.
	QKVBias       bool `json:"qkv_bias"`
	SharedInner   int  `json:"shared_expert_intermediate_size"`
	AttentionBias bool `json:"attention_bias"`
}

func qwenMoEEntries() []entry {
	two := QwenMoEConfig{Eps: 1e-6, Window: some(4096), SparseStep: 1, Experts: 60, TopK: 4, Inner: 1408, SharedInner: 5632, QKVBias: true,
		RouterAux: RouterAux{AuxCoef: 0.001}, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 151936, Hidden: 2048, Intermediate: 5632, Layers: 24,
			Heads: 16, KVHeads: some(16), MaxPositions: 32768, InitRange: 0.02, Act: "silu"}}
	three := QwenMoEConfig{Eps: 1e-6, Window: some(4096), SparseStep: 1, Experts: 128, TopK: 8, Inner: 768, RouterAux: RouterAux{AuxCoef: 0.001},
		Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 151936, Hidden: 2048, Intermediate: 6144, Layers: 24, Heads: 32, KVHeads: some(4),
			MaxPositions: 32768, InitRange: 0.02, Act: "silu"}}
	return []entry{
		define("Qwen2MoeForCausalLM", "qwen2_moe", two, nil, func(c QwenMoEConfig) description { return describeQwenMoE(c, false) }),
		define("Qwen3MoeForCausalLM", "qwen3_moe", three, nil, func(c QwenMoEConfig) description { return describeQwenMoE(c, true) }),
	}
}

// WithDefaults implements configuration.
func (c QwenMoEConfig) WithDefaults() QwenMoEConfig {
	c.Rotary = c.withDefaults()
	if !c.UseWindow {
		c.Window = maybe[int]{}
	}
	return c
}

// Validate implements configuration.
func (c QwenMoEConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.size("decoder_sparse_step", c.SparseStep)
	p.size("moe_intermediate_size", c.Inner)
	p.experts("num_experts", c.Experts, "num_experts_per_tok", c.TopK)
	if c.Window.ok {
		p.size("sliding_window", c.Window.v)
	}
	if c.SharedInner < 0 {
		p.bad("shared_expert_intermediate_size", "%d is negative", c.SharedInner)
	}
	return p.err()
}

// dropouts implements configuration.
func (c QwenMoEConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// qwenMoEBlock is Qwen2MoeDecoderLayer or Qwen3MoeDecoderLayer of transformers.
type qwenMoEBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	// Dense or Sparse.
	Dense  *nn.SwiGLU `hf:"mlp"`
	Sparse *linearMoE `hf:"mlp"`
}

func describeQwenMoE(c QwenMoEConfig, three bool) description {
	h := c.geometry()
	h.Window = c.Window.or(0)
	sparse := false
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) qwenMoEBlock {
		b := qwenMoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps)}
		if three {
			b.Attn = nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange)
			norm := nn.NewRMSNorm(c.headDim(), c.Eps)
			b.Attn.QNorm = norm.PerHead(c.headDim(), 0)
			norm = nn.NewRMSNorm(c.headDim(), c.Eps)
			b.Attn.KNorm = norm.PerHead(c.headDim(), 0)
		} else {
			b.Attn = nn.NewAttention(c.Hidden, h, c.QKVBias, false, c.InitRange)
		}
		if !sparseLayer(i, c.SparseStep, c.Dense) {
			dense := newGated(c.Sizes, false)
			b.Dense = &dense
			return b
		}
		sparse = true
		b.Sparse = &linearMoE{Gate: nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange), Experts: skipped(newExperts(c.Experts, c.Hidden, c.Inner, false, c.activation(), c.InitRange)),
			route: ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Normalize: c.Normalize}}
		if !three {
			shared, gate := nn.NewSwiGLU(c.Hidden, c.SharedInner, false, c.InitRange), nn.NewLinear(c.Hidden, 1, false, c.InitRange)
			shared.Act = c.activation()
			b.Sparse.Shared, b.Sparse.SharedGate = &shared, &gate
		}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	if sparse {
		c.balance(&d, c.Experts)
	}
	return d
}

func (b *qwenMoEBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := denseOrSparse(t, b.MLPNorm.Forward(t, h), h, b.Dense, b.Sparse, p)
	t.Release(h)
	return y
}
