package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// Phi3Config holds the keys of a Phi3ForCausalLM config.json (phi 3, 3.5 and 4) that change arithmetic.
type Phi3Config struct {
	Sizes
	Rotary
	Eps          float64    `json:"rms_norm_eps"`
	Dropout      float64    `json:"attention_dropout"`
	ResidDropout float64    `json:"resid_pdrop"`
	Window       maybe[int] `json:"sliding_window"`
}

func phi3Entries() []entry {
	return []entry{define("Phi3ForCausalLM", "phi3", Phi3Config{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000, Original: some(4096)}, Sizes: Sizes{Vocab: 32064, Hidden: 3072,
		Intermediate: 8192, Layers: 32, Heads: 32, MaxPositions: 4096, Pad: some[int64](32000), InitRange: 0.02, Act: "silu"}}, nil, describePhi3)}
}

// WithDefaults implements configuration. The types "su" and "yarn" of early files mean longrope.
func (c Phi3Config) WithDefaults() Phi3Config {
	c.Rotary = c.withDefaults()
	if s := c.RopeScaling; s != nil && s.Type == "" && (s.OldType == "su" || s.OldType == "yarn") {
		r := *s
		r.OldType = "longrope"
		c.RopeScaling = &r
	}
	return c
}

func (c Phi3Config) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Odd = true
	return r
}

// Validate implements configuration.
func (c Phi3Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	p.window(c.Window)
	return p.err()
}

// dropouts implements configuration: transformers does not read embd_pdrop.
func (c Phi3Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "resid_pdrop": c.ResidDropout}
}

// phi3Block is Phi3DecoderLayer of transformers (modeling_phi3.py): llama's with fused projections.
type phi3Block struct {
	AttnNorm nn.Norm `hf:"input_layernorm"`
	Attn     struct {
		O   nn.Linear `hf:"o_proj"` // in transformers' order, in which PEFT draws adapters
		QKV nn.Linear `hf:"qkv_proj"`
		nn.Heads
	} `hf:"self_attn"`
	MLPNorm nn.Norm    `hf:"post_attention_layernorm"`
	MLP     fusedGated `hf:"mlp"`
	feedForward
}

func (b *phi3Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	y := nn.Gated(t, b.MLPNorm.Forward(t, h), h, &b.MLP.GateUp, nil, &b.MLP.Down, b.act)
	t.Release(h)
	return y
}

func describePhi3(c Phi3Config) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps) }
	h := c.geometry()
	h.Layout, h.Window = ops.FusedParts, c.Window.or(0)
	d := newDecoder(c.Sizes, norm(), func(i int) phi3Block {
		b := phi3Block{AttnNorm: norm(), MLPNorm: norm(), MLP: newFusedGated(c.Sizes), feedForward: feedForward{c.activation()}}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(false), nn.NewLinear(c.Heads*c.headDim(), c.Hidden, false, c.InitRange), h
		b.Attn.O.Drop, b.MLP.Down.Drop = drops(i, c.ResidDropout, c.ResidDropout)
		return b
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}
