package zoo

import (
	"encoding/json"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// llama is LlamaForCausalLM of transformers (modeling_llama.py).
type llama struct {
	Model struct {
		Embed  nn.Embedding `hf:"embed_tokens"`
		Blocks []llamaBlock `hf:"layers"`
		Norm   nn.RMSNorm   `hf:"norm"`
	} `hf:"model"`
	// Head is absent (nil weight) when tied to the embedding.
	Head nn.Linear `hf:"lm_head"`

	cfg               LlamaConfig
	raw               json.RawMessage
	embed, norm, head *nn.Unit
	blocks            []*nn.Unit
}

type llamaBlock struct {
	AttnNorm nn.RMSNorm   `hf:"input_layernorm"`
	Attn     nn.Attention `hf:"self_attn"`
	MLPNorm  nn.RMSNorm   `hf:"post_attention_layernorm"`
	MLP      nn.SwiGLU    `hf:"mlp"`
}

func newLlama(raw json.RawMessage) (Model, error) {
	var c LlamaConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("cannot make llama model: %w", err)
	}
	m := &llama{cfg: c, raw: raw}
	m.Model.Embed = nn.NewEmbedding(c.Vocab, c.Hidden, c.InitRange)
	m.Model.Norm = nn.NewRMSNorm(c.Hidden, c.Eps)
	m.Model.Blocks = make([]llamaBlock, c.Layers)
	for i := range m.Model.Blocks {
		m.Model.Blocks[i] = newLlamaBlock(c)
	}
	if !c.Tied {
		m.Head = nn.NewLinear(c.Hidden, c.Vocab, false, c.InitRange)
	}
	nn.Name(m)
	m.embed = &nn.Unit{Name: "model.embed_tokens", Block: -1, Params: nn.Params(&m.Model.Embed)}
	m.norm = &nn.Unit{Name: "model.norm", Block: -1, Params: nn.Params(&m.Model.Norm)}
	m.head = m.embed
	if !c.Tied {
		m.head = &nn.Unit{Name: "lm_head", Block: -1, Params: nn.Params(&m.Head)}
	}
	for i := range m.Model.Blocks {
		m.blocks = append(m.blocks, &nn.Unit{Name: fmt.Sprintf("model.layers.%d", i), Block: i, Params: nn.Params(&m.Model.Blocks[i])})
	}
	return m, nil
}

func newLlamaBlock(c LlamaConfig) llamaBlock {
	linear := func(in, out int, bias bool) nn.Linear { return nn.NewLinear(in, out, bias, c.InitRange) }
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	return llamaBlock{
		AttnNorm: nn.NewRMSNorm(c.Hidden, c.Eps),
		MLPNorm:  nn.NewRMSNorm(c.Hidden, c.Eps),
		Attn: nn.Attention{Q: linear(c.Hidden, q, c.AttentionBias), K: linear(c.Hidden, kv, c.AttentionBias), V: linear(c.Hidden, kv, c.AttentionBias),
			O: linear(q, c.Hidden, c.AttentionBias), Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim},
		MLP: nn.SwiGLU{Gate: linear(c.Hidden, c.Intermediate, c.MLPBias), Up: linear(c.Hidden, c.Intermediate, c.MLPBias),
			Down: linear(c.Intermediate, c.Hidden, c.MLPBias)},
	}
}

func (b *llamaBlock) forward(t *autograd.Tape, x autograd.Value, p *nn.Positions, cache *ops.LayerCache) autograd.Value {
	h := b.Attn.Add(t, b.AttnNorm.Forward(t, x), x, p, cache)
	y := b.MLP.Add(t, b.MLPNorm.Forward(t, h), h)
	t.Release(h)
	return y
}

// Info implements Model.
func (m *llama) Info() Info {
	return Info{Architecture: "LlamaForCausalLM", Vocab: m.cfg.Vocab, Hidden: m.cfg.Hidden, Layers: m.cfg.Layers, KVHeads: m.cfg.KVHeads,
		HeadDim: m.cfg.HeadDim, MaxPositions: m.cfg.MaxPositions, Tied: m.cfg.Tied, Config: m.raw}
}

// Root implements Model.
func (m *llama) Root() any { return m }

// Units implements Model. With tied weights the embedding's unit spans the whole pass and there is no unit of the head.
func (m *llama) Units() []*nn.Unit {
	units := append([]*nn.Unit{m.embed}, m.blocks...)
	units = append(units, m.norm)
	if m.head != m.embed {
		units = append(units, m.head)
	}
	return units
}

// headOperands are the operands of the product that gives the logits.
func (m *llama) headOperands(t *autograd.Tape, x autograd.Value) (x2, w autograd.Value) {
	if m.cfg.Tied {
		return x, t.Param(m.Model.Embed.HeadWeight())
	}
	return m.Head.Operands(t, x)
}

// hidden computes the final norm's output [tokens, hidden]. last keeps only the last position of each row before the norm.
func (m *llama) hidden(t *autograd.Tape, b *nn.Batch, cache *Cache, last bool) autograd.Value {
	if err := b.Validate(m.cfg.Vocab); err != nil {
		t.Fail("llama", err)
		return autograd.Value{}
	}
	start := 0
	if cache != nil {
		start = cache.Len
	}
	p := b.Upload(t, m.cfg.Rope(), start)
	if cache != nil && cache.KVFirst != nil {
		p.KVFirst = t.Ints(cache.KVFirst, int64(b.Rows))
	}
	ids := t.Ints(b.IDs, int64(len(b.IDs)))
	t.Enter(m.embed)
	x := m.Model.Embed.Forward(t, ids)
	if m.head != m.embed {
		t.Leave(m.embed)
	}
	for i, u := range m.blocks {
		var lc *ops.LayerCache
		if cache != nil {
			lc = &cache.Layers[i]
		}
		block := &m.Model.Blocks[i]
		x = t.Block(u, x, func(x autograd.Value) autograd.Value { return block.forward(t, x, p, lc) })
	}
	if last && b.Seq > 1 {
		x = ops.LastRows(t, x, b.Rows, b.Seq)
	}
	t.Enter(m.norm)
	y := m.Model.Norm.Forward(t, x)
	t.Release(x)
	t.Leave(m.norm)
	return y
}

// LogProbs implements Model.
func (m *llama) LogProbs(t *autograd.Tape, b *nn.Batch, scale float32) autograd.Value {
	return m.logProbs(t, b, nil, scale)
}

func (m *llama) logProbs(t *autograd.Tape, b *nn.Batch, c *Cache, scale float32) autograd.Value {
	if len(b.Labels) != len(b.IDs) {
		t.Fail("llama", fmt.Errorf("batch has no labels"))
		return autograd.Value{}
	}
	x := m.hidden(t, b, c, false)
	targets := b.Targets()
	ids := t.Ints(targets, int64(len(targets)))
	if m.head != m.embed {
		t.Enter(m.head)
	}
	x2, w := m.headOperands(t, x)
	logp := ops.LinearXent(t, m.head, x2, w, ids, scale)
	t.Release(x)
	t.Leave(m.head)
	return logp
}

// Logits implements Model.
func (m *llama) Logits(t *autograd.Tape, b *nn.Batch) autograd.Value {
	return m.project(t, m.hidden(t, b, nil, false))
}

func (m *llama) project(t *autograd.Tape, x autograd.Value) autograd.Value {
	if m.head != m.embed {
		t.Enter(m.head)
	}
	x2, w := m.headOperands(t, x)
	y := ops.Linear(t, x2, w, autograd.Value{}, autograd.Value{})
	t.Release(x)
	t.Leave(m.head)
	return y
}

// Decode implements Model.
func (m *llama) Decode(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value {
	if err := c.check(b); err != nil {
		t.Fail("llama", err)
		return autograd.Value{}
	}
	y := m.project(t, m.hidden(t, b, c, true))
	c.Len += b.Seq
	return y
}

// Continue implements Model.
func (m *llama) Continue(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value {
	if err := c.check(b); err != nil {
		t.Fail("llama", err)
		return autograd.Value{}
	}
	return m.logProbs(t, b, c, 1)
}

// LengthDependent reports whether rotary frequencies change with the length of the sequence.
func (m *llama) LengthDependent() bool { return m.cfg.Rope().Dynamic() }
