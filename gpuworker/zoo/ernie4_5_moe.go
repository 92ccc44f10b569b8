package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// Ernie45MoEConfig holds the keys of an Ernie4_5_MoeForCausalLM config.json that change arithmetic.
type Ernie45MoEConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps     float64 `json:"rms_norm_eps"`
	Bias    bool    `json:"use_bias"`
	Inner   int     `json:"moe_intermediate_size"`
	TopK    int     `json:"moe_k"`
	Experts int     `json:"moe_num_experts"`
	Shared  int     `json:"moe_num_shared_experts"`
	// Layers First to Last (-1: the last one) have experts, each Interval-th of them.
	First    int     `json:"moe_layer_start_index"`
	Last     int     `json:"moe_layer_end_index"`
	Interval int     `json:"moe_layer_interval"`
	NormMin  float64 `json:"moe_norm_min"`
}

func ernie45MoEEntries() []entry {
	return []entry{define("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", Ernie45MoEConfig{Eps: 1e-5, Inner: 1536, TopK: 6, Experts: 64, Shared: 2, First: 1, Last: -1,
		Interval: 1, NormMin: 1e-12, RouterAux: RouterAux{AuxCoef: 0.001}, Rotary: Rotary{RopeTheta: 500000}, Sizes: Sizes{Vocab: 103424, Hidden: 2560,
			Intermediate: 12288, Layers: 28, Heads: 20, KVHeads: some(4), MaxPositions: 131072, Pad: some[int64](0), InitRange: 0.02, Act: "silu", Tied: true}},
		nil, describeErnie45MoE)}
}

// WithDefaults implements configuration.
func (c Ernie45MoEConfig) WithDefaults() Ernie45MoEConfig {
	c.Rotary = c.withDefaults()
	if c.Last == -1 {
		c.Last = c.Layers - 1
	}
	return c
}

func (c Ernie45MoEConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Interleaved = true
	return r
}

// Validate implements configuration.
func (c Ernie45MoEConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.positive("moe_norm_min", c.NormMin)
	p.rotary(c.table(), c.headDim())
	p.experts("moe_num_experts", c.Experts, "moe_k", c.TopK)
	p.size("moe_intermediate_size", c.Inner)
	p.size("moe_layer_interval", c.Interval)
	if c.Shared < 0 {
		p.bad("moe_num_shared_experts", "%d is negative", c.Shared)
	}
	return p.err()
}

// dropouts implements configuration: there are no such keys.
func (Ernie45MoEConfig) dropouts() map[string]float64 { return nil }

// ernie45MoEBlock is Ernie4_5_MoeDecoderLayer of transformers (modeling_ernie4_5_moe.py).
type ernie45MoEBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	// Dense or Sparse.
	Dense  *nn.SwiGLU      `hf:"mlp"`
	Sparse *ernie45Experts `hf:"mlp"`
}

type ernie45Experts struct {
	Statics struct {
		Correction *nn.Param `hf:"e_score_correction_bias"`
	} `hf:"moe_statics"`
	Gate    nn.Linear   `hf:"gate"`
	Experts []nn.SwiGLU `hf:"experts"`
	Shared  *nn.SwiGLU  `hf:"shared_experts"`
	route   ops.RouteConfig
}

func describeErnie45MoE(c Ernie45MoEConfig) description {
	sparse := false
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) ernie45MoEBlock {
		b := ernie45MoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewAttention(c.Hidden, c.geometry(), c.Bias, c.Bias, c.InitRange)}
		if (i+1)%c.Interval != 0 || i < c.First || i > c.Last {
			dense := newGated(c.Sizes, c.Bias)
			b.Dense = &dense
			return b
		}
		sparse = true
		m := &ernie45Experts{Gate: nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange), Experts: skipped(newExperts(c.Experts, c.Hidden, c.Inner, c.Bias, c.activation(), c.InitRange)),
			route: ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Normalize: true, NormMin: float32(c.NormMin)}}
		m.Statics.Correction = &nn.Param{Shape: []int64{1, int64(c.Experts)}, Role: autograd.RoleBias, Frozen: true}
		if c.Shared > 0 {
			shared := nn.NewSwiGLU(c.Hidden, c.Shared*c.Inner, c.Bias, c.InitRange)
			shared.Act = c.activation()
			m.Shared = &shared
		}
		b.Sparse = m
		return b
	})
	*d.head = c.output(c.Bias)
	d.ropes = []nn.Rope{c.table()}
	if sparse {
		c.balance(&d, c.Experts)
	}
	return d
}

func (b *ernie45MoEBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := denseOrSparse(t, b.MLPNorm.Forward(t, h), h, b.Dense, b.Sparse, p)
	t.Release(h)
	return y
}

func (m *ernie45Experts) add(t *nn.Tape, x, residual nn.Value, p *pass) nn.Value {
	logits := nn.RouterLogits(t, &m.Gate, x)
	r := ops.Route(t, logits, m.Statics.Correction.Data, m.route, p.aux)
	t.Release(logits)
	y := nn.SwiGLUExperts(t, x, residual, r, m.Experts)
	if m.Shared == nil {
		t.Release(x)
		return y
	}
	z := m.Shared.Add(t, x, y)
	t.Release(y)
	return z
}
