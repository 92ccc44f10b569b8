package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// Starcoder2Config holds the keys of a Starcoder2ForCausalLM config.json that change arithmetic.
type Starcoder2Config struct {
	Sizes
	Rotary
	Eps              float64    `json:"norm_epsilon"`
	Dropout          float64    `json:"attention_dropout"`
	ResidualDropout  float64    `json:"residual_dropout"`
	EmbeddingDropout float64    `json:"embedding_dropout"`
	Bias             bool       `json:"use_bias"`
	Window           maybe[int] `json:"sliding_window"`
}

func starcoder2Entries() []entry {
	return []entry{define("Starcoder2ForCausalLM", "starcoder2", Starcoder2Config{Eps: 1e-5, Bias: true, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 49152,
		Hidden: 3072, Intermediate: 12288, Layers: 30, Heads: 24, KVHeads: some(2), MaxPositions: 4096, InitRange: 0.018042, Act: "gelu_pytorch_tanh", Tied: true}},
		nil, describeStarcoder2)}
}

// WithDefaults implements configuration.
func (c Starcoder2Config) WithDefaults() Starcoder2Config {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c Starcoder2Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	return p.err()
}

// dropouts implements configuration.
func (c Starcoder2Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "residual_dropout": c.ResidualDropout, "embedding_dropout": c.EmbeddingDropout}
}

// starcoder2Block is Starcoder2DecoderLayer of transformers (modeling_starcoder2.py): layer norms, a feed-forward layer without gate.
type starcoder2Block struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      struct {
		Up   nn.Linear `hf:"c_fc"`
		Down nn.Linear `hf:"c_proj"`
	} `hf:"mlp"`
	feedForward
}

func (b *starcoder2Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := nn.FeedForward(t, b.MLPNorm.Forward(t, h), h, &b.MLP.Up, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describeStarcoder2(c Starcoder2Config) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	h := c.geometry()
	h.Window = c.Window.or(0)
	d := newDecoder(c.Sizes, norm(), func(i int) starcoder2Block {
		b := starcoder2Block{AttnNorm: norm(), MLPNorm: norm(), Attn: nn.NewAttention(c.Hidden, h, c.Bias, c.Bias, c.InitRange), feedForward: feedForward{c.activation()}}
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, c.Bias)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidualDropout, c.ResidualDropout)
		return b
	})
	d.embedDrop = embedDrop(c.EmbeddingDropout)
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
