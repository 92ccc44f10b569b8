package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// GPT2Config holds the keys of a GPT2LMHeadModel or GPTBigCodeForCausalLM config.json that change arithmetic.
type GPT2Config struct {
	Sizes
	Eps          float64 `json:"layer_norm_epsilon"`
	AttnDropout  float64 `json:"attn_pdrop"`
	EmbdDropout  float64 `json:"embd_pdrop"`
	ResidDropout float64 `json:"resid_pdrop"`
	ScaleScores  bool    `json:"scale_attn_weights"`
	ScaleByLayer bool    `json:"scale_attn_by_inverse_layer_idx"`
	CrossAttends bool    `json:"add_cross_attention"`
	// MultiQuery shares one key and value head (bigcode).
	MultiQuery bool `json:"multi_query"`
}

// gpt2Names are the file's spellings.
func gpt2Names() map[string]string {
	return map[string]string{"n_embd": "hidden_size", "n_positions": "max_position_embeddings", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers",
		"n_inner": "intermediate_size", "activation_function": "hidden_act"}
}

func gpt2Defaults() GPT2Config {
	return GPT2Config{Eps: 1e-5, AttnDropout: 0.1, EmbdDropout: 0.1, ResidDropout: 0.1, ScaleScores: true, Sizes: Sizes{Vocab: 50257, Hidden: 768, Layers: 12, Heads: 12,
		MaxPositions: 1024, InitRange: 0.02, Act: "gelu_new", Tied: true}}
}

func gpt2Entries() []entry {
	return []entry{define("GPT2LMHeadModel", "gpt2", gpt2Defaults(), gpt2Names(), describeGPT2)}
}

// WithDefaults implements configuration.
func (c GPT2Config) WithDefaults() GPT2Config {
	c.KVHeads, c.HeadDim = maybe[int]{}, maybe[int]{}
	if c.MultiQuery {
		c.KVHeads = some(1)
	}
	if c.Intermediate == 0 {
		c.Intermediate = 4 * c.Hidden
	}
	return c
}

// Validate implements configuration.
func (c GPT2Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, gpt2Names())
	p.positive("layer_norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	p.is("add_cross_attention", c.CrossAttends)
	return p.err()
}

// dropouts implements configuration.
func (c GPT2Config) dropouts() map[string]float64 {
	return map[string]float64{"attn_pdrop": c.AttnDropout, "embd_pdrop": c.EmbdDropout, "resid_pdrop": c.ResidDropout}
}

// scale multiplies the scores of a layer.
func (c GPT2Config) scale(layer int) float64 {
	s := 1.0
	if c.ScaleScores {
		s = 1 / math.Sqrt(float64(c.headDim()))
	}
	if c.ScaleByLayer {
		s /= float64(layer + 1)
	}
	return s
}

// gpt2 is GPT2LMHeadModel of transformers (modeling_gpt2.py).
type gpt2 struct {
	Model struct {
		Embed     nn.Embedding `hf:"wte"`
		Positions nn.Embedding `hf:"wpe"`
		Layers    []gpt2Block  `hf:"h"`
		Norm      nn.Norm      `hf:"ln_f"`
	} `hf:"transformer"`
	Head nn.Linear `hf:"lm_head"`
}

type gpt2Block struct {
	AttnNorm nn.Norm `hf:"ln_1"`
	Attn     struct {
		QKV nn.Linear `hf:"c_attn"`
		O   nn.Linear `hf:"c_proj"`
		nn.Heads
	} `hf:"attn"`
	MLPNorm nn.Norm `hf:"ln_2"`
	MLP     struct {
		Up   nn.Linear `hf:"c_fc"`
		Down nn.Linear `hf:"c_proj"`
	} `hf:"mlp"`
	feedForward
}

func (b *gpt2Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	y := nn.FeedForward(t, b.MLPNorm.Forward(t, h), h, &b.MLP.Up, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

// describe is what gpt2 and bigcode share; linear makes their projections.
func (c GPT2Config) describe(layout ops.Layout, linear func(in, out int) nn.Linear) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	m := &gpt2{Head: c.output(false)}
	m.Model.Embed, m.Model.Positions, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), nn.NewEmbedding(c.MaxPositions, c.Hidden, c.InitRange), norm()
	d := description{root: m, info: c.info("transformer"), embed: &m.Model.Embed, positions: &m.Model.Positions, norm: &m.Model.Norm, head: &m.Head}
	d.attnDrop, d.embedDrop = some(c.AttnDropout), embedDrop(c.EmbdDropout)
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) gpt2Block {
		b := gpt2Block{AttnNorm: norm(), MLPNorm: norm(), feedForward: feedForward{c.activation()}}
		b.Attn.Heads = c.geometry()
		b.Attn.Layout, b.Attn.Scale = layout, c.scale(i)
		b.Attn.QKV, b.Attn.O = linear(c.Hidden, (c.Heads+2*c.kv())*c.headDim()), linear(c.Hidden, c.Hidden)
		b.MLP.Up, b.MLP.Down = linear(c.Hidden, c.Intermediate), linear(c.Intermediate, c.Hidden)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidDropout, c.ResidDropout)
		return b
	})
	return d
}

func describeGPT2(c GPT2Config) description {
	return c.describe(ops.FusedParts, func(in, out int) nn.Linear { return nn.NewConv1D(in, out, true, c.InitRange) })
}
