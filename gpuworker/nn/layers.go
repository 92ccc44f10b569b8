package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// Linear is y = x W^T + b with W of shape [out, in]. An adapter may replace the operation.
type Linear struct {
	Weight *Param `hf:"weight"`
	Bias   *Param `hf:"bias"`
	// Adapter, when not nil, computes the layer in place of the plain product.
	Adapter LinearAdapter
}

// NewLinear describes a layer with weights drawn from N(0, std) and zero bias.
func NewLinear(in, out int, bias bool, std float64) Linear {
	l := Linear{Weight: &Param{Shape: []int64{int64(out), int64(in)}, Role: autograd.RoleMatrix, Init: autograd.Init{Kind: autograd.InitNormal, Std: std}}}
	if bias {
		l.Bias = &Param{Shape: []int64{int64(out)}, Role: autograd.RoleBias}
	}
	return l
}

// In and Out are the layer's widths.
func (l *Linear) In() int64 { return l.Weight.Shape[1] }

// Out is the number of output features.
func (l *Linear) Out() int64 { return l.Weight.Shape[0] }

// Forward computes x [n, in] to [n, out].
func (l *Linear) Forward(t *Tape, x Value) Value { return l.Add(t, x, Value{}) }

// Add computes residual + Linear(x) in one operation; an absent residual counts as zero.
func (l *Linear) Add(t *Tape, x, residual Value) Value {
	if l.Adapter != nil {
		return l.Adapter.Forward(t, l, x, residual)
	}
	return ops.Linear(t, x, t.Param(l.Weight), t.Param(l.Bias), residual)
}

// RMSNorm is https://arxiv.org/abs/1910.07467 over the last dimension.
type RMSNorm struct {
	Weight *Param `hf:"weight"`
	Eps    float32
}

// NewRMSNorm describes a norm over dim elements with weights of one.
func NewRMSNorm(dim int, eps float64) RMSNorm {
	return RMSNorm{Eps: float32(eps), Weight: &Param{Shape: []int64{int64(dim)}, Role: autograd.RoleNorm, Init: autograd.Init{Kind: autograd.InitOnes}}}
}

// Forward normalizes the rows of x.
func (n *RMSNorm) Forward(t *Tape, x Value) Value { return ops.RMSNorm(t, x, t.Param(n.Weight), n.Eps) }

// Embedding maps ids to rows of W [vocab, dim].
type Embedding struct {
	Weight *Param `hf:"weight"`
	// Adapter, when not nil, computes the lookup in place of the plain one.
	Adapter EmbeddingAdapter
	// Tied, when not nil, is what an output head that is tied to the embedding uses in place of Weight; see HeadWeight.
	Tied *Param
}

// NewEmbedding describes a table with rows drawn from N(0, std).
func NewEmbedding(vocab, dim int, std float64) Embedding {
	return Embedding{Weight: &Param{Shape: []int64{int64(vocab), int64(dim)}, Role: autograd.RoleEmbedding, Init: autograd.Init{Kind: autograd.InitNormal, Std: std}}}
}

// Forward looks up ids (i32 [n]) as [n, dim].
func (e *Embedding) Forward(t *Tape, ids autograd.Tensor) Value {
	if e.Adapter != nil {
		return e.Adapter.Forward(t, e, ids)
	}
	return ops.Embedding(t, ids, t.Param(e.Weight))
}

// SwiGLU is the gated feed-forward layer down(silu(gate(x)) * up(x)) of https://arxiv.org/abs/2002.05202.
type SwiGLU struct {
	Gate Linear `hf:"gate_proj"`
	Up   Linear `hf:"up_proj"`
	Down Linear `hf:"down_proj"`
}

// Add computes residual + SwiGLU(x).
func (m *SwiGLU) Add(t *Tape, x, residual Value) Value {
	gate := m.Gate.Forward(t, x)
	up := m.Up.Forward(t, x)
	t.Release(x)
	act := ops.SwiGLU(t, gate, up)
	t.Release(gate, up)
	y := m.Down.Add(t, act, residual)
	t.Release(act)
	return y
}

// Attention is self-attention with grouped key-value heads and rotary positions.
type Attention struct {
	Q Linear `hf:"q_proj"`
	K Linear `hf:"k_proj"`
	V Linear `hf:"v_proj"`
	O Linear `hf:"o_proj"`

	Heads, KVHeads, HeadDim int
}

// Add computes residual + Attention(x) and releases x. With a cache the keys and values of earlier positions come from there and those
// of x are appended.
func (a *Attention) Add(t *Tape, x, residual Value, p *Positions, cache *ops.LayerCache) Value {
	q := a.Q.Forward(t, x)
	k := a.K.Forward(t, x)
	v := a.V.Forward(t, x)
	t.Release(x)
	o := ops.Attention(t, q, k, v, ops.AttentionConfig{
		Batch: p.Batch, Seq: p.Seq, Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim,
		Cos: p.Cos, Sin: p.Sin, Pos: p.Pos, KVFirst: p.KVFirst, KVLast: p.KVLast, KeyMask: p.KeyMask, Docs: p.Docs, Start: p.Start, Cache: cache,
	})
	t.Release(q, k, v)
	y := a.O.Add(t, o, residual)
	t.Release(o)
	return y
}

// Positions is what attention needs to know about a batch. Tensors live on the device; absent ones are zero Tensors.
type Positions struct {
	// Batch and Seq are the shape of the ids.
	Batch, Seq int
	// Cos and Sin are rotary tables [positions, dim/2], of the positions that occur only.
	Cos, Sin autograd.Tensor
	// Pos (i32 [batch, seq]) are rows of the tables; absent: 0, 1, ...
	Pos autograd.Tensor
	// KVFirst and KVLast (i32 [batch]) bound the visible keys of each row: padding.
	KVFirst, KVLast autograd.Tensor
	// KeyMask (u8 [batch, seq]) hides single keys.
	KeyMask autograd.Tensor
	// Docs (i32 [documents+1], batch 1) are the boundaries of packed documents that do not see each other.
	Docs autograd.Tensor
	// Start is the position of the first query: the length of the cache.
	Start int
}
