package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// Olmo2Config holds the keys of an Olmo2ForCausalLM config.json that change arithmetic.
type Olmo2Config struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
}

func olmo2Entries() []entry {
	return []entry{define("Olmo2ForCausalLM", "olmo2", Olmo2Config{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 50304, Hidden: 4096,
		Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048, Pad: some[int64](1), InitRange: 0.02, Act: "silu"}}, nil, describeOlmo2)}
}

// WithDefaults implements configuration.
func (c Olmo2Config) WithDefaults() Olmo2Config {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c Olmo2Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c Olmo2Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// postNormBlock is Olmo2DecoderLayer of transformers (modeling_olmo2.py): norms after attention and feed-forward layer only.
type postNormBlock struct {
	Attn     nn.Attention `hf:"self_attn"`
	AttnNorm nn.Norm      `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU    `hf:"mlp"`
	MLPNorm  nn.Norm      `hf:"post_feedforward_layernorm"`
}

func newPostNormBlock(s Sizes, eps float64, attn nn.Attention) postNormBlock {
	return postNormBlock{Attn: attn, AttnNorm: nn.NewRMSNorm(s.Hidden, eps), MLP: newGated(s, false), MLPNorm: nn.NewRMSNorm(s.Hidden, eps)}
}

func (b *postNormBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	t.Keep(x) // attention releases what it reads; x goes on
	a := b.Attn.Add(t, x, nn.Value{}, p.Positions, p.layer(layer))
	h := addNormed(t, x, a, &b.AttnNorm)
	t.Keep(h)
	m := b.MLP.Add(t, h, nn.Value{})
	y := addNormed(t, h, m, &b.MLPNorm)
	t.Release(h)
	return y
}

// describeOlmo2 has norms over all of q and of k.
func describeOlmo2(c Olmo2Config) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) postNormBlock {
		a := nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange)
		q, k := nn.NewRMSNorm(c.Heads*c.headDim(), c.Eps), nn.NewRMSNorm(c.kv()*c.headDim(), c.Eps)
		a.QNorm, a.KNorm = &q, &k
		return newPostNormBlock(c.Sizes, c.Eps, a)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
