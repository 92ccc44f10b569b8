package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// OPTConfig holds the keys of an OPTForCausalLM config.json that change arithmetic.
type OPTConfig struct {
	Sizes
	Dropout     float64 `json:"dropout"`
	AttnDropout float64 `json:"attention_dropout"`
	LayerDrop   float64 `json:"layerdrop"`
	// NormBefore puts norms before attention and feed-forward layer; otherwise they follow the sum with the residual.
	NormBefore  bool       `json:"do_layer_norm_before"`
	NoFinalNorm bool       `json:"_remove_final_layer_norm"`
	EmbedDim    maybe[int] `json:"word_embed_proj_dim"`
	Bias        bool       `json:"enable_bias"`
	NormAffine  bool       `json:"layer_norm_elementwise_affine"`
}

// optNames are the file's spellings.
func optNames() map[string]string {
	return map[string]string{"ffn_dim": "intermediate_size", "activation_function": "hidden_act", "init_std": "initializer_range"}
}

func optEntries() []entry {
	return []entry{define("OPTForCausalLM", "opt", OPTConfig{Dropout: 0.1, NormBefore: true, Bias: true, NormAffine: true, Sizes: Sizes{Vocab: 50272, Hidden: 768,
		Intermediate: 3072, Layers: 12, Heads: 12, MaxPositions: 2048, Pad: some[int64](1), InitRange: 0.02, Act: "relu", Tied: true}}, optNames(), describeOPT)}
}

// WithDefaults implements configuration.
func (c OPTConfig) WithDefaults() OPTConfig {
	c.KVHeads, c.HeadDim, c.EmbedDim = maybe[int]{}, maybe[int]{}, some(c.EmbedDim.or(c.Hidden))
	return c
}

// Validate implements configuration.
func (c OPTConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, optNames())
	p.size("word_embed_proj_dim", c.EmbedDim.v)
	p.dropouts(c.dropouts())
	return p.err()
}

// dropouts implements configuration.
func (c OPTConfig) dropouts() map[string]float64 {
	return map[string]float64{"dropout": c.Dropout, "attention_dropout": c.AttnDropout, "layerdrop": c.LayerDrop}
}

// opt is OPTForCausalLM of transformers (modeling_opt.py).
type opt struct {
	Model struct {
		Decoder struct {
			Embed      nn.Embedding `hf:"embed_tokens"`
			Positions  nn.Embedding `hf:"embed_positions"`
			ProjectOut *nn.Linear   `hf:"project_out"` // in transformers' order, in which PEFT draws adapters
			ProjectIn  *nn.Linear   `hf:"project_in"`
			Layers     []optBlock   `hf:"layers"`
			Norm       *nn.Norm     `hf:"final_layer_norm"`
		} `hf:"decoder"`
	} `hf:"model"`
	Head nn.Linear `hf:"lm_head"`
}

type optBlock struct {
	Attn struct {
		K nn.Linear `hf:"k_proj"` // in transformers' order, in which PEFT draws adapters
		V nn.Linear `hf:"v_proj"`
		Q nn.Linear `hf:"q_proj"`
		O nn.Linear `hf:"out_proj"`
		nn.Heads
	} `hf:"self_attn"`
	AttnNorm nn.Norm   `hf:"self_attn_layer_norm"`
	Up       nn.Linear `hf:"fc1"`
	Down     nn.Linear `hf:"fc2"`
	MLPNorm  nn.Norm   `hf:"final_layer_norm"`
	feedForward
	normBefore bool
}

func (b *optBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	l := nn.Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O}
	// branch computes x + f(norm(x)), or norm(x + f(x)), and leaves x to its owner.
	branch := func(x nn.Value, n *nn.Norm, f func(h, residual nn.Value) nn.Value) nn.Value {
		if b.normBefore {
			return f(n.Forward(t, x), x)
		}
		t.Keep(x)
		s := f(x, x)
		y := n.Forward(t, s)
		t.Release(s)
		return y
	}
	h := branch(x, &b.AttnNorm, func(h, residual nn.Value) nn.Value { return a.Add(t, h, residual, l, p.Positions, p.layer(layer)) })
	y := branch(h, &b.MLPNorm, func(h, residual nn.Value) nn.Value { return nn.FeedForward(t, h, residual, &b.Up, &b.Down, b.act) })
	t.Release(h)
	return y
}

// optOffset is the number of rows of the table of positions before the first.
const optOffset = 2

func describeOPT(c OPTConfig) description {
	norm := func() nn.Norm {
		n := nn.NewLayerNorm(c.Hidden, 1e-5, c.NormAffine)
		if !c.NormAffine {
			n.Weight = nil
		}
		return n
	}
	m := &opt{Head: nn.NewLinear(c.EmbedDim.v, c.Vocab, false, c.InitRange)}
	if c.Tied {
		m.Head.Weight = nil
	}
	dec := &m.Model.Decoder
	dec.Embed, dec.Positions = c.tokens(c.EmbedDim.v), nn.NewEmbedding(c.MaxPositions+optOffset, c.Hidden, c.InitRange)
	if c.EmbedDim.v != c.Hidden {
		in, out := nn.NewLinear(c.EmbedDim.v, c.Hidden, false, c.InitRange), nn.NewLinear(c.Hidden, c.EmbedDim.v, false, c.InitRange)
		dec.ProjectIn, dec.ProjectOut = &in, &out
	}
	if c.NormBefore && !c.NoFinalNorm {
		n := norm()
		dec.Norm = &n
	}
	d := description{root: m, info: c.info("model"), embed: &dec.Embed, positions: &dec.Positions, positionOffset: optOffset, maskedPositions: true, projectIn: dec.ProjectIn,
		norm: dec.Norm, projectOut: dec.ProjectOut, head: &m.Head}
	d.info.Hidden = c.EmbedDim.v
	dec.Layers, d.blocks = makeBlocks(c.Layers, func(i int) optBlock {
		b := optBlock{AttnNorm: norm(), MLPNorm: norm(), feedForward: feedForward{c.activation()}, normBefore: c.NormBefore}
		a := nn.NewAttention(c.Hidden, c.geometry(), c.Bias, c.Bias, c.InitRange)
		b.Attn.Q, b.Attn.K, b.Attn.V, b.Attn.O, b.Attn.Heads = a.Q, a.K, a.V, a.O, a.Heads
		b.Up, b.Down = newFeedForward(c.Sizes, c.Bias)
		b.Attn.O.Drop, b.Down.Drop = drops(i, c.Dropout, c.Dropout)
		return b
	})
	return d
}
