package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// SmolLM3Config holds the keys of a SmolLM3ForCausalLM config.json that change arithmetic.
type SmolLM3Config struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	MLPBias       bool    `json:"mlp_bias"`
	// Rope is 1 for layers that rotate (the key's name notwithstanding); without it every RopeInterval-th does not.
	Rope         []int      `json:"no_rope_layers"`
	RopeInterval int        `json:"no_rope_layer_interval"`
	UseWindow    bool       `json:"use_sliding_window"`
	Window       maybe[int] `json:"sliding_window"`
	LayerTypes   []string   `json:"layer_types"`
}

func smollm3Entries() []entry {
	return []entry{define("SmolLM3ForCausalLM", "smollm3", SmolLM3Config{Eps: 1e-6, RopeInterval: 4, Rotary: Rotary{RopeTheta: 2e6}, Sizes: Sizes{Vocab: 128256,
		Hidden: 2048, Intermediate: 11008, Layers: 36, Heads: 16, KVHeads: some(4), MaxPositions: 32768, Pad: some[int64](128004), InitRange: 0.02, Act: "silu", Tied: true}},
		nil, describeSmolLM3)}
}

// WithDefaults implements configuration. Layer types of the file count whatever use_sliding_window says, as in transformers.
func (c SmolLM3Config) WithDefaults() SmolLM3Config {
	c.Rotary = c.withDefaults()
	if c.Rope == nil && c.RopeInterval > 0 {
		for i := range len(patternOf(c.Layers, func(int) bool { return false })) {
			v := 1
			if (i+1)%c.RopeInterval == 0 {
				v = 0
			}
			c.Rope = append(c.Rope, v)
		}
	}
	if c.LayerTypes == nil {
		c.LayerTypes = patternOf(c.Layers, func(i int) bool { return c.UseWindow && c.Window.ok && i < len(c.Rope) && c.Rope[i] == 0 })
	}
	return c
}

// Validate implements configuration.
func (c SmolLM3Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	if len(c.Rope) != c.Layers {
		p.bad("no_rope_layers", "%d entries for %d layers", len(c.Rope), c.Layers)
	}
	return p.err()
}

// dropouts implements configuration.
func (c SmolLM3Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeSmolLM3 is llama without rotation in some layers (modeling_smollm3.py).
func describeSmolLM3(c SmolLM3Config) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) llamaBlock {
		h := c.geometry()
		h.Window, h.NoRope = windowOf(c.LayerTypes[i], c.Window), c.Rope[i] == 0
		return newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange), c.MLPBias)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
