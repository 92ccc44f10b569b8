package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// CohereConfig holds the keys of a CohereForCausalLM or Cohere2ForCausalLM config.json that change arithmetic.
type CohereConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"layer_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	AttentionBias bool    `json:"attention_bias"`
	// LogitScale multiplies logits.
	LogitScale float64 `json:"logit_scale"`
	QKNorm     bool    `json:"use_qk_norm"`
	// Window, Pattern and LayerTypes are cohere 2's.
	Window     maybe[int] `json:"sliding_window"`
	Pattern    int        `json:"sliding_window_pattern"`
	LayerTypes []string   `json:"layer_types"`
}

func cohereDefaults() CohereConfig {
	return CohereConfig{Eps: 1e-5, LogitScale: 0.0625, Pattern: 4, Rotary: Rotary{RopeTheta: 10000}, Sizes: Sizes{Vocab: 256000, Hidden: 8192, Intermediate: 22528,
		Layers: 40, Heads: 64, MaxPositions: 8192, Pad: some[int64](0), InitRange: 0.02, Act: "silu", Tied: true}}
}

func cohereEntries() []entry {
	return []entry{define("CohereForCausalLM", "cohere", cohereDefaults(), nil, describeCohere)}
}

// WithDefaults implements configuration.
func (c CohereConfig) WithDefaults() CohereConfig {
	c.Rotary = c.withDefaults()
	if c.LayerTypes == nil && c.Pattern > 0 {
		c.LayerTypes = patternOf(c.Layers, func(i int) bool { return c.Window.ok && (i+1)%c.Pattern != 0 })
	}
	return c
}

func (c CohereConfig) table() nn.Rope {
	r := c.rope(c.headDim(), c.MaxPositions)
	r.Interleaved = true
	return r
}

// Validate implements configuration.
func (c CohereConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("layer_norm_eps", c.Eps)
	p.positive("logit_scale", c.LogitScale)
	p.dropouts(c.dropouts())
	p.rotary(c.table(), c.headDim())
	p.window(c.Window)
	p.layerTypes(c.LayerTypes, c.Layers, c.Window)
	return p.err()
}

// dropouts implements configuration.
func (c CohereConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout}
}

// cohereBlock is CohereDecoderLayer of transformers (modeling_cohere.py): one norm, attention and feed-forward layer side by side.
type cohereBlock struct {
	Norm nn.Norm      `hf:"input_layernorm"`
	Attn nn.Attention `hf:"self_attn"`
	MLP  nn.SwiGLU    `hf:"mlp"`
}

func (b *cohereBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	return parallel(t, x, b.Norm.Forward(t, x),
		func(h, residual nn.Value) nn.Value { return b.Attn.Add(t, h, residual, p.Positions, p.layer(layer)) },
		func(h, residual nn.Value) nn.Value { return b.MLP.Add(t, h, residual) })
}

// describe is what both versions share.
func (c CohereConfig) describe(heads func(i int) nn.Heads) description {
	norm := func(dim int) nn.Norm { return nn.NewLayerNorm(dim, c.Eps, false).Own() }
	d := newDecoder(c.Sizes, norm(c.Hidden), func(i int) cohereBlock {
		a := nn.NewAttention(c.Hidden, heads(i), c.AttentionBias, c.AttentionBias, c.InitRange)
		if c.QKNorm {
			a.QNorm, a.KNorm = norm(c.headDim()).PerHead(c.headDim(), c.Heads), norm(c.headDim()).PerHead(c.headDim(), c.kv())
		}
		return cohereBlock{Norm: norm(c.Hidden), Attn: a, MLP: newGated(c.Sizes, false)}
	})
	d.logitScale = c.LogitScale
	d.ropes = []nn.Rope{c.table()}
	return d
}

func describeCohere(c CohereConfig) description {
	return c.describe(func(int) nn.Heads { return c.geometry() })
}
