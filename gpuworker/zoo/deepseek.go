package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// DeepseekConfig holds the keys of a DeepseekV2ForCausalLM or DeepseekV3ForCausalLM config.json that change arithmetic.
type DeepseekConfig struct {
	Sizes
	Rotary
	SharedRoute
	AttentionBias bool       `json:"attention_bias"`
	MLPBias       bool       `json:"mlp_bias"`
	QRank         maybe[int] `json:"q_lora_rank"`
	KVRank        int        `json:"kv_lora_rank"`
	NoPE          int        `json:"qk_nope_head_dim"`
	RoPE          int        `json:"qk_rope_head_dim"`
	Value         int        `json:"v_head_dim"`
	Interleave    bool       `json:"rope_interleave"`
	TopKMethod    string     `json:"topk_method"`
	Eps           float64    `json:"rms_norm_eps"`
	Dropout       float64    `json:"attention_dropout"`
}

// SharedRoute are the keys of a layer of experts beside shared ones, as DeepSeek and those after it have them.
type SharedRoute struct {
	Experts    int        `json:"n_routed_experts"`
	Shared     maybe[int] `json:"n_shared_experts"`
	TopK       int        `json:"num_experts_per_tok"`
	Inner      int        `json:"moe_intermediate_size"`
	Groups     maybe[int] `json:"n_group"`
	TopKGroups maybe[int] `json:"topk_group"`
	Normalize  bool       `json:"norm_topk_prob"`
	Scale      float64    `json:"routed_scaling_factor"`
	// FirstDense is the number of layers without experts at the beginning.
	FirstDense int `json:"first_k_dense_replace"`
}

// latentNormEps is the epsilon of the norms of latents, whatever the configuration says (the default of DeepseekV3RMSNorm).
const latentNormEps = 1e-6

func deepseekEntries() []entry {
	two := DeepseekConfig{Eps: 1e-6, QRank: some(1536), KVRank: 512, NoPE: 128, RoPE: 64, Value: 128, Interleave: true, TopKMethod: "greedy",
		SharedRoute: SharedRoute{Experts: 64, Shared: some(2), Inner: 1407, Scale: 1}, Rotary: Rotary{RopeTheta: 10000},
		Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048, InitRange: 0.02, Act: "silu"}}
	three := DeepseekConfig{Eps: 1e-6, QRank: some(1536), KVRank: 512, NoPE: 128, RoPE: 64, Value: 128, Interleave: true,
		SharedRoute: SharedRoute{Experts: 256, Shared: some(1), TopK: 8, Inner: 2048, Groups: some(8), TopKGroups: some(4), Normalize: true, Scale: 2.5, FirstDense: 3},
		Rotary:      Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 129280, Hidden: 7168, Intermediate: 18432, Layers: 61, Heads: 128, MaxPositions: 4096, InitRange: 0.02, Act: "silu"}}
	return []entry{
		define("DeepseekV2ForCausalLM", "deepseek_v2", two, nil, func(c DeepseekConfig) description {
			route := ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Scale: float32(c.Scale)}
			if c.TopKMethod == "group_limited_greedy" {
				route.Groups, route.TopKGroups, route.GroupTop = c.Groups.or(1), c.TopKGroups.or(1), 1
			}
			return describeDeepseek(c, route, false)
		}),
		define("DeepseekV3ForCausalLM", "deepseek_v3", three, nil, func(c DeepseekConfig) description {
			c.MLPBias = false
			return describeDeepseek(c, c.sigmoidRoute(), true)
		}),
	}
}

// sigmoidRoute is the routing of DeepSeek-V3 (https://arxiv.org/abs/2412.19437): sigmoids, a correction for the choice only, and groups
// by the sum of their two greatest choices.
func (c SharedRoute) sigmoidRoute() ops.RouteConfig {
	return ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSigmoid, Groups: c.Groups.or(1), TopKGroups: c.TopKGroups.or(1), GroupTop: 2,
		Normalize: c.Normalize, NormEps: 1e-20, Scale: float32(c.Scale)}
}

// check reports what is wrong with the keys.
func (c SharedRoute) check(p *problems, groupTop int) {
	p.experts("n_routed_experts", c.Experts, "num_experts_per_tok", c.TopK)
	p.size("moe_intermediate_size", c.Inner)
	p.positive("routed_scaling_factor", c.Scale)
	if c.Shared.ok && c.Shared.v < 0 {
		p.bad("n_shared_experts", "%d is negative", c.Shared.v)
	}
	g, k := c.Groups.or(1), c.TopKGroups.or(1)
	switch {
	case g < 1 || g > 64 || c.Experts%g != 0:
		p.bad("n_group", "%d groups of %d experts", g, c.Experts)
	case g > 1 && groupTop > c.Experts/g:
		p.bad("n_group", "%d groups of %d experts have less than %d each", g, c.Experts, groupTop)
	case k < 1 || k > g:
		p.bad("topk_group", "%d of %d groups", k, g)
	}
	if c.FirstDense < 0 {
		p.bad("first_k_dense_replace", "%d is negative", c.FirstDense)
	}
}

// WithDefaults implements configuration.
func (c DeepseekConfig) WithDefaults() DeepseekConfig {
	c.Rotary = c.withDefaults()
	// The heads' length is not the key's here, but that of the rotated part.
	c.HeadDim, c.Partial = some(c.RoPE), maybe[float64]{}
	return c
}

// Validate implements configuration.
func (c DeepseekConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	r := c.rope(c.RoPE, c.MaxPositions)
	p.rotary(r, c.RoPE)
	for _, s := range []struct {
		key string
		v   int
	}{{"kv_lora_rank", c.KVRank}, {"qk_nope_head_dim", c.NoPE}, {"v_head_dim", c.Value}, {"q_lora_rank", c.QRank.or(1)}} {
		p.size(s.key, s.v)
	}
	groupTop := 2
	switch c.TopKMethod {
	case "group_limited_greedy", "greedy":
		groupTop = 1
	case "", "noaux_tc":
	default:
		p.unsupported("topk_method", "%q is not supported (greedy, group_limited_greedy, noaux_tc are)", c.TopKMethod)
	}
	c.check(&p, groupTop)
	return p.err()
}

// dropouts implements configuration.
func (c DeepseekConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// scale multiplies scores: V3 raises it where yarn has been told to.
func (c DeepseekConfig) scale(three bool) float64 {
	s := 1 / math.Sqrt(float64(c.NoPE+c.RoPE))
	if r := c.RopeScaling; three && r != nil && r.MScaleAllDim != nil && *r.MScaleAllDim != 0 && r.Factor != nil && *r.Factor > 1 {
		m := 0.1**r.MScaleAllDim*math.Log(*r.Factor) + 1
		s *= m * m
	}
	return s
}

// deepseekBlock is DeepseekV2DecoderLayer or DeepseekV3DecoderLayer of transformers.
type deepseekBlock struct {
	AttnNorm nn.Norm            `hf:"input_layernorm"`
	Attn     nn.LatentAttention `hf:"self_attn"`
	MLPNorm  nn.Norm            `hf:"post_attention_layernorm"`
	// Dense or Sparse.
	Dense  *nn.SwiGLU `hf:"mlp"`
	Sparse *sharedMoE `hf:"mlp"`
}

// sharedMoE is a layer of experts beside one that every token uses.
type sharedMoE struct {
	Router  nn.Router   `hf:"gate"`
	Experts []nn.SwiGLU `hf:"experts"`
	Shared  *nn.SwiGLU  `hf:"shared_experts"`
	route   ops.RouteConfig
}

// newSharedMoE describes the layer.
func newSharedMoE(s Sizes, c SharedRoute, route ops.RouteConfig, correction, bias bool) *sharedMoE {
	m := &sharedMoE{Router: nn.NewRouter(s.Hidden, c.Experts, false, correction, s.InitRange), Experts: skipped(newExperts(c.Experts, s.Hidden, c.Inner, bias, s.activation(), s.InitRange)),
		route: route}
	if n := c.Shared.or(0); n > 0 {
		shared := nn.NewSwiGLU(s.Hidden, n*c.Inner, bias, s.InitRange)
		shared.Act = s.activation()
		m.Shared = &shared
	}
	return m
}

// add computes residual + the experts' output and releases x.
func (m *sharedMoE) add(t *nn.Tape, x, residual nn.Value, p *pass) nn.Value {
	r := m.Router.Route(t, x, m.route, p.aux)
	y := nn.SwiGLUExperts(t, x, residual, r, m.Experts)
	if m.Shared == nil {
		t.Release(x)
		return y
	}
	z := m.Shared.Add(t, x, y)
	t.Release(y)
	return z
}

func describeDeepseek(c DeepseekConfig, route ops.RouteConfig, three bool) description {
	sizes := nn.LatentSizes{Heads: c.Heads, NoPE: c.NoPE, RoPE: c.RoPE, Value: c.Value, QRank: c.QRank.or(0), KVRank: c.KVRank}
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) deepseekBlock {
		b := deepseekBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewLatentAttention(c.Hidden, sizes, c.AttentionBias, latentNormEps, c.scale(three), c.InitRange)}
		if i < c.FirstDense {
			dense := newGated(c.Sizes, c.MLPBias)
			b.Dense = &dense
		} else {
			b.Sparse = newSharedMoE(c.Sizes, c.SharedRoute, route, three, c.MLPBias)
		}
		return b
	})
	r := c.rope(c.RoPE, c.MaxPositions)
	r.Interleaved = c.Interleave || !three
	d.ropes = []nn.Rope{r}
	d.info.KVHeads, d.info.HeadDim, d.info.ValueDim = c.Heads, c.NoPE+c.RoPE, c.Value
	return d
}

func (b *deepseekBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := denseOrSparse(t, b.MLPNorm.Forward(t, h), h, b.Dense, b.Sparse, p)
	t.Release(h)
	return y
}
