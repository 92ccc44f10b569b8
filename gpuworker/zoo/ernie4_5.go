package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// Ernie45Config holds the keys of an Ernie4_5ForCausalLM config.json that change arithmetic.
type Ernie45Config struct {
	Sizes
	Rotary
	Eps  float64 `json:"rms_norm_eps"`
	Bias bool    `json:"use_bias"`
}

func ernie45Entries() []entry {
	return []entry{define("Ernie4_5ForCausalLM", "ernie4_5", Ernie45Config{Eps: 1e-5, Rotary: Rotary{RopeTheta: 500000}, Sizes: Sizes{Vocab: 103424, Hidden: 1024,
		Intermediate: 3072, Layers: 18, Heads: 16, KVHeads: some(2), HeadDim: some(128), MaxPositions: 131072, Pad: some[int64](0), InitRange: 0.02, Act: "silu", Tied: true}},
		nil, describeErnie45)}
}

// WithDefaults implements configuration.
func (c Ernie45Config) WithDefaults() Ernie45Config {
	c.Rotary = c.withDefaults()
	return c
}

func (c Ernie45Config) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Interleaved = true
	return r
}

// Validate implements configuration.
func (c Ernie45Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.rotary(c.table(), c.headDim())
	return p.err()
}

// dropouts implements configuration: there are no such keys.
func (Ernie45Config) dropouts() map[string]float64 { return nil }

// describeErnie45 is llama that rotates neighbours (modeling_ernie4_5.py).
func describeErnie45(c Ernie45Config) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) llamaBlock {
		return newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, c.geometry(), c.Bias, c.Bias, c.InitRange), c.Bias)
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}
