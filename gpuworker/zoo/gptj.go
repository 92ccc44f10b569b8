package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// GPTJConfig holds the keys of a GPTJForCausalLM config.json that change arithmetic.
type GPTJConfig struct {
	Sizes
	Eps          float64    `json:"layer_norm_epsilon"`
	AttnDropout  float64    `json:"attn_pdrop"`
	EmbdDropout  float64    `json:"embd_pdrop"`
	ResidDropout float64    `json:"resid_pdrop"`
	RotaryDim    maybe[int] `json:"rotary_dim"`
}

func gptjEntries() []entry {
	return []entry{define("GPTJForCausalLM", "gptj", GPTJConfig{Eps: 1e-5, RotaryDim: some(64), Sizes: Sizes{Vocab: 50400, Hidden: 4096, Layers: 28, Heads: 16,
		MaxPositions: 2048, InitRange: 0.02, Act: "gelu_new"}}, gpt2Names(), describeGPTJ)}
}

// WithDefaults implements configuration.
func (c GPTJConfig) WithDefaults() GPTJConfig {
	c.KVHeads, c.HeadDim = maybe[int]{}, maybe[int]{}
	if c.Intermediate == 0 {
		c.Intermediate = 4 * c.Hidden
	}
	return c
}

func (c GPTJConfig) table() nn.Rope {
	return nn.Rope{Dim: c.RotaryDim.or(0), Interleaved: true, Theta: 10000, MaxPos: c.MaxPositions}
}

// Validate implements configuration.
func (c GPTJConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, gpt2Names())
	p.positive("layer_norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	p.is("rotary_dim", !c.RotaryDim.ok)
	if c.RotaryDim.ok {
		p.rotary(c.table(), c.headDim())
	}
	return p.err()
}

// dropouts implements configuration.
func (c GPTJConfig) dropouts() map[string]float64 {
	return map[string]float64{"attn_pdrop": c.AttnDropout, "embd_pdrop": c.EmbdDropout, "resid_pdrop": c.ResidDropout}
}

// gptj is GPTJForCausalLM of transformers (modeling_gptj.py).
type gptj struct {
	Model struct {
		Embed  nn.Embedding `hf:"wte"`
		Layers []gptjBlock  `hf:"h"`
		Norm   nn.Norm      `hf:"ln_f"`
	} `hf:"transformer"`
	Head nn.Linear `hf:"lm_head"`
}

// gptjBlock has one norm, and attention and feed-forward layer side by side.
type gptjBlock struct {
	Norm nn.Norm `hf:"ln_1"`
	Attn struct {
		K nn.Linear `hf:"k_proj"` // in transformers' order, in which PEFT draws adapters
		V nn.Linear `hf:"v_proj"`
		Q nn.Linear `hf:"q_proj"`
		O nn.Linear `hf:"out_proj"`
		nn.Heads
	} `hf:"attn"`
	MLP struct {
		Up   nn.Linear `hf:"fc_in"`
		Down nn.Linear `hf:"fc_out"`
	} `hf:"mlp"`
	feedForward
}

func (b *gptjBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	l := nn.Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O}
	return parallel(t, x, b.Norm.Forward(t, x),
		func(h, residual nn.Value) nn.Value { return a.Add(t, h, residual, l, p.Positions, p.layer(layer)) },
		func(h, residual nn.Value) nn.Value {
			return nn.FeedForward(t, h, residual, &b.MLP.Up, &b.MLP.Down, b.act)
		})
}

func describeGPTJ(c GPTJConfig) description {
	m := &gptj{Head: c.output(true)}
	m.Model.Embed, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), nn.NewLayerNorm(c.Hidden, c.Eps, true)
	d := description{root: m, info: c.info("transformer"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head, ropes: []nn.Rope{c.table()}}
	d.attnDrop, d.embedDrop = some(c.AttnDropout), embedDrop(c.EmbdDropout)
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) gptjBlock {
		b := gptjBlock{Norm: nn.NewLayerNorm(c.Hidden, c.Eps, true), feedForward: feedForward{c.activation()}}
		a := nn.NewAttention(c.Hidden, c.geometry(), false, false, c.InitRange)
		b.Attn.Q, b.Attn.K, b.Attn.V, b.Attn.O, b.Attn.Heads = a.Q, a.K, a.V, a.O, a.Heads
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, true)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidDropout, c.ResidDropout)
		return b
	})
	return d
}
