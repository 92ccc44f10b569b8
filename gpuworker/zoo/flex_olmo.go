package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

func flexOlmoEntries() []entry {
	return []entry{define("FlexOlmoForCausalLM", "flex_olmo", FlexOlmoConfig{OlmoeConfig{Eps: 1e-6, Experts: 7, TopK: 5, RouterAux: RouterAux{AuxCoef: 0.01},
		Rotary: Rotary{RopeTheta: 500000}, Sizes: Sizes{Vocab: 100352, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 4096,
			Pad: some[int64](100277), InitRange: 0.02, Act: "silu"}}}, nil, describeFlexOlmo)}
}

// FlexOlmoConfig holds the keys of a FlexOlmoForCausalLM config.json that change arithmetic: those of OLMoE, but heads may be of any length.
type FlexOlmoConfig struct{ OlmoeConfig }

// WithDefaults implements configuration.
func (c FlexOlmoConfig) WithDefaults() FlexOlmoConfig {
	c.Rotary = c.withDefaults()
	c.Clip = maybe[float64]{}
	return c
}

// flexOlmoBlock is FlexOlmoDecoderLayer of transformers (modeling_flex_olmo.py): norms follow attention and experts.
type flexOlmoBlock struct {
	Attn     nn.Attention `hf:"self_attn"`
	MLP      linearMoE    `hf:"mlp"`
	AttnNorm nn.Norm      `hf:"post_attention_layernorm"`
	MLPNorm  nn.Norm      `hf:"post_feedforward_layernorm"`
}

func describeFlexOlmo(c FlexOlmoConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) flexOlmoBlock {
		b := flexOlmoBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange)}
		q, k := nn.NewRMSNorm(c.Heads*c.headDim(), c.Eps), nn.NewRMSNorm(c.kv()*c.headDim(), c.Eps)
		b.Attn.QNorm, b.Attn.KNorm = &q, &k
		b.MLP = linearMoE{Gate: nn.NewLinear(c.Hidden, c.Experts, false, c.InitRange),
			Experts: newExperts(c.Experts, c.Hidden, c.Intermediate, false, c.activation(), c.InitRange),
			route:   ops.RouteConfig{Experts: c.Experts, K: c.TopK, Score: kernels.RouteSoftmax, Normalize: c.Normalize}}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	c.balance(&d, c.Experts)
	return d
}

func (b *flexOlmoBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	add := func(residual, y nn.Value, norm *nn.Norm) nn.Value {
		n := norm.Forward(t, y)
		t.Release(y)
		z := ops.Add(t, residual, n, 1)
		t.Release(n)
		return z
	}
	t.Keep(x) // attention releases its input
	h := add(x, b.Attn.Add(t, x, nn.Value{}, p.Positions, p.layer(layer)), &b.AttnNorm)
	t.Keep(h)
	y := add(h, b.MLP.add(t, h, nn.Value{}, p), &b.MLPNorm)
	t.Release(h)
	return y
}
