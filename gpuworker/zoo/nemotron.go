package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// NemotronConfig holds the keys of a NemotronForCausalLM config.json that change arithmetic.
type NemotronConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	MLPBias       bool    `json:"mlp_bias"`
}

func nemotronEntries() []entry {
	return []entry{define("NemotronForCausalLM", "nemotron", NemotronConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000, Partial: some(0.5)}, Sizes: Sizes{Vocab: 256000,
		Hidden: 6144, Intermediate: 24576, Layers: 32, Heads: 48, MaxPositions: 4096, InitRange: 0.0134, Act: "relu2"}}, nil, describeNemotron)}
}

// WithDefaults implements configuration. The model rotates without scaling whatever the file says, as transformers does.
func (c NemotronConfig) WithDefaults() NemotronConfig {
	c.Rotary = c.withDefaults()
	c.RopeScaling = nil
	return c
}

func (c NemotronConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Odd = true
	return r
}

// Validate implements configuration.
func (c NemotronConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c NemotronConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// nemotronBlock is NemotronDecoderLayer of transformers (modeling_nemotron.py): layer norms that multiply by 1+w, squared ReLU.
type nemotronBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      struct {
		Up   nn.Linear `hf:"up_proj"`
		Down nn.Linear `hf:"down_proj"`
	} `hf:"mlp"`
	feedForward
}

func (b *nemotronBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := nn.FeedForward(t, b.MLPNorm.Forward(t, h), h, &b.MLP.Up, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describeNemotron(c NemotronConfig) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true).OnePlus() }
	d := newDecoder(c.Sizes, norm(), func(int) nemotronBlock {
		b := nemotronBlock{AttnNorm: norm(), MLPNorm: norm(), Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange),
			feedForward: feedForward{c.activation()}}
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, c.MLPBias)
		return b
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}
