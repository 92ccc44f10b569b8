package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// MixtralConfig holds the keys of a MixtralForCausalLM config.json that change arithmetic.
type MixtralConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps     float64    `json:"rms_norm_eps"`
	Window  maybe[int] `json:"sliding_window"`
	Experts int        `json:"num_local_experts"`
	TopK    int        `json:"num_experts_per_tok"`
	Dropout float64    `json:"attention_dropout"`
	Jitter  float64    `json:"router_jitter_noise"`
}

func mixtralEntries() []entry {
	return []entry{define("MixtralForCausalLM", "mixtral", MixtralConfig{Eps: 1e-5, Experts: 8, TopK: 2, RouterAux: RouterAux{AuxCoef: 0.001},
		Rotary: Rotary{RopeTheta: 1e6}, Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 14336, Layers: 32, Heads: 32, KVHeads: some(8),
			MaxPositions: 4096 * 32, InitRange: 0.02, Act: "silu"}}, nil, describeMixtral)}
}

// WithDefaults implements configuration.
func (c MixtralConfig) WithDefaults() MixtralConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c MixtralConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.experts("num_local_experts", c.Experts, "num_experts_per_tok", c.TopK)
	if c.Window.ok {
		p.size("sliding_window", c.Window.v)
	}
	return p.err()
}

// dropouts implements configuration.
func (c MixtralConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "router_jitter_noise": c.Jitter}
}

// mixtralBlock is MixtralDecoderLayer of transformers (modeling_mixtral.py).
type mixtralBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MoE      struct {
		Gate    nn.Linear       `hf:"gate"`
		Experts []mixtralExpert `hf:"experts"`
	} `hf:"block_sparse_moe"`
	route ops.RouteConfig
	act   kernels.Activation
}

// mixtralExpert computes w2(act(w1(x)) * w3(x)).
type mixtralExpert struct {
	W1 nn.Linear `hf:"w1"`
	W2 nn.Linear `hf:"w2"`
	W3 nn.Linear `hf:"w3"`
}

func describeMixtral(c MixtralConfig) description {
	h := c.geometry()
	h.Window = c.Window.or(0)
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) mixtralBlock {
		b := mixtralBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn:  nn.NewAttention(c.Hidden, h, false, false, c.InitRange),
			route: ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Normalize: true}, act: c.activation()}
		b.MoE.Gate = nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange)
		for range c.Experts {
			b.MoE.Experts = append(b.MoE.Experts, mixtralExpert{W1: nn.NewLinear(c.Hidden, c.Intermediate, false, c.InitRange),
				W2: nn.NewLinear(c.Intermediate, c.Hidden, false, c.InitRange), W3: nn.NewLinear(c.Hidden, c.Intermediate, false, c.InitRange)})
			skipExpert(&b.MoE.Experts[len(b.MoE.Experts)-1])
		}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	c.balance(&d, c.Experts)
	return d
}

func (b *mixtralBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	n := b.MLPNorm.Forward(t, h)
	y := gatedByThree(t, n, h, nn.RouteLinear(t, &b.MoE.Gate, n, b.route, p.aux), b.MoE.Experts, b.act)
	t.Release(n, h)
	return y
}

// gatedByThree is nn.GatedExperts of experts with Mixtral's names.
func gatedByThree(t *nn.Tape, x, residual nn.Value, r *ops.Routing, experts []mixtralExpert, act kernels.Activation) nn.Value {
	var gate, up, down []*nn.Linear
	for i := range experts {
		e := &experts[i]
		gate, up, down = append(gate, &e.W1), append(up, &e.W3), append(down, &e.W2)
	}
	return nn.GatedExperts(t, x, residual, r, gate, up, down, act)
}
