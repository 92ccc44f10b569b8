package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// GPTNeoXConfig holds the keys of a GPTNeoXForCausalLM config.json that change arithmetic.
type GPTNeoXConfig struct {
	Sizes
	RopeScaling    *nn.RopeScaling `json:"rope_scaling"`
	RopeParameters *nn.RopeScaling `json:"rope_parameters"`
	RopeTheta      float64         `json:"rotary_emb_base"`
	Partial        float64         `json:"rotary_pct"`
	Original       maybe[int]      `json:"original_max_position_embeddings"`
	Eps            float64         `json:"layer_norm_eps"`
	Dropout        float64         `json:"attention_dropout"`
	HiddenDropout  float64         `json:"hidden_dropout"`
	AttentionBias  bool            `json:"attention_bias"`
	Parallel       bool            `json:"use_parallel_residual"`
}

func neoxEntries() []entry {
	return []entry{define("GPTNeoXForCausalLM", "gpt_neox", GPTNeoXConfig{Eps: 1e-5, RopeTheta: 10000, Partial: 0.25, AttentionBias: true, Parallel: true,
		Sizes: Sizes{Vocab: 50432, Hidden: 6144, Intermediate: 24576, Layers: 44, Heads: 64, MaxPositions: 2048, InitRange: 0.02, Act: "gelu"}}, nil, describeNeoX)}
}

// WithDefaults implements configuration. Every head has a key and a value of its own, whatever num_key_value_heads says.
func (c GPTNeoXConfig) WithDefaults() GPTNeoXConfig {
	r := Rotary{RopeTheta: c.RopeTheta, RopeScaling: c.RopeScaling, RopeParameters: c.RopeParameters, Partial: some(c.Partial)}.withDefaults()
	c.RopeTheta, c.RopeScaling, c.Partial = r.RopeTheta, r.RopeScaling, r.Partial.v
	c.KVHeads, c.HeadDim = maybe[int]{}, maybe[int]{}
	return c
}

func (c GPTNeoXConfig) table() nn.Rope {
	r := Rotary{RopeTheta: c.RopeTheta, RopeScaling: c.RopeScaling, Partial: some(c.Partial), Original: c.Original}.rope(c.headDim(), c.MaxPositions)
	r.Odd = true
	return r
}

// Validate implements configuration.
func (c GPTNeoXConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("layer_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c GPTNeoXConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "hidden_dropout": c.HiddenDropout}
}

// neox is GPTNeoXForCausalLM of transformers (modeling_gpt_neox.py).
type neox struct {
	Model struct {
		Embed  nn.Embedding `hf:"embed_in"`
		Layers []neoxBlock  `hf:"layers"`
		Norm   nn.Norm      `hf:"final_layer_norm"`
	} `hf:"gpt_neox"`
	Head nn.Linear `hf:"embed_out"`
}

// neoxBlock adds attention and feed-forward layer to the same x, each after a norm of its own, or one after the other.
type neoxBlock struct {
	AttnNorm nn.Norm `hf:"input_layernorm"`
	MLPNorm  nn.Norm `hf:"post_attention_layernorm"`
	Attn     struct {
		QKV nn.Linear `hf:"query_key_value"`
		O   nn.Linear `hf:"dense"`
		nn.Heads
	} `hf:"attention"`
	MLP struct {
		Up   nn.Linear `hf:"dense_h_to_4h"`
		Down nn.Linear `hf:"dense_4h_to_h"`
	} `hf:"mlp"`
	feedForward
	parallel bool
}

func (b *neoxBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	from := h
	if b.parallel {
		from = x
	}
	y := nn.FeedForward(t, b.MLPNorm.Forward(t, from), h, &b.MLP.Up, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describeNeoX(c GPTNeoXConfig) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	m := &neox{Head: c.output(false)}
	m.Model.Embed, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), norm()
	d := description{root: m, info: c.info("gpt_neox"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head, ropes: []nn.Rope{c.table()}}
	h := c.geometry()
	h.Layout = ops.FusedHeads
	d.embedDrop = embedDrop(c.HiddenDropout)
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) neoxBlock {
		b := neoxBlock{AttnNorm: norm(), MLPNorm: norm(), feedForward: feedForward{c.activation()}, parallel: c.Parallel}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(c.AttentionBias), nn.NewLinear(c.Hidden, c.Hidden, c.AttentionBias, c.InitRange), h
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, true)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.HiddenDropout, c.HiddenDropout)
		return b
	})
	return d
}
