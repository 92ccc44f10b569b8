package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// FalconConfig holds the keys of a FalconForCausalLM config.json that change arithmetic.
type FalconConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"layer_norm_epsilon"`
	Dropout       float64 `json:"attention_dropout"`
	HiddenDropout float64 `json:"hidden_dropout"`
	ALiBi         bool    `json:"alibi"`
	// NewArch groups queries (falcon 40b); otherwise MultiQuery shares one key and value head.
	NewArch    bool       `json:"new_decoder_architecture"`
	MultiQuery bool       `json:"multi_query"`
	Parallel   bool       `json:"parallel_attn"`
	Norms      maybe[int] `json:"num_ln_in_parallel_attn"`
	Bias       bool       `json:"bias"`
	KVs        maybe[int] `json:"num_kv_heads"`
	// Implementation is transformers' choice of attention code; "eager" adds ALiBi twice.
	Implementation string `json:"attn_implementation"`
}

// falconNames are the file's spellings.
func falconNames() map[string]string {
	return map[string]string{"ffn_hidden_size": "intermediate_size", "activation": "hidden_act", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
		"n_embed": "hidden_size", "n_head_kv": "num_kv_heads"}
}

func falconEntries() []entry {
	return []entry{define("FalconForCausalLM", "falcon", FalconConfig{Eps: 1e-5, MultiQuery: true, Parallel: true, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{
		Vocab: 65024, Hidden: 4544, Layers: 32, Heads: 71, MaxPositions: 2048, InitRange: 0.02, Act: "gelu", Tied: true}}, falconNames(), describeFalcon)}
}

// WithDefaults implements configuration.
func (c FalconConfig) WithDefaults() FalconConfig {
	c.Rotary = c.withDefaults()
	c.HeadDim, c.KVHeads = maybe[int]{}, maybe[int]{}
	switch {
	case c.NewArch:
		c.KVHeads = c.KVs
		if !c.Norms.ok {
			c.Norms = some(2)
		}
	case c.MultiQuery:
		c.KVHeads = some(1)
	}
	if c.Intermediate == 0 {
		c.Intermediate = 4 * c.Hidden
	}
	return c
}

// Validate implements configuration.
func (c FalconConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, falconNames())
	p.positive("layer_norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	if !c.ALiBi {
		p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	}
	p.is("parallel_attn", c.NewArch && !c.Parallel)
	p.is("num_ln_in_parallel_attn", c.twoNorms() && !c.NewArch)
	return p.err()
}

// dropouts implements configuration.
func (c FalconConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "hidden_dropout": c.HiddenDropout}
}

// twoNorms says that attention and feed-forward layer side by side each have a norm.
func (c FalconConfig) twoNorms() bool { return c.Parallel && c.Norms.or(1) == 2 }

// falcon is FalconForCausalLM of transformers (modeling_falcon.py).
type falcon struct {
	Model struct {
		Embed  nn.Embedding  `hf:"word_embeddings"`
		Layers []falconBlock `hf:"h"`
		Norm   nn.Norm       `hf:"ln_f"`
	} `hf:"transformer"`
	Head nn.Linear `hf:"lm_head"`
}

// falconBlock has one of three sets of norms: Norm alone (side by side), AttnNorm and MLPNorm (side by side), Norm and PostNorm (one
// after the other).
type falconBlock struct {
	Norm     *nn.Norm `hf:"input_layernorm"`
	PostNorm *nn.Norm `hf:"post_attention_layernorm"`
	AttnNorm *nn.Norm `hf:"ln_attn"`
	MLPNorm  *nn.Norm `hf:"ln_mlp"`
	Attn     struct {
		QKV nn.Linear `hf:"query_key_value"`
		O   nn.Linear `hf:"dense"`
		nn.Heads
	} `hf:"self_attention"`
	MLP struct {
		Up   nn.Linear `hf:"dense_h_to_4h"`
		Down nn.Linear `hf:"dense_4h_to_h"`
	} `hf:"mlp"`
	feedForward
	// drop acts on the sum of branches that are side by side.
	drop *nn.Dropout
}

func (b *falconBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	attn := func(h, residual nn.Value) nn.Value {
		return a.Add(t, h, residual, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	}
	mlp := func(h, residual nn.Value) nn.Value {
		return nn.FeedForward(t, h, residual, &b.MLP.Up, &b.MLP.Down, b.act)
	}
	var h, y nn.Value
	to := x
	if b.drop.Acts(t) {
		to = nn.Value{}
	}
	switch {
	case b.AttnNorm != nil:
		h = attn(b.AttnNorm.Forward(t, x), to)
		y = mlp(b.MLPNorm.Forward(t, x), h)
	case b.PostNorm != nil:
		h = attn(b.Norm.Forward(t, x), x)
		y = mlp(b.PostNorm.Forward(t, h), h)
	default:
		y = parallel(t, to, b.Norm.Forward(t, x), attn, mlp)
	}
	t.Release(h)
	if !to.Valid() {
		y = b.drop.Add(t, y, x)
	}
	return y
}

// heads is the geometry of attention.
func (c FalconConfig) heads() nn.Heads {
	h := c.geometry()
	switch {
	case c.NewArch:
		h.Layout = ops.FusedGroups
	case c.MultiQuery:
		h.Layout = ops.FusedParts
	default:
		h.Layout = ops.FusedHeads
	}
	return h
}

// alibi is falcon's: slope, position and their product are rounded to bfloat16 and, unlike BLOOM's, scaled as scores are. Transformers adds
// it once, as the model was trained, except in its eager code (4.57), where the mask holds it and the scores get it again; its default is not
// eager.
func (c FalconConfig) alibi() *alibi {
	a := &alibi{slopes: alibiSlopes(c.Heads)}
	for i, v := range a.slopes {
		a.slopes[i] = roundBF16(v)
	}
	times, root := float32(1), float32(math.Sqrt(float64(c.headDim())))
	if c.Implementation == "eager" {
		times = 2
	}
	a.value = func(slope, position float32) float32 { return times * roundBF16(slope*roundBF16(position)) / root }
	return a
}

func describeFalcon(c FalconConfig) description {
	norm := func() *nn.Norm {
		n := nn.NewLayerNorm(c.Hidden, c.Eps, true)
		return &n
	}
	m := &falcon{Head: c.output(false)}
	m.Model.Embed, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), *norm()
	d := description{root: m, info: c.info("transformer"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head}
	if c.ALiBi {
		d.alibi = c.alibi()
	} else {
		d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
		d.attnDrop = some(0.0) // transformers drops probabilities only with ALiBi
	}
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) falconBlock {
		b := falconBlock{feedForward: feedForward{c.activation()}}
		if c.twoNorms() {
			b.AttnNorm, b.MLPNorm = norm(), norm()
		} else {
			b.Norm = norm()
		}
		if !c.Parallel {
			b.PostNorm = norm()
		}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(c.Bias), nn.NewLinear(c.Hidden, c.Hidden, c.Bias, c.InitRange), c.heads()
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, c.Bias)
		if c.Parallel {
			_, b.drop = drops(i, 0, c.HiddenDropout)
		} else {
			b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.Dropout, c.HiddenDropout) // attention_dropout there, as transformers
		}
		return b
	})
	return d
}
