package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// MptConfig holds the keys of an MptForCausalLM config.json that change arithmetic. As in transformers the feed-forward layer is four
// times as wide as the model, there are no biases, and logit_scale and alibi_bias_max have no effect.
type MptConfig struct {
	Sizes
	Eps       float64 `json:"layer_norm_epsilon"`
	Attention struct {
		Type     string         `json:"attn_type"`
		Dropout  float64        `json:"attn_pdrop"`
		Clip     maybe[float64] `json:"clip_qkv"`
		Scale    maybe[float64] `json:"softmax_scale"`
		PrefixLM bool           `json:"prefix_lm"`
		QKNorm   bool           `json:"qk_ln"`
		ALiBi    maybe[bool]    `json:"alibi"`
	} `json:"attn_config"`
}

// mptNames are the file's spellings.
func mptNames() map[string]string {
	return map[string]string{"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers", "max_seq_len": "max_position_embeddings"}
}

func mptEntries() []entry {
	return []entry{define("MptForCausalLM", "mpt", MptConfig{Eps: 1e-5, Sizes: Sizes{Vocab: 50368, Hidden: 2048, Layers: 24, Heads: 16, MaxPositions: 2048, InitRange: 0.02,
		Tied: true}}, mptNames(), describeMpt)}
}

// WithDefaults implements configuration.
func (c MptConfig) WithDefaults() MptConfig {
	c.KVHeads, c.HeadDim, c.Intermediate, c.Act = maybe[int]{}, maybe[int]{}, 4*c.Hidden, "gelu"
	return c
}

// Validate implements configuration.
func (c MptConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, mptNames())
	p.positive("layer_norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	a := c.Attention
	p.is("attn_config.attn_type", a.Type != "" && a.Type != "multihead_attention")
	p.is("attn_config.prefix_lm", a.PrefixLM)
	p.is("attn_config.qk_ln", a.QKNorm)
	p.is("attn_config.alibi", !a.ALiBi.or(true))
	if a.Clip.ok && a.Clip.v < 0 {
		p.bad("attn_config.clip_qkv", "%g is negative", a.Clip.v)
	}
	if a.Scale.ok {
		p.positive("attn_config.softmax_scale", a.Scale.v)
	}
	return p.err()
}

// dropouts implements configuration: transformers takes that of attention everywhere, and does not read emb_pdrop and resid_pdrop.
func (c MptConfig) dropouts() map[string]float64 {
	return map[string]float64{"attn_config.attn_pdrop": c.Attention.Dropout}
}

// mpt is MptForCausalLM of transformers (modeling_mpt.py).
type mpt struct {
	Model struct {
		Embed  nn.Embedding `hf:"wte"`
		Layers []mptBlock   `hf:"blocks"`
		Norm   nn.Norm      `hf:"norm_f"`
	} `hf:"transformer"`
	Head nn.Linear `hf:"lm_head"`
}

type mptBlock struct {
	AttnNorm nn.Norm `hf:"norm_1"`
	Attn     struct {
		QKV nn.Linear `hf:"Wqkv"`
		O   nn.Linear `hf:"out_proj"`
		nn.Heads
	} `hf:"attn"`
	MLPNorm nn.Norm `hf:"norm_2"`
	MLP     struct {
		Up   nn.Linear `hf:"up_proj"`
		Down nn.Linear `hf:"down_proj"`
	} `hf:"ffn"`
	clip float32
}

func (b *mptBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O, Clip: b.clip}, p.Positions, p.layer(layer))
	y := nn.FeedForward(t, b.MLPNorm.Forward(t, h), h, &b.MLP.Up, &b.MLP.Down, kernels.GELUErf)
	t.Release(h)
	return y
}

func describeMpt(c MptConfig) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, false) }
	m := &mpt{Head: c.output(false)}
	m.Model.Embed, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), norm()
	d := description{root: m, info: c.info("transformer"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head,
		alibi: &alibi{slopes: mptSlopes(c.Heads), value: product, fromEnd: true}}
	h := c.geometry()
	h.Layout, h.Scale = ops.FusedParts, c.Attention.Scale.or(0)
	d.attnDrop = some(c.Attention.Dropout)
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) mptBlock {
		b := mptBlock{AttnNorm: norm(), MLPNorm: norm(), clip: float32(c.Attention.Clip.or(0))}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(false), nn.NewLinear(c.Hidden, c.Hidden, false, c.InitRange), h
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, false)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.Attention.Dropout, c.Attention.Dropout)
		return b
	})
	return d
}
