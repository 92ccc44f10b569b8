package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// LatentAttention is the multi-head latent attention of DeepSeek-V2 (https://arxiv.org/abs/2405.04434): keys and values are made from a
// latent of rank KVRank, and each key ends with a rotated part that the heads share.
type LatentAttention struct {
	// Q projects to queries; or, with a low rank, QA, QNorm and QB do.
	Q     *Linear `hf:"q_proj"`
	QA    *Linear `hf:"q_a_proj"`
	QNorm *Norm   `hf:"q_a_layernorm"`
	QB    *Linear `hf:"q_b_proj"`
	// KVA projects to the latent and the shared part of the keys.
	KVA    Linear `hf:"kv_a_proj_with_mqa"`
	KVNorm Norm   `hf:"kv_a_layernorm"`
	KVB    Linear `hf:"kv_b_proj"`
	O      Linear `hf:"o_proj"`
	LatentSizes
	// Scale multiplies scores.
	Scale float64
}

// LatentSizes are the dimensions of a LatentAttention: a query or key is NoPE elements and RoPE rotated ones. QRank 0 is a full
// projection.
type LatentSizes struct {
	Heads, NoPE, RoPE, Value, QRank, KVRank int
}

// NewLatentAttention describes the layer. bias is that of QA, KVA and O.
func NewLatentAttention(hidden int, s LatentSizes, bias bool, eps, scale, std float64) LatentAttention {
	a := LatentAttention{LatentSizes: s, Scale: scale,
		KVA: NewLinear(hidden, s.KVRank+s.RoPE, bias, std), KVNorm: NewRMSNorm(s.KVRank, eps),
		KVB: NewLinear(s.KVRank, s.Heads*(s.NoPE+s.Value), false, std), O: NewLinear(s.Heads*s.Value, hidden, bias, std)}
	if s.QRank == 0 {
		q := NewLinear(hidden, s.Heads*(s.NoPE+s.RoPE), false, std)
		a.Q = &q
		return a
	}
	qa, norm, qb := NewLinear(hidden, s.QRank, bias, std), NewRMSNorm(s.QRank, eps), NewLinear(s.QRank, s.Heads*(s.NoPE+s.RoPE), false, std)
	a.QA, a.QNorm, a.QB = &qa, &norm, &qb
	return a
}

// Add computes residual + attention of x and releases x. Within a head the rotated elements come first here: scores do not change when
// queries and keys are permuted alike.
func (a *LatentAttention) Add(t *Tape, x, residual Value, p *Positions, cache *ops.LayerCache) Value {
	q := a.query(t, x)
	kva := a.KVA.Forward(t, x)
	t.Release(x)
	latent := ops.Columns(t, kva, 0, a.KVRank)
	normed := a.KVNorm.Forward(t, latent)
	t.Release(latent)
	kv := a.KVB.Forward(t, normed)
	t.Release(normed)
	dk := a.NoPE + a.RoPE
	qh := ops.JoinHeads(t, a.Heads, ops.HeadPart{X: q, From: a.NoPE, To: dk}, ops.HeadPart{X: q, From: 0, To: a.NoPE})
	kh := ops.JoinHeads(t, a.Heads, ops.HeadPart{X: kva, From: a.KVRank, To: a.KVRank + a.RoPE, Shared: true}, ops.HeadPart{X: kv, From: 0, To: a.NoPE})
	vh := ops.JoinHeads(t, a.Heads, ops.HeadPart{X: kv, From: a.NoPE, To: a.NoPE + a.Value})
	t.Release(q, kva, kv)
	h := Heads{Heads: a.Heads, KVHeads: a.Heads, HeadDim: dk, ValueDim: a.Value, Scale: a.Scale}
	o := h.Attend(t, qh, kh, vh, p, cache)
	y := a.O.Add(t, o, residual)
	t.Release(o)
	return y
}

func (a *LatentAttention) query(t *Tape, x Value) Value {
	if a.QA == nil {
		return a.Q.Forward(t, x)
	}
	latent := a.QA.Forward(t, x)
	normed := a.QNorm.Forward(t, latent)
	t.Release(latent)
	q := a.QB.Forward(t, normed)
	t.Release(normed)
	return q
}
