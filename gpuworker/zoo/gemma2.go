package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// Gemma2Config holds the keys of a Gemma2ForCausalLM or Gemma3ForCausalLM config.json that change arithmetic.
type Gemma2Config struct {
	Sizes
	Rotary
	Activation    string     `json:"hidden_activation"`
	Eps           float64    `json:"rms_norm_eps"`
	Dropout       float64    `json:"attention_dropout"`
	AttentionBias bool       `json:"attention_bias"`
	Window        maybe[int] `json:"sliding_window"`
	LayerTypes    []string   `json:"layer_types"`
	// QueryScalar is the number whose square root divides scores.
	QueryScalar  float64        `json:"query_pre_attn_scalar"`
	FinalSoftcap maybe[float64] `json:"final_logit_softcapping"`
	AttnSoftcap  maybe[float64] `json:"attn_logit_softcapping"`
	// LocalTheta is the rotary base of layers with a window, Pattern the distance of layers without one (gemma 3).
	LocalTheta    float64 `json:"rope_local_base_freq"`
	Pattern       int     `json:"sliding_window_pattern"`
	Bidirectional bool    `json:"use_bidirectional_attention"`
}

func gemma2Defaults() Gemma2Config {
	return Gemma2Config{Eps: 1e-6, Window: some(4096), QueryScalar: 256, Pattern: 2, LocalTheta: 10000, Activation: "gelu_pytorch_tanh", FinalSoftcap: some(30.0),
		AttnSoftcap: some(50.0), Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 256000, Hidden: 2304, Intermediate: 9216, Layers: 26, Heads: 8,
			KVHeads: some(4), HeadDim: some(256), MaxPositions: 8192, Pad: some[int64](0), InitRange: 0.02, Tied: true}}
}

func gemma2Entries() []entry {
	return []entry{define("Gemma2ForCausalLM", "gemma2", gemma2Defaults(), nil, describeGemma2)}
}

// WithDefaults implements configuration.
func (c Gemma2Config) WithDefaults() Gemma2Config {
	c.Rotary = c.withDefaults()
	c.Act = c.Activation
	if c.LayerTypes == nil && c.Pattern > 0 {
		c.LayerTypes = patternOf(c.Layers, func(i int) bool { return (i+1)%c.Pattern != 0 })
	}
	return c
}

// Validate implements configuration.
func (c Gemma2Config) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("rms_norm_eps", c.Eps)
	p.positive("query_pre_attn_scalar", c.QueryScalar)
	p.positive("rope_local_base_freq", c.LocalTheta)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	p.window(c.Window)
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	p.is("use_bidirectional_attention", c.Bidirectional)
	return p.err()
}

// dropouts implements configuration.
func (c Gemma2Config) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// gemma2Block is Gemma2DecoderLayer of transformers (modeling_gemma2.py): norms before and after attention and feed-forward layer.
type gemma2Block struct {
	AttnNorm     nn.Norm      `hf:"input_layernorm"`
	Attn         nn.Attention `hf:"self_attn"`
	PostAttnNorm nn.Norm      `hf:"post_attention_layernorm"`
	MLPNorm      nn.Norm      `hf:"pre_feedforward_layernorm"`
	MLP          nn.SwiGLU    `hf:"mlp"`
	PostMLPNorm  nn.Norm      `hf:"post_feedforward_layernorm"`
}

func (b *gemma2Block) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := b.Attn.Add(t, b.AttnNorm.Forward(t, x), nn.Value{}, p.Positions, p.layer(layer))
	h := addNormed(t, x, a, &b.PostAttnNorm)
	m := b.MLP.Add(t, b.MLPNorm.Forward(t, h), nn.Value{})
	y := addNormed(t, h, m, &b.PostMLPNorm)
	t.Release(h)
	return y
}

// describe is what gemma 2 and 3 share.
func (c Gemma2Config) describe(heads func(i int) nn.Heads, attn func(*nn.Attention)) description {
	norm := func() nn.Norm { return nn.NewRMSNorm(c.Hidden, c.Eps).OnePlus() }
	d := newDecoder(c.Sizes, norm(), func(i int) gemma2Block {
		b := gemma2Block{AttnNorm: norm(), PostAttnNorm: norm(), MLPNorm: norm(), PostMLPNorm: norm(), MLP: newGated(c.Sizes, false),
			Attn: nn.NewAttention(c.Hidden, heads(i), c.AttentionBias, c.AttentionBias, c.InitRange)}
		if attn != nil {
			attn(&b.Attn)
		}
		return b
	})
	d.embed.Scale = gemmaScale(c.Hidden)
	d.softcap = c.FinalSoftcap.or(0)
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}

// heads is the attention of a layer.
func (c Gemma2Config) heads(i int) nn.Heads {
	h := c.geometry()
	h.Window, h.Scale = windowOf(c.LayerTypes[i], c.Window), 1/math.Sqrt(c.QueryScalar)
	return h
}

func describeGemma2(c Gemma2Config) description {
	return c.describe(func(i int) nn.Heads {
		h := c.heads(i)
		h.Softcap = c.AttnSoftcap.or(0)
		return h
	}, nil)
}
