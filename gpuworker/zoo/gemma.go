package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// GemmaConfig holds the keys of a GemmaForCausalLM config.json that change arithmetic.
type GemmaConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
}

func gemmaEntries() []entry {
	return []entry{define("GemmaForCausalLM", "gemma", GemmaConfig{Eps: 1e-6, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 256000, Hidden: 3072,
		Intermediate: 24576, Layers: 28, Heads: 16, KVHeads: some(16), HeadDim: some(256), MaxPositions: 8192, Pad: some[int64](0), InitRange: 0.02, Tied: true,
		Act: "gelu_pytorch_tanh"}}, nil, describeGemma)}
}

// WithDefaults implements configuration.
func (c GemmaConfig) WithDefaults() GemmaConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c GemmaConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c GemmaConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// gemmaScale multiplies embeddings.
func gemmaScale(hidden int) float32 { return float32(math.Sqrt(float64(hidden))) }

// describeGemma is llama with norms that multiply by 1+w and scaled embeddings (modeling_gemma.py).
func describeGemma(c GemmaConfig) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps).OnePlus() }
	d := newDecoder(c.Sizes, norm(), func(int) llamaBlock {
		b := newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange), false)
		b.AttnNorm, b.MLPNorm = norm(), norm()
		return b
	})
	d.embed.Scale = gemmaScale(c.Hidden)
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
