package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// GraniteMoEConfig holds the keys of a GraniteMoeForCausalLM or GraniteMoeSharedForCausalLM config.json that change arithmetic.
type GraniteMoEConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps           float64 `json:"rms_norm_eps"`
	AttentionBias bool    `json:"attention_bias"`
	EmbedScale    float64 `json:"embedding_multiplier"`
	LogitScale    float64 `json:"logits_scaling"`
	Residual      float64 `json:"residual_multiplier"`
	AttnScale     float64 `json:"attention_multiplier"`
	Experts       int     `json:"num_local_experts"`
	TopK          int     `json:"num_experts_per_tok"`
	// SharedInner is GraniteMoeShared's; 0 is without a shared expert.
	SharedInner int     `json:"shared_intermediate_size"`
	Dropout     float64 `json:"attention_dropout"`
}

func graniteMoEEntries() []entry {
	def := GraniteMoEConfig{Eps: 1e-6, EmbedScale: 1, LogitScale: 1, Residual: 1, AttnScale: 1, Experts: 8, TopK: 2, RouterAux: RouterAux{AuxCoef: 0.001},
		Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048,
			InitRange: 0.02, Act: "silu"}}
	shared := def
	shared.SharedInner = 1024
	return []entry{
		define("GraniteMoeForCausalLM", "granitemoe", def, nil, func(c GraniteMoEConfig) description {
			c.SharedInner = 0
			return describeGraniteMoE(c)
		}),
		define("GraniteMoeSharedForCausalLM", "granitemoeshared", shared, nil, describeGraniteMoE),
	}
}

// WithDefaults implements configuration. Heads are always hidden/heads long.
func (c GraniteMoEConfig) WithDefaults() GraniteMoEConfig {
	c.Rotary = c.withDefaults()
	c.HeadDim = maybe[int]{}
	return c
}

// Validate implements configuration.
func (c GraniteMoEConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.experts("num_local_experts", c.Experts, "num_experts_per_tok", c.TopK)
	for key, v := range map[string]float64{"rms_norm_eps": c.Eps, "embedding_multiplier": c.EmbedScale, "logits_scaling": c.LogitScale,
		"residual_multiplier": c.Residual, "attention_multiplier": c.AttnScale} {
		p.positive(key, v)
	}
	if c.SharedInner < 0 {
		p.bad("shared_intermediate_size", "%d is negative", c.SharedInner)
	}
	return p.err()
}

// dropouts implements configuration.
func (c GraniteMoEConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// graniteMoEBlock is GraniteMoeDecoderLayer or GraniteMoeSharedDecoderLayer of transformers: the experts lie in one stacked parameter
// each, gate and up fused, and what is added to the residual is scaled.
type graniteMoEBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MoE      struct {
		In     graniteStack `hf:"input_linear"`
		Out    graniteStack `hf:"output_linear"`
		Router struct {
			Layer nn.Linear `hf:"layer"`
		} `hf:"router"`
	} `hf:"block_sparse_moe"`
	Shared *graniteShared `hf:"shared_mlp"`
	route  ops.RouteConfig
	act    kernels.Activation
	scale  float32
}

type graniteStack struct {
	Weight *nn.Param `hf:"weight"`
}

type graniteShared struct {
	In  nn.Linear `hf:"input_linear"`
	Out nn.Linear `hf:"output_linear"`
}

func describeGraniteMoE(c GraniteMoEConfig) description {
	h := c.geometry()
	h.Scale = c.AttnScale
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) graniteMoEBlock {
		b := graniteMoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn:  nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange),
			route: ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmaxTopK}, act: c.activation(), scale: float32(c.Residual)}
		b.MoE.In.Weight = nn.NewStack(c.InitRange, c.Experts, 2*c.Intermediate, c.Hidden)
		b.MoE.Out.Weight = nn.NewStack(c.InitRange, c.Experts, c.Hidden, c.Intermediate)
		b.MoE.Router.Layer = nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange)
		if c.SharedInner > 0 {
			b.Shared = &graniteShared{In: nn.NewLinear(c.Hidden, 2*c.SharedInner, false, c.InitRange), Out: nn.NewLinear(c.SharedInner, c.Hidden, false, c.InitRange)}
		}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	d.embed.Scale, d.logitScale = float32(c.EmbedScale), 1/c.LogitScale
	c.balance(&d, c.Experts)
	return d
}

func (b *graniteMoEBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := b.Attn.Add(t, b.AttnNorm.Forward(t, x), nn.Value{}, p.Positions, p.layer(layer))
	h := ops.Add(t, x, a, b.scale)
	t.Release(a)
	n := b.MLPNorm.Forward(t, h)
	var shared nn.Value
	if b.Shared != nil {
		t.Keep(n) // Gated releases its input
		shared = nn.Gated(t, n, nn.Value{}, &b.Shared.In, nil, &b.Shared.Out, b.act)
	}
	r := nn.RouteLinear(t, &b.MoE.Router.Layer, n, b.route, p.aux)
	e := nn.StackedExperts{In: b.MoE.In.Weight, Out: b.MoE.Out.Weight}
	m := e.Add(t, n, shared, r, func(t *nn.Tape, x nn.Value) nn.Value { return ops.GLU(t, x, nn.Value{}, b.act) })
	t.Release(n, shared)
	y := ops.Add(t, h, m, b.scale)
	t.Release(m, h)
	return y
}
