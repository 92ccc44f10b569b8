package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// Dots1Config holds the keys of a Dots1ForCausalLM config.json that change arithmetic.
type Dots1Config struct {
	Sizes
	Rotary
	SharedRoute
	Eps           float64    `json:"rms_norm_eps"`
	AttentionBias bool       `json:"attention_bias"`
	Window        maybe[int] `json:"sliding_window"`
	FullLayers    int        `json:"max_window_layers"`
	LayerTypes    []string   `json:"layer_types"`
	Dropout       float64    `json:"attention_dropout"`
}

func dots1Entries() []entry {
	return []entry{define("Dots1ForCausalLM", "dots1", Dots1Config{Eps: 1e-6, Window: some(4096), FullLayers: 62, Rotary: Rotary{RopeTheta: 10000},
		SharedRoute: SharedRoute{Inner: 1408, Groups: some(1), TopKGroups: some(1), Scale: 1}, Sizes: Sizes{Vocab: 152064, Hidden: 4608, Intermediate: 10944,
			Layers: 62, Heads: 32, KVHeads: some(32), MaxPositions: 2048, InitRange: 0.02, Act: "silu"}}, nil, describeDots1)}
}

// WithDefaults implements configuration.
func (c Dots1Config) WithDefaults() Dots1Config {
	c.Rotary = c.withDefaults()
	if c.LayerTypes == nil {
		for i := range c.Layers {
			kind := "full_attention"
			if c.Window.ok && i >= c.FullLayers {
				kind = "sliding_attention"
			}
			c.LayerTypes = append(c.LayerTypes, kind)
		}
	}
	return c
}

// Validate implements configuration.
func (c Dots1Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	c.check(&p, 2)
	return p.err()
}

// dropouts implements configuration.
func (c Dots1Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeDots1 is Dots1DecoderLayer of transformers (modeling_dots1.py): GLM-4-MoE's layers with norms of queries and keys, a bias on
// the output projection too, and windows.
func describeDots1(c Dots1Config) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) glm4MoEBlock {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		b := glm4MoEBlock{AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps), MLPNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
			Attn: nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange)}
		b.Attn.QNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
		b.Attn.KNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
		if i < c.FirstDense {
			dense := newGated(c.Sizes, false)
			b.Dense = &dense
		} else {
			b.Sparse = newSharedMoE(c.Sizes, c.SharedRoute, c.sigmoidRoute(), true, false)
		}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
