package zoo

import (
	"encoding/json"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// perLayer is a number that is the same for all layers, or a list of one a layer.
type perLayer []int

// UnmarshalJSON implements json.Unmarshaler.
func (l *perLayer) UnmarshalJSON(b []byte) error {
	var one int
	if json.Unmarshal(b, &one) == nil {
		*l = perLayer{one}
		return nil
	}
	var all []int
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	*l = all
	return nil
}

// at is the number of a layer.
func (l perLayer) at(layer int) int {
	if len(l) == 1 {
		return l[0]
	}
	return l[layer]
}

// HunYuanMoEConfig holds the keys of a HunYuanMoEV1ForCausalLM config.json that change arithmetic.
type HunYuanMoEConfig struct {
	HunYuanConfig
	Experts perLayer `json:"num_experts"`
	TopK    perLayer `json:"moe_topk"`
}

func hunyuanMoEEntries() []entry {
	return []entry{define("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", HunYuanMoEConfig{Experts: perLayer{1}, TopK: perLayer{1},
		HunYuanConfig: HunYuanConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 290943, Hidden: 4096, Intermediate: 11008, Layers: 32,
			Heads: 32, MaxPositions: 2048, Pad: some[int64](0), InitRange: 0.02, Act: "silu"}}}, nil, describeHunYuanMoE)}
}

// WithDefaults implements configuration.
func (c HunYuanMoEConfig) WithDefaults() HunYuanMoEConfig {
	c.HunYuanConfig = c.HunYuanConfig.WithDefaults()
	return c
}

// Validate implements configuration.
func (c HunYuanMoEConfig) Validate() error {
	if err := c.HunYuanConfig.Validate(); err != nil {
		return err
	}
	var p problems
	for key, l := range map[string]perLayer{"num_experts": c.Experts, "moe_topk": c.TopK} {
		if len(l) != 1 && len(l) != c.Layers {
			p.bad(key, "has %d numbers for %d layers", len(l), c.Layers)
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	for i := range c.Layers {
		p.experts(fmt.Sprintf("num_experts[%d]", i), c.Experts.at(i), fmt.Sprintf("moe_topk[%d]", i), c.TopK.at(i))
	}
	return p.err()
}

// hunyuanMoEBlock is HunYuanMoEV1DecoderLayer of transformers (modeling_hunyuan_v1_moe.py).
type hunyuanMoEBlock struct {
	AttnNorm nn.Norm     `hf:"input_layernorm"`
	Attn     hunyuanAttn `hf:"self_attn"`
	MLPNorm  nn.Norm     `hf:"post_attention_layernorm"`
	MoE      struct {
		Gate struct {
			WG nn.Linear `hf:"wg"`
		} `hf:"gate"`
		Experts []nn.SwiGLU `hf:"experts"`
		Shared  nn.SwiGLU   `hf:"shared_mlp"`
	} `hf:"mlp"`
	route ops.RouteConfig
}

func (b *hunyuanMoEBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.add(t, b.AttnNorm.Forward(t, x), x, p, layer)
	n := b.MLPNorm.Forward(t, h)
	r := nn.RouteLinear(t, &b.MoE.Gate.WG, n, b.route, p.aux)
	y := nn.SwiGLUExperts(t, n, h, r, b.MoE.Experts)
	z := b.MoE.Shared.Add(t, n, y)
	t.Release(y, h)
	return z
}

func describeHunYuanMoE(c HunYuanMoEConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) hunyuanMoEBlock {
		b := hunyuanMoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps), Attn: c.attention(),
			route: ops.RouteConfig{Experts: c.Experts.at(i), K: c.TopK.at(i), Score: kernels.RouteSoftmax, Normalize: true}}
		b.MoE.Gate.WG = nn.NewLinear(c.Hidden, c.Experts.at(i), false, c.InitRange)
		b.MoE.Experts = skipped(newExperts(c.Experts.at(i), c.Hidden, c.Intermediate, false, c.activation(), c.InitRange))
		b.MoE.Shared = newGated(c.Sizes, false)
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
