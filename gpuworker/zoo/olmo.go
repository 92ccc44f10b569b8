package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// OlmoConfig holds the keys of an OlmoForCausalLM config.json that change arithmetic.
type OlmoConfig struct {
	Sizes
	Rotary
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	// Clip bounds queries, keys and values.
	Clip maybe[float64] `json:"clip_qkv"`
}

func olmoEntries() []entry {
	return []entry{define("OlmoForCausalLM", "olmo", OlmoConfig{Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 50304, Hidden: 4096, Intermediate: 11008,
		Layers: 32, Heads: 32, MaxPositions: 2048, Pad: some[int64](1), InitRange: 0.02, Act: "silu"}}, nil, describeOlmo)}
}

// WithDefaults implements configuration.
func (c OlmoConfig) WithDefaults() OlmoConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c OlmoConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	if c.Clip.ok {
		p.positive("clip_qkv", c.Clip.v)
	}
	return p.err()
}

// dropouts implements configuration.
func (c OlmoConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// describeOlmo is llama with layer norms that have no parameters and clamped q, k and v (modeling_olmo.py).
func describeOlmo(c OlmoConfig) description {
	norm := func() nn.Norm {
		n := nn.NewLayerNorm(c.Hidden, 1e-5, false)
		n.Weight = nil
		return n
	}
	d := newDecoder(c.Sizes, norm(), func(int) llamaBlock {
		a := nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange)
		a.Clip = float32(c.Clip.or(0))
		return llamaBlock{AttnNorm: norm(), Attn: a, MLPNorm: norm(), MLP: newGated(c.Sizes, false)}
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
