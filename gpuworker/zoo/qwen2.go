package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// QwenConfig holds the keys of a Qwen2ForCausalLM or Qwen3ForCausalLM config.json that change arithmetic.
type QwenConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	// UseWindow turns the window on for layers from MaxWindowLayers on, unless LayerTypes says which.
	UseWindow       bool       `json:"use_sliding_window"`
	Window          maybe[int] `json:"sliding_window"`
	MaxWindowLayers int        `json:"max_window_layers"`
	LayerTypes      []string   `json:"layer_types"`
}

func qwenDefaults() QwenConfig {
	return QwenConfig{Eps: 1e-6, Window: some(4096), MaxWindowLayers: 28, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 151936, Hidden: 4096,
		Intermediate: 22016, Layers: 32, Heads: 32, KVHeads: some(32), MaxPositions: 32768, InitRange: 0.02, Act: "silu"}}
}

func qwen2Entries() []entry {
	return []entry{define("Qwen2ForCausalLM", "qwen2", qwenDefaults(), nil, describeQwen2)}
}

// WithDefaults implements configuration.
func (c QwenConfig) WithDefaults() QwenConfig {
	c.Rotary = c.withDefaults()
	if !c.UseWindow {
		c.Window = maybe[int]{}
	}
	if c.LayerTypes == nil {
		c.LayerTypes = patternOf(c.Layers, func(i int) bool { return c.Window.ok && i >= c.MaxWindowLayers })
	}
	return c
}

// Validate implements configuration.
func (c QwenConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	return p.err()
}

// dropouts implements configuration.
func (c QwenConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeQwen2 is llama with biases on q, k and v, and windows on some layers (modeling_qwen2.py).
func describeQwen2(c QwenConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) llamaBlock {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		return newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, h, true, false, c.InitRange), false)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
