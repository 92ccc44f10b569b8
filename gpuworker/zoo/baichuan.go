package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

func baichuanEntries() []entry {
	c := llamaDefaults()
	c.Vocab, c.MaxPositions, c.Pad = 64000, 4096, some[int64](0)
	return []entry{define("BaiChuanForCausalLM", "baichuan", c, nil, describeBaichuan)}
}

// baichuanBlock is the decoder layer of Baichuan-7B's own code on the hub: llama's with q, k and v in one.
type baichuanBlock struct {
	AttnNorm nn.Norm `hf:"input_layernorm"`
	Attn     struct {
		QKV nn.Linear `hf:"W_pack"`
		O   nn.Linear `hf:"o_proj"`
		nn.Heads
	} `hf:"self_attn"`
	MLPNorm nn.Norm   `hf:"post_attention_layernorm"`
	MLP     nn.SwiGLU `hf:"mlp"`
}

func (b *baichuanBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	h := a.Add(t, b.AttnNorm.Forward(t, x), x, nn.Projections{Q: &a.QKV, O: &a.O}, p.Positions, p.layer(layer))
	y := b.MLP.Add(t, b.MLPNorm.Forward(t, h), h)
	t.Release(h)
	return y
}

func describeBaichuan(c LlamaConfig) description {
	c.KVHeads, c.HeadDim = maybe[int]{}, maybe[int]{}
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps) }
	h := c.geometry()
	h.Layout = ops.FusedParts
	d := newDecoder(c.Sizes, norm(), func(int) baichuanBlock {
		b := baichuanBlock{AttnNorm: norm(), MLPNorm: norm(), MLP: newGated(c.Sizes, false)}
		b.Attn.QKV, b.Attn.O, b.Attn.Heads = c.fusedQKV(false), nn.NewLinear(c.Hidden, c.Hidden, false, c.InitRange), h
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
