package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// BloomConfig holds the keys of a BloomForCausalLM config.json that change arithmetic.
type BloomConfig struct {
	Sizes
	Eps           float64 `json:"layer_norm_epsilon"`
	Dropout       float64 `json:"attention_dropout"`
	HiddenDropout float64 `json:"hidden_dropout"`
	// PostNormResidual takes the norm's output as residual.
	PostNormResidual bool `json:"apply_residual_connection_post_layernorm"`
}

// bloomNames are the file's spellings.
func bloomNames() map[string]string {
	return map[string]string{"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embed": "hidden_size"}
}

func bloomEntries() []entry {
	return []entry{define("BloomForCausalLM", "bloom", BloomConfig{Eps: 1e-5, Sizes: Sizes{Vocab: 250880, Hidden: 64, Layers: 2, Heads: 8, MaxPositions: 1 << 20,
		InitRange: 0.02, Tied: true}}, bloomNames(), describeBloom)}
}

// WithDefaults implements configuration.
func (c BloomConfig) WithDefaults() BloomConfig {
	c.KVHeads, c.HeadDim, c.Intermediate, c.Act = maybe[int]{}, maybe[int]{}, 4*c.Hidden, "gelu_new"
	return c
}

// Validate implements configuration.
func (c BloomConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, bloomNames())
	p.positive("layer_norm_epsilon", c.Eps)
	p.dropouts(c.dropouts())
	return p.err()
}

// dropouts implements configuration.
func (c BloomConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "hidden_dropout": c.HiddenDropout}
}

// bloom is BloomForCausalLM of transformers (modeling_bloom.py).
type bloom struct {
	Model struct {
		Embed     nn.Embedding `hf:"word_embeddings"`
		EmbedNorm nn.Norm      `hf:"word_embeddings_layernorm"`
		Layers    []bloomBlock `hf:"h"`
		Norm      nn.Norm      `hf:"ln_f"`
	} `hf:"transformer"`
	Head nn.Linear `hf:"lm_head"`
}

type bloomBlock struct {
	AttnNorm nn.Norm `hf:"input_layernorm"`
	Attn     struct {
		QKV nn.Linear `hf:"query_key_value"`
		O   nn.Linear `hf:"dense"`
		nn.Heads
	} `hf:"self_attention"`
	MLPNorm nn.Norm `hf:"post_attention_layernorm"`
	MLP     struct {
		Up   nn.Linear `hf:"dense_h_to_4h"`
		Down nn.Linear `hf:"dense_4h_to_h"`
	} `hf:"mlp"`
	postNormResidual bool
}

func (b *bloomBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	// residual is what a branch adds to: x, or its norm n, which then outlives the branch.
	residual := func(x, n nn.Value) nn.Value {
		if b.postNormResidual {
			t.Keep(n)
			return n
		}
		t.Keep(x)
		return x
	}
	n := b.AttnNorm.Forward(t, x)
	r := residual(x, n)
	h := a.Add(t, n, r, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	t.Release(r)
	n = b.MLPNorm.Forward(t, h)
	r = residual(h, n)
	y := nn.FeedForward(t, n, r, &b.MLP.Up, &b.MLP.Down, kernels.GELUTanh)
	t.Release(r, h)
	return y
}

func describeBloom(c BloomConfig) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	m := &bloom{Head: c.output(false)}
	m.Model.Embed, m.Model.EmbedNorm, m.Model.Norm = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange), norm(), norm()
	d := description{root: m, info: c.info("transformer"), embed: &m.Model.Embed, embedNorm: &m.Model.EmbedNorm, norm: &m.Model.Norm, head: &m.Head,
		alibi: &alibi{slopes: alibiSlopes(c.Heads), value: product}}
	h := c.geometry()
	h.Layout = ops.FusedHeads
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(i int) bloomBlock {
		b := bloomBlock{AttnNorm: norm(), MLPNorm: norm(), postNormResidual: c.PostNormResidual}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(true), nn.NewLinear(c.Hidden, c.Hidden, true, c.InitRange), h
		b.MLP.Up, b.MLP.Down = newFeedForward(c.Sizes, true)
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.HiddenDropout, c.HiddenDropout)
		return b
	})
	return d
}
