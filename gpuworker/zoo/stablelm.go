package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

// StableLmConfig holds the keys of a StableLmForCausalLM config.json that change arithmetic.
type StableLmConfig struct {
	Sizes
	Rotary
	Eps           float64 `json:"layer_norm_eps"`
	Dropout       float64 `json:"attention_dropout"`
	HiddenDropout float64 `json:"hidden_dropout"`
	QKVBias       bool    `json:"use_qkv_bias"`
	QKNorm        bool    `json:"qk_layernorm"`
	Parallel      bool    `json:"use_parallel_residual"`
}

func stablelmEntries() []entry {
	return []entry{define("StableLmForCausalLM", "stablelm", StableLmConfig{Eps: 1e-5, Rotary: Rotary{RopeTheta: 10000, Partial: some(0.25)}, Sizes: Sizes{Vocab: 50304,
		Hidden: 2560, Intermediate: 6912, Layers: 32, Heads: 32, KVHeads: some(32), MaxPositions: 4096, InitRange: 0.02, Act: "silu"}}, nil, describeStableLm)}
}

// WithDefaults implements configuration.
func (c StableLmConfig) WithDefaults() StableLmConfig {
	c.Rotary = c.withDefaults()
	c.HeadDim = maybe[int]{}
	return c
}

// Validate implements configuration.
func (c StableLmConfig) Validate() error {
	var p problems
	p.sizes(c.Sizes, nil)
	p.positive("layer_norm_eps", c.Eps)
	p.dropouts(c.dropouts())
	p.rotary(c.rope(c.headDim(), c.MaxPositions), c.headDim())
	if c.QKNorm && int64(c.Heads)*int64(c.Layers) > 1<<20 {
		p.bad("qk_layernorm", "%d heads in each of %d layers are too many norms", c.Heads, c.Layers)
	}
	return p.err()
}

// dropouts implements configuration.
func (c StableLmConfig) dropouts() map[string]float64 {
	return map[string]float64{"attention_dropout": c.Dropout, "hidden_dropout": c.HiddenDropout}
}

// stablelmBlock is StableLmDecoderLayer of transformers (modeling_stablelm.py). With a parallel residual there is one norm.
type stablelmBlock struct {
	AttnNorm nn.Norm      `hf:"input_layernorm"`
	Attn     stablelmAttn `hf:"self_attn"`
	MLPNorm  *nn.Norm     `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU    `hf:"mlp"`
}

// stablelmAttn may have a norm of its own for each head.
type stablelmAttn struct {
	Q     nn.Linear     `hf:"q_proj"`
	K     nn.Linear     `hf:"k_proj"`
	V     nn.Linear     `hf:"v_proj"`
	O     nn.Linear     `hf:"o_proj"`
	QNorm *nn.HeadNorms `hf:"q_layernorm"`
	KNorm *nn.HeadNorms `hf:"k_layernorm"`
	nn.Heads
}

func (b *stablelmBlock) forward(t *nn.Tape, x nn.Value, p *pass, layer int) nn.Value {
	a := &b.Attn
	l := nn.Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O}
	if a.QNorm != nil {
		l.QNorm, l.KNorm = a.QNorm, a.KNorm
	}
	attn := func(h, residual nn.Value) nn.Value { return a.Add(t, h, residual, l, p.Positions, p.layer(layer)) }
	if b.MLPNorm == nil {
		return parallel(t, x, b.AttnNorm.Forward(t, x), attn, func(h, residual nn.Value) nn.Value { return b.MLP.Add(t, h, residual) })
	}
	h := attn(b.AttnNorm.Forward(t, x), x)
	y := b.MLP.Add(t, b.MLPNorm.Forward(t, h), h)
	t.Release(h)
	return y
}

func describeStableLm(c StableLmConfig) description {
	norm := func() nn.Norm { return nn.NewLayerNorm(c.Hidden, c.Eps, true) }
	heads := func(n int) *nn.HeadNorms {
		h := &nn.HeadNorms{}
		for range n {
			h.Norms = append(h.Norms, nn.NewLayerNorm(c.headDim(), c.Eps, false))
		}
		return h
	}
	d := newDecoder(c.Sizes, norm(), func(i int) stablelmBlock {
		a := nn.NewAttention(c.Hidden, c.geometry(), c.QKVBias, false, c.InitRange)
		b := stablelmBlock{AttnNorm: norm(), MLP: newGated(c.Sizes, false), Attn: stablelmAttn{Q: a.Q, K: a.K, V: a.V, O: a.O, Heads: a.Heads}}
		_, b.MLP.Down.Drop = drops(i, 0, c.HiddenDropout)
		if c.QKNorm {
			b.Attn.QNorm, b.Attn.KNorm = heads(c.Heads), heads(c.kv())
		}
		if !c.Parallel {
			n := norm()
			b.MLPNorm = &n
		}
		return b
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
