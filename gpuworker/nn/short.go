package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// ShortAttention is what shifted short attention (S2, https://arxiv.org/abs/2309.12307) needs to know about a batch: tokens see those of
// their group only; for the second half of the heads the tokens of a sequence are rotated by half a group before they are grouped, the
// first ones coming behind the last. It serves training; a model that was trained with it generates with ordinary attention.
type ShortAttention struct {
	// groups (i32 [groups+1]) bounds the groups of all rows, one row after another.
	groups autograd.Tensor
	// there holds, for each place after the shift, the token that stands there; back holds the place of each token.
	there, back []int32
	// mask (u8 [1, tokens]) hides padding keys; absent without padding. As in LLaMA-Factory each group has the mask of the first group of a row,
	// rows taking turns, whatever the group holds: padding behind the first group is seen.
	mask autograd.Tensor
}

// UploadShort prepares shifted short attention with groups of ratio times the length of a row. A length that is not a whole number of
// groups of even length is CodeData, as is a batch of packed documents.
func (b *Batch) UploadShort(t *Tape, ratio float64) (*ShortAttention, error) {
	if b.Docs != nil {
		return nil, schemas.Errorf(schemas.CodeData, "shift_attn", "shifted short attention does not keep packed documents apart").WithHint("turn neat_packing off")
	}
	size := int(float64(b.Seq) * ratio)
	if size < 2 || size%2 != 0 || b.Seq%size != 0 {
		return nil, schemas.Errorf(schemas.CodeData, "shift_attn", "sequences of %d tokens are no whole number of groups of %d, an even number of tokens", b.Seq, size).
			WithHint("pad sequences to a multiple of 8")
	}
	n := b.Rows * b.Seq
	s := &ShortAttention{there: make([]int32, n), back: make([]int32, n)}
	for i := range n {
		row, at := i/b.Seq*b.Seq, i%b.Seq
		from := row + (at+size/2)%b.Seq
		s.there[i], s.back[from] = int32(from), int32(i)
	}
	bounds := make([]int32, 0, n/size+1)
	for at := 0; at <= n; at += size {
		bounds = append(bounds, int32(at))
	}
	s.groups = t.Ints(bounds, int64(len(bounds)))
	if b.Mask != nil {
		mask := make([]uint8, n)
		for i := range mask {
			mask[i] = b.Mask[i/size%b.Rows*b.Seq+i%size]
		}
		s.mask = t.Bytes(mask, 1, int64(n))
	}
	return s, nil
}

// attendShort is Attend over groups; heads and kv heads are even in number and the projections separate.
func (h *Heads) attendShort(t *Tape, q, k, v Value, p *Positions) Value {
	if !h.NoRope && h.Rope < len(p.Tables) {
		q, k = h.rotate(t, q, p), h.rotate(t, k, p)
	}
	n := p.Batch * p.Seq
	half := func(lo, hi int) Value {
		s := p.Short
		c := ops.AttentionConfig{Batch: 1, Seq: n, Heads: h.Heads / 2, KVHeads: h.KVHeads / 2, HeadDim: h.HeadDim, ValueDim: h.ValueDim, Scale: h.Scale,
			Softcap: h.Softcap, Docs: s.groups, KeyMask: s.mask}
		if drop, ok := p.Drop.config(t); ok {
			drop.Stream ^= uint64(lo) // the halves count their heads, and name their tokens, alike
			c.Drop = drop
		}
		take := func(x Value, width int) Value {
			y := ops.Columns(t, x, lo*width/2, hi*width/2)
			if lo > 0 {
				z := ops.SelectRows(t, y, s.there)
				t.Release(y)
				y = z
			}
			return y
		}
		value := h.ValueDim
		if value == 0 {
			value = h.HeadDim
		}
		qh, kh, vh := take(q, h.Heads*h.HeadDim), take(k, h.KVHeads*h.HeadDim), take(v, h.KVHeads*value)
		o := ops.Attention(t, qh, kh, vh, c)
		t.Release(qh, kh, vh)
		if lo > 0 {
			back := ops.SelectRows(t, o, s.back)
			t.Release(o)
			o = back
		}
		return o
	}
	a, b := half(0, 1), half(1, 2)
	t.Release(q, k, v)
	o := ops.Concat(t, a, b, 1, 1)
	t.Release(a, b)
	return o
}
