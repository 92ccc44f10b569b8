package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// Heads is the geometry and the arithmetic of an attention layer. Zero values are the usual: values as long as keys, scale
// 1/sqrt(HeadDim), no window, no softcap, the first rotary table.
type Heads struct {
	Heads, KVHeads, HeadDim int
	// ValueDim is the length of a value, default HeadDim.
	ValueDim int
	// Layout says how a fused projection holds queries, keys and values.
	Layout ops.Layout
	// Scale multiplies scores.
	Scale float64
	// Window, when positive, is how many keys a query sees, itself included.
	Window int
	// Softcap, when positive, bounds scores.
	Softcap float64
	// NoRope leaves queries and keys unrotated; otherwise Rope is the index of the model's rotary table.
	NoRope bool
	Rope   int
	// Sinks ([heads]) are logits in the denominator only, or nil.
	Sinks *Param
}

// Attend computes attention of projected q, k, v (with a fused layout q alone) and releases them: [n, heads*value dim]. With a cache the
// keys and values of earlier positions come from there and the new ones are appended.
func (h *Heads) Attend(t *Tape, q, k, v Value, p *Positions, cache *ops.LayerCache) Value {
	c := ops.AttentionConfig{
		Batch: p.Batch, Seq: p.Seq, Heads: h.Heads, KVHeads: h.KVHeads, HeadDim: h.HeadDim, ValueDim: h.ValueDim, Layout: h.Layout,
		Scale: h.Scale, Window: h.Window, Softcap: h.Softcap, Pos: p.Pos, KVFirst: p.KVFirst, KVLast: p.KVLast, KeyMask: p.KeyMask,
		Docs: p.Docs, Bias: p.Bias, Sinks: t.Param(h.Sinks), Start: p.Start, Starts: p.Starts, QStart: p.QStart, Cache: cache,
	}
	if !h.NoRope && h.Rope < len(p.Tables) {
		r := p.Tables[h.Rope]
		c.Cos, c.Sin, c.RotDim, c.Interleaved = r.Cos, r.Sin, r.Dim, r.Interleaved // a table of 0 elements rotates nothing
	}
	c.Drop, _ = p.Drop.config(t)
	o := ops.Attention(t, q, k, v, c)
	t.Release(q, k, v)
	return o
}

// Layer maps rows to rows.
type Layer interface {
	Forward(t *Tape, x Value) Value
}

// Projections are the layers around attention. With a fused layout Q is the fused projection and K and V are nil.
type Projections struct {
	Q, K, V, O *Linear
	// QNorm and KNorm, when not nil, normalize queries and keys: before the rotation, or after it with NormRotated.
	QNorm, KNorm Layer
	NormRotated  bool
	// Clip, when positive, clamps queries, keys and values to [-Clip, Clip], after the norms (modeling_olmoe.py).
	Clip float32
}

// Add computes residual + O(attention(x)) and releases x. An absent residual counts as zero.
func (h *Heads) Add(t *Tape, x, residual Value, l Projections, p *Positions, cache *ops.LayerCache) Value {
	project := func(l1 *Linear) Value {
		if l1 == nil {
			return Value{}
		}
		return l1.Forward(t, x)
	}
	q, k, v := project(l.Q), project(l.K), project(l.V)
	t.Release(x)
	heads := *h
	if l.NormRotated && !h.NoRope {
		q, k = h.rotate(t, q, p), h.rotate(t, k, p)
		heads.NoRope = true
	}
	normalize := func(n Layer, x Value) Value {
		if n == nil {
			return x
		}
		y := n.Forward(t, x)
		t.Release(x)
		return y
	}
	q, k = normalize(l.QNorm, q), normalize(l.KNorm, k)
	q, k, v = l.clamp(t, q), l.clamp(t, k), l.clamp(t, v)
	var o Value
	if p.Short != nil && cache == nil {
		o = heads.attendShort(t, q, k, v, p)
	} else {
		o = heads.Attend(t, q, k, v, p, cache)
	}
	y := l.O.Add(t, o, residual)
	t.Release(o)
	return y
}

// clamp bounds x, if there is one, and releases it.
func (l Projections) clamp(t *Tape, x Value) Value {
	if l.Clip <= 0 || !x.Valid() {
		return x
	}
	y := ops.Clamp(t, x, -l.Clip, l.Clip)
	t.Release(x)
	return y
}

func (h *Heads) rotate(t *Tape, x Value, p *Positions) Value {
	r := p.Tables[h.Rope]
	if r.Dim == 0 {
		return x
	}
	y := ops.Rotate(t, x, ops.Rotary{Batch: p.Batch, Seq: p.Seq, HeadDim: h.HeadDim, RotDim: r.Dim, Interleaved: r.Interleaved, Cos: r.Cos, Sin: r.Sin, Pos: p.Pos})
	t.Release(x)
	return y
}

// Attention is self-attention with separate projections under the names most use.
type Attention struct {
	Q Linear `hf:"q_proj"`
	K Linear `hf:"k_proj"`
	V Linear `hf:"v_proj"`
	O Linear `hf:"o_proj"`
	// QNorm and KNorm, when not nil, normalize queries and keys before the rotation.
	QNorm *Norm `hf:"q_norm"`
	KNorm *Norm `hf:"k_norm"`
	// Clip, when positive, clamps q, k and v to [-Clip, Clip] after the norms.
	Clip float32
	Heads
}

// NewAttention describes an attention layer; qkv and out say whether the projections have biases.
func NewAttention(hidden int, h Heads, qkv, out bool, std float64) Attention {
	q, kv := h.Heads*h.HeadDim, h.KVHeads*h.HeadDim
	return Attention{Q: NewLinear(hidden, q, qkv, std), K: NewLinear(hidden, kv, qkv, std), V: NewLinear(hidden, kv, qkv, std),
		O: NewLinear(q, hidden, out, std), Heads: h}
}

// Add computes residual + Attention(x) and releases x. An absent residual counts as zero.
func (a *Attention) Add(t *Tape, x, residual Value, p *Positions, cache *ops.LayerCache) Value {
	l := Projections{Q: &a.Q, K: &a.K, V: &a.V, O: &a.O, Clip: a.Clip}
	if a.QNorm != nil {
		l.QNorm = a.QNorm
	}
	if a.KNorm != nil {
		l.KNorm = a.KNorm
	}
	return a.Heads.Add(t, x, residual, l, p, cache)
}

// HeadNorms normalizes each head with a norm of its own.
type HeadNorms struct {
	Norms []Norm `hf:"norms"`
}

// Forward implements Layer for x [n, heads*dim].
func (h *HeadNorms) Forward(t *Tape, x Value) Value {
	ws := make([]Value, len(h.Norms))
	for i := range h.Norms {
		ws[i] = t.Param(h.Norms[i].Weight)
	}
	c := h.Norms[0].NormConfig
	c.Dim = int(h.Norms[0].Weight.Shape[0])
	return ops.Norm(t, x, ws, Value{}, c)
}

// RopeTable holds cos and sin [positions, Dim/2] of the positions that occur in a batch.
type RopeTable struct {
	Cos, Sin autograd.Tensor
	// Dim is the number of rotated elements of a head; Interleaved pairs neighbours instead of halves.
	Dim         int
	Interleaved bool
}

// Positions is what attention needs to know about a batch. Tensors live on the device; absent ones are zero Tensors.
type Positions struct {
	// Batch and Seq are the shape of the ids.
	Batch, Seq int
	// Tables are the model's rotary tables.
	Tables []RopeTable
	// Pos (i32 [batch, seq]) are rows of the tables; absent: 0, 1, ...
	Pos autograd.Tensor
	// KVFirst and KVLast (i32 [batch]) bound the visible keys of each row: padding.
	KVFirst, KVLast autograd.Tensor
	// KeyMask (u8 [batch, seq]) hides single keys.
	KeyMask autograd.Tensor
	// Docs (i32 [documents+1], batch 1) are the boundaries of packed documents that do not see each other.
	Docs autograd.Tensor
	// Bias (f32 [batch, heads, keys], those of a cache included) is added to scores: ALiBi.
	Bias autograd.Tensor
	// Start is the position of the first query: the length of the cache.
	Start int
	// Starts, when not nil, are those of each row where they differ, Start is the greatest; QStart (i32 [batch]) are the same on the device.
	Starts []int
	QStart autograd.Tensor
	// Drop, when not nil, acts on the probabilities of the block that is being computed.
	Drop *Dropout
	// Short, when not nil, makes attention shifted short attention.
	Short *ShortAttention
}
