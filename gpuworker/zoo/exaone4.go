package zoo

import (
	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// Exaone4Config holds the keys of an Exaone4ForCausalLM config.json that change arithmetic.
type Exaone4Config struct {
	Sizes
	Rotary
	Eps     float64    `json:"rms_norm_eps"`
	Dropout float64    `json:"attention_dropout"`
	Window  maybe[int] `json:"sliding_window"`
	// Pattern is the distance of layers without a window, where LayerTypes does not say which; only a number is understood.
	Pattern    json.RawMessage `json:"sliding_window_pattern"`
	LayerTypes []string        `json:"layer_types"`
}

func exaone4Entries() []entry {
	return []entry{define("Exaone4ForCausalLM", "exaone4", Exaone4Config{Eps: 1e-5, Window: some(4096), Pattern: json.RawMessage("4"), Rotary: Rotary{RopeTheta: 10000},
		Sizes: Sizes{Vocab: 102400, Hidden: 4096, Intermediate: 16384, Layers: 32, Heads: 32, KVHeads: some(32), MaxPositions: 2048, InitRange: 0.02, Act: "silu"}},
		nil, describeExaone4)}
}

// WithDefaults implements configuration.
func (c Exaone4Config) WithDefaults() Exaone4Config {
	c.Rotary = c.withDefaults()
	var every int
	if err := json.Unmarshal(c.Pattern, &every); c.LayerTypes == nil && (err == nil && every > 0 || !c.Window.ok) {
		c.LayerTypes = patternOf(c.Layers, func(i int) bool { return c.Window.ok && (i+1)%every != 0 })
	}
	return c
}

// Validate implements configuration.
func (c Exaone4Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	if c.LayerTypes == nil {
		p.unsupported("sliding_window_pattern", "%s is not a number; give layer_types", c.Pattern)
	} else {
		p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	}
	return p.err()
}

// dropouts implements configuration.
func (c Exaone4Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeExaone4 has olmo2's norms, a norm on each query and key head, and no rotation in layers that see everything where others have
// a window (modeling_exaone4.py).
func describeExaone4(c Exaone4Config) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) postNormBlock {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		h.NoRope = c.Window.ok && h.Window == 0
		a := nn.NewAttention(c.Hidden, h, false, false, c.InitRange)
		a.QNorm, a.KNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0), nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
		return newPostNormBlock(c.Sizes, c.Eps, a)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
