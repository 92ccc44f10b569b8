package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// SeedOssConfig holds the keys of a SeedOssForCausalLM config.json that change arithmetic.
type SeedOssConfig struct {
	Sizes
	Rotary
	Eps             float64 `json:"rms_norm_eps"`
	Dropout         float64 `json:"attention_dropout"`
	ResidualDropout float64 `json:"residual_dropout"`
	AttentionBias   bool    `json:"attention_bias"`
	OutBias         bool    `json:"attention_out_bias"`
	MLPBias         bool    `json:"mlp_bias"`
}

func seedOssEntries() []entry {
	return []entry{define("SeedOssForCausalLM", "seed_oss", SeedOssConfig{Eps: 1e-6, Dropout: 0.1, ResidualDropout: 0.1, AttentionBias: true,
		Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 155136, Hidden: 4096, Intermediate: 27648, Layers: 64, Heads: 80, KVHeads: some(8), HeadDim: some(128),
			MaxPositions: 524288, Pad: some[int64](1), InitRange: 0.02, Act: "silu"}}, nil, describeSeedOss)}
}

// WithDefaults implements configuration.
func (c SeedOssConfig) WithDefaults() SeedOssConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c SeedOssConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c SeedOssConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "residual_dropout": c.ResidualDropout}
}

// describeSeedOss is llama with a bias of its own on the output projection (modeling_seed_oss.py).
func describeSeedOss(c SeedOssConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) llamaBlock {
		b := newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.OutBias, c.InitRange), c.MLPBias)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidualDropout, c.ResidualDropout)
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
