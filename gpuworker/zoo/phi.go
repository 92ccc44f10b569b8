package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// PhiConfig holds the keys of a PhiForCausalLM config.json that change arithmetic.
type PhiConfig struct {
	Sizes
	Rotary
	Eps          float64 `json:"layer_norm_eps"`
	Dropout      float64 `json:"attention_dropout"`
	ResidDropout float64 `json:"resid_pdrop"`
	EmbdDropout  float64 `json:"embd_pdrop"`
	QKNorm       bool    `json:"qk_layernorm"`
}

func phiEntries() []entry {
	return []entry{define("PhiForCausalLM", "phi", PhiConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000, Partial: some(0.5)}, Sizes: Sizes{Vocab: 51200, Hidden: 2048,
		Intermediate: 8192, Layers: 24, Heads: 32, MaxPositions: 2048, InitRange: 0.02, Act: "gelu_new"}}, nil, describePhi)}
}

// WithDefaults implements configuration.
func (c PhiConfig) WithDefaults() PhiConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c PhiConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("layer_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c PhiConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "resid_pdrop": c.ResidDropout, "embd_pdrop": c.EmbdDropout}
}

// phi is PhiForCausalLM of transformers (modeling_phi.py).
type phi struct {
	Model struct {
		Embed  nn.Embedding `hf:"embed_tokens"`
		Layers []phiBlock   `hf:"layers"`
		Norm   nn.Norm      `hf:"final_layernorm"`
	} `hf:"model"`
	Head nn.Linear `hf:"lm_head"`
}

// phiBlock has one norm, and attention and feed-forward layer side by side.
type phiBlock struct {
	Norm nn.Norm `hf:"input_layernorm"`
	Attn struct {
		Q     nn.Linear `hf:"q_proj"`
		K     nn.Linear `hf:"k_proj"`
		V     nn.Linear `hf:"v_proj"`
		O     nn.Linear `hf:"dense"`
		QNorm *nn.Norm  `hf:"q_layernorm"`
		KNorm *nn.Norm  `hf:"k_layernorm"`
		nn.Heads
	} `hf:"self_attn"`
	MLP struct {
		Up   nn.Linear `hf:"fc1"`
		Down nn.Linear `hf:"fc2"`
	} `hf:"mlp"`
	feedForward
}

func (b *phiBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	l := nn.Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O}
	if a.QNorm != nil {
		l.QNorm, l.KNorm = a.QNorm, a.KNorm
	}
	return parallel(t, x, b.Norm.Forward(t, x),
		func(h, residual nn.Value) nn.Value { return a.Add(t, h, residual, l, p.Positions, p.layer(layer)) },
		func(h, residual nn.Value) nn.Value {
			return nn.FeedForward(t, h, residual, &b.MLP.Up, &b.MLP.Down, b.act)
		})
}

func describePhi(c PhiConfig) description {
	m := &phi{Head: c.output(true)}
	m.Model.Embed = c.tokens(c.Hidden)
	m.Model.Norm = nn.NewLayerNorm(c.Hidden, c.Eps, true)
	d := description{root: m, info: c.info("model"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head,
		ropes: []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}}
	d.embedDrop = embedDrop(c.EmbdDropout)
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) phiBlock {
		b := phiBlock{Norm: nn.NewLayerNorm(c.Hidden, c.Eps, true), feedForward: feedForward{c.activation()}}
		a := nn.NewAttention(c.Hidden, c.geometry(), true, true, c.InitRange)
		b.Attn.Q, b.Attn.K, b.Attn.V, b.Attn.O, b.Attn.Heads = a.Q, a.K, a.V, a.O, a.Heads
		if c.QKNorm {
			b.Attn.QNorm, b.Attn.KNorm = nn.NewLayerNorm(c.headDim(), c.Eps, true).PerHead(c.headDim(), 0), nn.NewLayerNorm(c.headDim(), c.Eps, true).PerHead(c.headDim(), 0)
		}
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, true)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidDropout, c.ResidDropout)
		return b
	})
	return d
}
