package zoo

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// maybe is a value that null takes away: a key that is absent keeps its default, null means none.
type maybe[T any] struct {
	v  T
	ok bool
}

func some[T any](v T) maybe[T] { return maybe[T]{v, true} }

// UnmarshalJSON implements json.Unmarshaler.
func (m *maybe[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*m = maybe[T]{}
		return nil
	}
	if err := json.Unmarshal(b, &m.v); err != nil {
		return err
	}
	m.ok = true
	return nil
}

// or is the value, or def when there is none.
func (m maybe[T]) or(def T) T {
	if m.ok {
		return m.v
	}
	return def
}

// Sizes are the keys that most configurations share, under the names that most use.
type Sizes struct {
	Vocab        int        `json:"vocab_size"`
	Hidden       int        `json:"hidden_size"`
	Intermediate int        `json:"intermediate_size"`
	Layers       int        `json:"num_hidden_layers"`
	Heads        int        `json:"num_attention_heads"`
	KVHeads      maybe[int] `json:"num_key_value_heads"`
	HeadDim      maybe[int] `json:"head_dim"`
	MaxPositions int        `json:"max_position_embeddings"`
	InitRange    float64    `json:"initializer_range"`
	Tied         bool       `json:"tie_word_embeddings"`
	// Pad is the token whose row of the table learns nothing from being looked up, where transformers has it so; see tokens.
	Pad maybe[int64] `json:"pad_token_id"`
	// Act is the activation of the feed-forward layer.
	Act          string          `json:"hidden_act"`
	Quantization json.RawMessage `json:"quantization_config"`
}

// Rotary are the keys of rotary positions.
type Rotary struct {
	RopeTheta   float64         `json:"rope_theta"`
	RopeScaling *nn.RopeScaling `json:"rope_scaling"`
	// RopeParameters is transformers 5's spelling of rope_theta and rope_scaling.
	RopeParameters *nn.RopeScaling `json:"rope_parameters"`
	// Partial is the rotated share of a head.
	Partial maybe[float64] `json:"partial_rotary_factor"`
	// Original is the length of pretraining, where max_position_embeddings has been raised since.
	Original maybe[int] `json:"original_max_position_embeddings"`
}

// withDefaults takes over transformers 5's spelling.
func (r Rotary) withDefaults() Rotary {
	p := r.RopeParameters
	if p == nil {
		return r
	}
	if r.RopeScaling == nil {
		r.RopeScaling = p
	}
	if p.Theta != nil {
		r.RopeTheta = *p.Theta
	}
	if p.Partial != nil {
		r.Partial = some(*p.Partial)
	}
	return r
}

// rope describes the rotary table for heads of headDim elements.
func (r Rotary) rope(headDim, maxPositions int) nn.Rope {
	return nn.Rope{Dim: int(float64(headDim) * r.Partial.or(1)), Theta: r.RopeTheta, MaxPos: maxPositions, Scaling: r.RopeScaling, Original: r.Original.or(0)}
}

// kv is the number of key and value heads.
func (s Sizes) kv() int { return s.KVHeads.or(s.Heads) }

// headDim is the length of a head.
func (s Sizes) headDim() int {
	if s.Heads < 1 {
		return 0
	}
	return s.HeadDim.or(s.Hidden / s.Heads)
}

// geometry is the attention of that many heads.
func (s Sizes) geometry() nn.Heads {
	return nn.Heads{Heads: s.Heads, KVHeads: s.kv(), HeadDim: s.headDim()}
}

// tokens is the table of tokens with the padding token's row as padding_idx. As in torch a negative one counts from the end; one outside
// of the table, which torch refuses, is none.
func (s Sizes) tokens(dim int) nn.Embedding {
	e := nn.NewEmbedding(s.Vocab, dim, s.InitRange)
	vocab := int64(s.Vocab)
	if pad := s.Pad.v; s.Pad.ok && pad >= -vocab && pad < vocab {
		row := int32((pad + vocab) % vocab)
		e.Padding = &row
	}
	return e
}

// info holds the sizes for callers.
func (s Sizes) info(prefix string) Info {
	return Info{Prefix: prefix, Vocab: s.Vocab, Hidden: s.Hidden, KVHeads: s.kv(), HeadDim: s.headDim(), MaxPositions: s.MaxPositions}
}

// fusedQKV is a projection onto queries, keys and values at once.
func (s Sizes) fusedQKV(bias bool) nn.Linear {
	return nn.NewLinear(s.Hidden, (s.Heads+2*s.kv())*s.headDim(), bias, s.InitRange)
}

// activation is the feed-forward activation; Validate has checked its name.
func (s Sizes) activation() kernels.Activation { return activations()[s.Act] }

// output is the head: without weight when tied to the embedding.
func (s Sizes) output(bias bool) nn.Linear {
	l := nn.NewLinear(s.Hidden, s.Vocab, bias, s.InitRange)
	if s.Tied {
		l.Weight = nil
	}
	return l
}

// activations maps transformers' names (ACT2FN).
func activations() map[string]kernels.Activation {
	return map[string]kernels.Activation{
		"silu": kernels.SiLU, "swish": kernels.SiLU, "gelu": kernels.GELUErf, "gelu_python": kernels.GELUErf, "gelu_new": kernels.GELUTanh,
		"gelu_pytorch_tanh": kernels.GELUTanh, "gelu_fast": kernels.GELUTanh, "gelu_accurate": kernels.GELUTanh,
		"relu": kernels.ReLU, "relu2": kernels.ReLU2, "tanh": kernels.Tanh,
	}
}

// problems collects everything that is wrong with a configuration.
type problems struct{ errs []error }

func (p *problems) bad(key, format string, args ...any) {
	p.errs = append(p.errs, schemas.Errorf(schemas.CodeModel, "config.json:"+key, format, args...))
}

func (p *problems) unsupported(key, format string, args ...any) {
	p.errs = append(p.errs, schemas.Errorf(schemas.CodeUnsupported, "config.json:"+key, format, args...))
}

// is refuses a key whose value changes arithmetic in a way that is not implemented.
func (p *problems) is(key string, refused bool) {
	if refused {
		p.unsupported(key, "this value is not supported")
	}
}

// size checks a positive number.
func (p *problems) size(key string, v int) {
	if v < 1 || v > 1<<24 {
		p.bad(key, "%d is not between 1 and %d", v, 1<<24)
	}
}

// positive checks a factor or an epsilon.
func (p *problems) positive(key string, v float64) {
	if !(v > 0) || math.IsInf(v, 0) {
		p.bad(key, "%g is not positive", v)
	}
}

// dropouts checks probabilities of dropout, which act in training only (see Info.Dropout).
func (p *problems) dropouts(keys map[string]float64) {
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if v := keys[k]; !(v >= 0 && v < 1) {
			p.bad(k, "%g is no probability below 1", v)
		}
	}
}

// act checks the name of an activation.
func (p *problems) act(key, name string) {
	known := activations()
	if _, ok := known[name]; ok {
		return
	}
	names := make([]string, 0, len(known))
	for n := range known {
		names = append(names, n)
	}
	slices.Sort(names)
	p.unsupported(key, "activation %q is not supported (%s are)", name, strings.Join(names, ", "))
}

// check adds an error of another validation.
func (p *problems) check(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

// sizes checks what all configurations share; names is what define was given: the file's spellings of keys.
func (p *problems) sizes(s Sizes, names map[string]string) {
	name := func(key string) string {
		for file, k := range names {
			if k == key {
				return file
			}
		}
		return key
	}
	const mostLayers = 4096
	if s.Layers > mostLayers {
		p.bad(name("num_hidden_layers"), "%d exceeds %d", s.Layers, mostLayers)
	}
	for _, d := range []struct {
		key string
		v   int
	}{{"vocab_size", s.Vocab}, {"hidden_size", s.Hidden}, {"intermediate_size", s.Intermediate}, {"num_hidden_layers", s.Layers},
		{"num_attention_heads", s.Heads}, {"num_key_value_heads", s.kv()}, {"head_dim", s.headDim()}, {"max_position_embeddings", s.MaxPositions}} {
		p.size(name(d.key), d.v)
	}
	if s.kv() > 0 && s.Heads%s.kv() != 0 {
		p.bad(name("num_key_value_heads"), "%d heads are not a multiple of %d", s.Heads, s.kv())
	}
	if !s.HeadDim.ok && s.Heads > 0 && s.Hidden%s.Heads != 0 {
		p.bad(name("hidden_size"), "%d is not a multiple of %d heads", s.Hidden, s.Heads)
	}
	p.act(name("hidden_act"), s.Act)
	if len(s.Quantization) > 0 && string(s.Quantization) != "null" {
		p.unsupported("quantization_config", "quantized weights are not supported")
	}
}

// rotary checks a rotary table for heads of headDim elements.
func (p *problems) rotary(r nn.Rope, headDim int) {
	p.check(r.Validate())
	if r.RotDim() > headDim && headDim > 0 {
		p.bad("partial_rotary_factor", "%d rotated elements do not fit into heads of %d", r.RotDim(), headDim)
	}
}

// window checks a sliding window; none is all keys.
func (p *problems) window(w maybe[int]) {
	if w.ok {
		p.size("sliding_window", w.v)
	}
}

// layerTypes checks the kinds of attention of the layers.
func (p *problems) layerTypes(types []string, layers int, window maybe[int]) {
	if len(types) != layers {
		p.bad("layer_types", "%d entries for %d layers", len(types), layers)
		return
	}
	for i, t := range types {
		switch {
		case t == "sliding_attention" && (!window.ok || window.v < 1):
			p.bad("sliding_window", "layer %d is sliding but there is no window", i)
		case t != "sliding_attention" && t != "full_attention":
			p.unsupported("layer_types", "layer %d has type %q (full_attention and sliding_attention are supported)", i, t)
		}
	}
}

// patternOf lists layer types where the file does not.
func patternOf(layers int, sliding func(i int) bool) []string {
	types := make([]string, max(0, min(layers, 1<<16)))
	for i := range types {
		types[i] = "full_attention"
		if sliding(i) {
			types[i] = "sliding_attention"
		}
	}
	return types
}

// windowOf is the window of a layer of that type.
func windowOf(layerType string, window maybe[int]) int {
	if layerType == "sliding_attention" {
		return window.or(0)
	}
	return 0
}

func (p *problems) err() error { return errors.Join(p.errs...) }

// makeBlocks makes the layers and lists them for the skeleton.
func makeBlocks[B any, P interface {
	*B
	block
}](n int, layer func(i int) B) ([]B, []block) {
	layers, blocks := make([]B, n), make([]block, n)
	for i := range layers {
		layers[i] = layer(i)
		blocks[i] = P(&layers[i])
	}
	return layers, blocks
}

// decoder is the module tree that most architectures use around their layers.
type decoder[B any] struct {
	Model struct {
		Embed  nn.Embedding `hf:"embed_tokens"`
		Layers []B          `hf:"layers"`
		Norm   nn.Norm      `hf:"norm"`
	} `hf:"model"`
	// Head has no weight when tied to the embedding.
	Head nn.Linear `hf:"lm_head"`
}

// newDecoder describes a model of that tree.
func newDecoder[B any, P interface {
	*B
	block
}](s Sizes, norm nn.Norm, layer func(i int) B) description {
	m := &decoder[B]{Head: s.output(false)}
	m.Model.Embed = s.tokens(s.Hidden)
	m.Model.Norm = norm
	d := description{root: m, info: s.info("model"), embed: &m.Model.Embed, norm: &m.Model.Norm, head: &m.Head}
	m.Model.Layers, d.blocks = makeBlocks[B, P](s.Layers, layer)
	return d
}
