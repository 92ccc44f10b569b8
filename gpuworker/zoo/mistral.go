package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// MistralConfig holds the keys of a MistralForCausalLM config.json that change arithmetic.
type MistralConfig struct {
	Sizes
	Rotary
	Eps     float64 `json:"rms_norm_eps"`
	Dropout float64 `json:"attention_dropout"`
	// Window is how many keys a query sees; null is all.
	Window maybe[int] `json:"sliding_window"`
}

func mistralEntries() []entry {
	return []entry{define("MistralForCausalLM", "mistral", MistralConfig{Eps: 1e-6, Window: some(4096), Rotary: Rotary{RopeTheta: 10000},
		Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 14336, Layers: 32, Heads: 32, KVHeads: some(8), MaxPositions: 131072, InitRange: 0.02, Act: "silu"}},
		nil, describeMistral)}
}

// WithDefaults implements configuration.
func (c MistralConfig) WithDefaults() MistralConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c MistralConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	return p.err()
}

// dropouts implements configuration.
func (c MistralConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeMistral is llama with a sliding window (modeling_mistral.py).
func describeMistral(c MistralConfig) description {
	h := c.geometry()
	h.Window = c.Window.or(0)
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) llamaBlock {
		return newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, h, false, false, c.InitRange), false)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
