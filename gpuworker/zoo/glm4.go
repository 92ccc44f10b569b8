package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

func glm4Entries() []entry {
	return []entry{define("Glm4ForCausalLM", "glm4", glmDefaults(), nil, describeGlm4)}
}

// glm4Block is Glm4DecoderLayer of transformers (modeling_glm4.py): glm's with norms after attention and feed-forward layer too.
type glm4Block struct {
	AttnNorm     nn.Norm      `hf:"input_layernorm"`
	Attn         nn.Attention `hf:"self_attn"`
	PostAttnNorm nn.Norm      `hf:"post_self_attn_layernorm"`
	MLPNorm      nn.Norm      `hf:"post_attention_layernorm"`
	MLP          fusedGated   `hf:"mlp"`
	PostMLPNorm  nn.Norm      `hf:"post_mlp_layernorm"`
	feedForward
}

func (b *glm4Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := b.Attn.Add(t, b.AttnNorm.Forward(t, x), nn.Value{}, p.Positions, p.layer(layer))
	h := addNormed(t, x, a, &b.PostAttnNorm)
	m := nn.Gated(t, b.MLPNorm.Forward(t, h), nn.Value{}, &b.MLP.GateUp, nil, &b.MLP.Down, b.act)
	y := addNormed(t, h, m, &b.PostMLPNorm)
	t.Release(h)
	return y
}

func describeGlm4(c GlmConfig) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps) }
	d := newDecoder(c.Sizes, norm(), func(int) glm4Block {
		return glm4Block{AttnNorm: norm(), PostAttnNorm: norm(), MLPNorm: norm(), PostMLPNorm: norm(), MLP: newFusedGated(c.Sizes),
			feedForward: feedForward{c.activation()}, Attn: nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, false, c.InitRange)}
	})
	d.ropes = []nn.Rope{c.table()}
	return d
}
