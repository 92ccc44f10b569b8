package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// LlamaConfig holds the keys of a LlamaForCausalLM config.json that change arithmetic.
type LlamaConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"rms_norm_eps"`
	AttentionBias bool    `json:"attention_bias"`
	MLPBias       bool    `json:"mlp_bias"`
	Dropout       float64 `json:"attention_dropout"`
	// ShortRatio trains with shifted short attention (LongLoRA) over groups of that share of a sequence; the key is LLaMA-Factory's.
	ShortRatio float64 `json:"group_size_ratio"`
}

func llamaDefaults() LlamaConfig {
	return LlamaConfig{Eps: 1e-6, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 32000, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32,
		MaxPositions: 2048, InitRange: 0.02, Act: "silu"}}
}

func llamaEntries() []entry {
	return []entry{define("LlamaForCausalLM", "llama", llamaDefaults(), nil, describeLlama)}
}

// WithDefaults implements configuration.
func (c LlamaConfig) WithDefaults() LlamaConfig {
	c.Rotary = c.withDefaults()
	return c
}

// Validate implements configuration.
func (c LlamaConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	if c.ShortRatio < 0 || c.ShortRatio > 1 {
		p.bad("group_size_ratio", "%g is not between 0 and 1", c.ShortRatio)
	}
	if c.ShortRatio > 0 && (c.Heads%2 != 0 || c.kv()%2 != 0) {
		p.unsupported("group_size_ratio", "shifted short attention halves the heads: %d heads and %d kv heads must be even", c.Heads, c.kv())
	}
	return p.err()
}

// dropouts implements configuration.
func (c LlamaConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// llamaBlock is LlamaDecoderLayer of transformers (modeling_llama.py): norms before attention and feed-forward layer.
type llamaBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.Norm      `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU    `hf:"mlp"`
}

func newLlamaBlock(s Sizes, eps float64, attn nn.Attention, mlpBias bool) llamaBlock {
	return llamaBlock{AttnNorm: nn.NewRMSNorm(s.Hidden, eps), Attn: attn, MLPNorm: nn.NewRMSNorm(s.Hidden, eps), MLP: newGated(s, mlpBias)}
}

func describeLlama(c LlamaConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(int) llamaBlock {
		return newLlamaBlock(c.Sizes, c.Eps, nn.NewAttention(c.Hidden, c.geometry(), c.AttentionBias, c.AttentionBias, c.InitRange), c.MLPBias)
	})
	d.ropes, d.shortRatio = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}, c.ShortRatio
	return d
}

func (b *llamaBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p.Positions, p.layer(layer))
	y := b.MLP.Add(t, b.MLPNorm.Forward(t, h), h)
	t.Release(h)
	return y
}
