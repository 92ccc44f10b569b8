package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// InternLM2Config holds the keys of an InternLM2ForCausalLM config.json that change arithmetic.
type InternLM2Config struct {
	Sizes
	Rotary
	Eps     float64 `json:"rms_norm_eps"`
	Dropout float64 `json:"attention_dropout"`
	Bias    bool    `json:"bias"`
}

func internlm2Entries() []entry {
	return []entry{define("InternLM2ForCausalLM", "internlm2", InternLM2Config{Eps: 1e-6, Bias: true, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 103168,
		Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, MaxPositions: 2048, Pad: some[int64](0), InitRange: 0.02, Act: "silu"}}, nil, describeInternLM2)}
}

// WithDefaults implements configuration.
func (c InternLM2Config) WithDefaults() InternLM2Config {
	c.Rotary = c.withDefaults()
	c.HeadDim = maybe[int]{}
	return c
}

// Validate implements configuration.
func (c InternLM2Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	return p.err()
}

// dropouts implements configuration.
func (c InternLM2Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// internlm2 is InternLM2ForCausalLM of the model's own code on the hub: llama with other names and q, k and v in one, by groups.
type internlm2 struct {
	Model struct {
		Embed  nn.Embedding     `hf:"tok_embeddings"`
		Layers []internlm2Block `hf:"layers"`
		Norm   nn.Norm          `hf:"norm"`
	} `hf:"model"`
	Head nn.Linear `hf:"output"`
}

type internlm2Block struct {
	AttnNorm nn.Norm `hf:"attention_norm"`
	Attn     struct {
		QKV nn.Linear `hf:"wqkv"`
		O   nn.Linear `hf:"wo"`
		nn.Heads
	} `hf:"attention"`
	MLPNorm nn.Norm `hf:"ffn_norm"`
	MLP     struct {
		Gate nn.Linear `hf:"w1"`
		Up   nn.Linear `hf:"w3"`
		Down nn.Linear `hf:"w2"`
	} `hf:"feed_forward"`
	feedForward
}

func (b *internlm2Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	y := nn.Gated(t, b.MLPNorm.Forward(t, h), h, &b.MLP.Gate, &b.MLP.Up, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describeInternLM2(c InternLM2Config) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps) }
	m := &internlm2{Head: c.output(false)}
	m.Model.Embed, m.Model.Norm = c.tokens(c.Hidden), norm()
	d := description{root: m, info: c.info("model"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head, ropes: []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}}
	h := c.geometry()
	h.Layout = ops.FusedGroups
	m.Model.Layers, d.blocks = makeBlocks(c.Layers, func(int) internlm2Block {
		b := internlm2Block{AttnNorm: norm(), MLPNorm: norm(), feedForward: feedForward{c.activation()}}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(c.Bias), nn.NewLinear(c.Heads*c.headDim(), c.Hidden, c.Bias, c.InitRange), h
		mlp := newGated(c.Sizes, false)
		b.MLP.Gate, b.MLP.Up, b.MLP.Down = mlp.Gate, mlp.Up, mlp.Down
		return b
	})
	return d
}
