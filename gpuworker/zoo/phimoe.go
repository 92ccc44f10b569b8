package zoo

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// PhiMoEConfig holds the keys of a PhimoeForCausalLM config.json (Phi 3.5 MoE) that change arithmetic.
type PhiMoEConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps     float64    `json:"rms_norm_eps"`
	Window  maybe[int] `json:"sliding_window"`
	Experts int        `json:"num_local_experts"`
	TopK    int        `json:"num_experts_per_tok"`
	Dropout float64    `json:"attention_dropout"`
	// Jitter bounds which experts share a weight; it is no noise on the router. InputJitter is noise on its input.
	Jitter        float64 `json:"router_jitter_noise"`
	InputJitter   float64 `json:"input_jitter_noise"`
	AttentionBias bool    `json:"attention_bias"`
	HeadBias      bool    `json:"lm_head_bias"`
}

func phimoeEntries() []entry {
	return []entry{define("PhimoeForCausalLM", "phimoe", PhiMoEConfig{Eps: 1e-5, Experts: 16, TopK: 2, Jitter: 0.01, RouterAux: RouterAux{AuxCoef: 0.001},
		Rotary: Rotary{RopeTheta: 1e6}, Sizes: Sizes{Vocab: 32064, Hidden: 4096, Intermediate: 6400, Layers: 32, Heads: 32, KVHeads: some(8),
			MaxPositions: 4096 * 32, InitRange: 0.02, Act: "silu"}}, nil, describePhiMoE)}
}

// WithDefaults implements configuration: heads share the hidden size, and the length of pretraining is the scaling's.
func (c PhiMoEConfig) WithDefaults() PhiMoEConfig {
	c.Rotary = c.withDefaults()
	c.HeadDim, c.Partial = maybe[int]{}, maybe[float64]{}
	if s := c.RopeScaling; s != nil && s.OriginalMax != nil {
		c.Original = some(int(*s.OriginalMax))
	}
	return c
}

func (c PhiMoEConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.MScales = r.Kind() == "longrope"
	return r
}

// Validate implements configuration.
func (c PhiMoEConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.experts("num_local_experts", c.Experts, "num_experts_per_tok", c.TopK)
	if c.TopK != 2 {
		p.bad("num_experts_per_tok", "is %d: SparseMixer chooses 2", c.TopK)
	}
	if !(c.Jitter >= 0) {
		p.bad("router_jitter_noise", "%g is negative", c.Jitter)
	}
	p.window(c.Window)
	r := c.table()
	s := r.Scaling
	switch {
	case s == nil || r.Kind() == "default":
	case r.Kind() != "longrope":
		p.bad("rope_scaling", "type %q: only longrope is known for this architecture", r.Kind())
		return p.err()
	case s.ShortMScale == nil || s.LongMScale == nil || s.OriginalMax == nil:
		p.bad("rope_scaling", "needs short_mscale, long_mscale and original_max_position_embeddings")
		return p.err()
	}
	p.rotary(r, c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c PhiMoEConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, InputJitter: c.InputJitter}
}

// phimoeBlock is PhimoeDecoderLayer of transformers (modeling_phimoe.py): mixtral's with LayerNorm and another router.
type phimoeBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MoE      struct {
		Gate    nn.Linear       `hf:"gate"`
		Experts []mixtralExpert `hf:"experts"`
	} `hf:"block_sparse_moe"`
	mix ops.MixerConfig
	act kernels.Activation
}

func describePhiMoE(c PhiMoEConfig) description {
	h := c.geometry()
	h.Window = c.Window.or(0)
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	d := newDecoder(c.Sizes, norm(), func(i int) phimoeBlock {
		b := phimoeBlock{AttnNorm: norm(), MLPNorm: norm(), Attn: nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange),
			mix: ops.MixerConfig{Experts: c.Experts, Eps: float32(c.Jitter), Stream: nn.Stream(fmt.Sprintf("model.layers.%d.block_sparse_moe.choice", i))}, act: c.activation()}
		b.MoE.Gate = nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange)
		for range c.Experts {
			b.MoE.Experts = append(b.MoE.Experts, mixtralExpert{W1: nn.NewLinear(c.Hidden, c.Intermediate, false, c.InitRange),
				W2: nn.NewLinear(c.Intermediate, c.Hidden, false, c.InitRange), W3: nn.NewLinear(c.Hidden, c.Intermediate, false, c.InitRange)})
			skipExpert(&b.MoE.Experts[len(b.MoE.Experts)-1])
		}
		return b
	})
	*d.head = c.output(c.HeadBias)
	d.ropes = []nn.Rope{c.table()}
	c.balance(&d, c.Experts)
	return d
}

func (b *phimoeBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	n := b.MLPNorm.Forward(t, h)
	y := gatedByThree(t, n, h, nn.MixLinear(t, &b.MoE.Gate, n, b.mix, p.aux), b.MoE.Experts, b.act)
	t.Release(n, h)
	return y
}
