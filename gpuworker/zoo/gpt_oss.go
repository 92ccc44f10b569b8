package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// GptOssConfig holds the keys of a GptOssForCausalLM config.json that change arithmetic.
type GptOssConfig struct {
	Sizes
	Rotary
	RouterAux
	Eps        float64    `json:"rms_norm_eps"`
	Window     maybe[int] `json:"sliding_window"`
	LayerTypes []string   `json:"layer_types"`
	Experts    int        `json:"num_local_experts"`
	TopK       int        `json:"num_experts_per_tok"`
	Dropout    float64    `json:"attention_dropout"`
}

// The constants of GptOssExperts.
const (
	gptOssAlpha = 1.702
	gptOssLimit = 7.0
)

func gptOssEntries() []entry {
	factor, fast, slow, truncate := 32.0, 32.0, 1.0, false
	return []entry{define("GptOssForCausalLM", "gpt_oss", GptOssConfig{Eps: 1e-5, Window: some(128), Experts: 128, TopK: 4, RouterAux: RouterAux{AuxCoef: 0.9},
		Rotary: Rotary{RopeTheta: 150000, RopeScaling: &nn.RopeScaling{Type: "yarn", Factor: &factor, BetaFast: &fast, BetaSlow: &slow, Truncate: &truncate}},
		Sizes: Sizes{Vocab: 201088, Hidden: 2880, Intermediate: 2880, Layers: 36, Heads: 64, KVHeads: some(8), HeadDim: some(64), MaxPositions: 131072,
			InitRange: 0.02, Act: "silu"}}, nil, describeGptOss)}
}

// WithDefaults implements configuration.
func (c GptOssConfig) WithDefaults() GptOssConfig {
	c.Rotary = c.withDefaults()
	if c.LayerTypes == nil {
		for i := range c.Layers {
			c.LayerTypes = append(c.LayerTypes, []string{"sliding_attention", "full_attention"}[i%2])
		}
	}
	return c
}

// Validate implements configuration.
func (c GptOssConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.experts("num_local_experts", c.Experts, "num_experts_per_tok", c.TopK)
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	return p.err()
}

// dropouts implements configuration.
func (c GptOssConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// gptOssBlock is GptOssDecoderLayer of transformers (modeling_gpt_oss.py): attention with sinks, and experts in stacked parameters of
// shape [experts, in, out] with interleaved gate and up.
type gptOssBlock struct {
	AttnNorm nn.Norm `hf:"input_layernorm"`
	Attn     struct {
		nn.Attention `hf:""`
		Sinks        *nn.Param `hf:"sinks"`
	} `hf:"self_attn"`
	MLPNorm nn.Norm `hf:"post_attention_layernorm"`
	MLP     struct {
		Router  nn.Router `hf:"router"`
		Experts struct {
			In      *nn.Param `hf:"gate_up_proj"`
			InBias  *nn.Param `hf:"gate_up_proj_bias"`
			Out     *nn.Param `hf:"down_proj"`
			OutBias *nn.Param `hf:"down_proj_bias"`
		} `hf:"experts"`
	} `hf:"mlp"`
	route ops.RouteConfig
}

func describeGptOss(c GptOssConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) gptOssBlock {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		b := gptOssBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			route: ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmaxTopK, AuxOfScores: true}}
		b.Attn.Sinks = &nn.Param{Shape: []int64{int64(c.Heads)}, Init: autograd.Init{Kind: autograd.InitNormal, Std: c.InitRange}} // decays, as any matrix
		h.Sinks = b.Attn.Sinks
		b.Attn.Attention = nn.NewAttention(c.Hidden, h, true, true, c.InitRange)
		b.MLP.Router = nn.NewRouter(c.Hidden, c.Experts, true, false, c.InitRange)
		e := &b.MLP.Experts
		e.In, e.Out = nn.NewStack(c.InitRange, c.Experts, c.Hidden, 2*c.Intermediate), nn.NewStack(c.InitRange, c.Experts, c.Intermediate, c.Hidden)
		e.InBias, e.OutBias = nn.NewStack(0, c.Experts, 2*c.Intermediate), nn.NewStack(0, c.Experts, c.Hidden)
		e.InBias.Role, e.OutBias.Role = autograd.RoleBias, autograd.RoleBias // no decay
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	c.balance(&d, c.Experts)
	return d
}

func (b *gptOssBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	n := b.MLPNorm.Forward(t, h)
	r := b.MLP.Router.Route(t, n, b.route, p.aux)
	w := &b.MLP.Experts
	e := nn.StackedExperts{In: w.In, InBias: w.InBias, Out: w.Out, OutBias: w.OutBias, Transposed: true}
	y := e.Add(t, n, h, r, func(t *nn.Tape, x nn.Value) nn.Value {
		return ops.GLUClamped(t, x, ops.GLUClampedConfig{Alpha: gptOssAlpha, Limit: gptOssLimit, Interleaved: true})
	})
	t.Release(n, h)
	return y
}
