package ops

import (
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// LayerCache holds the rotated keys and the values of one layer: [batch, capacity, kv heads, head dim].
type LayerCache struct {
	K, V autograd.Tensor
}

// AttentionConfig describes one attention operation. Absent tensors are zero Tensors.
type AttentionConfig struct {
	Batch, Seq, Heads, KVHeads, HeadDim int
	// Cos and Sin are the rotary tables [positions, head dim/2]; Pos (i32 [batch, seq]) the rows to use, default 0, 1, ...
	Cos, Sin, Pos autograd.Tensor
	// KVFirst and KVLast (i32 [batch]) bound the visible keys; Docs (i32 [documents+1]) separates packed documents.
	KVFirst, KVLast, Docs autograd.Tensor
	// KeyMask (u8 [batch, seq]) hides single keys.
	KeyMask autograd.Tensor
	// Start is the number of positions already in Cache.
	Start int
	Cache *LayerCache
}

type attention struct {
	q, k, v, o, lse autograd.Value
	fwd             kernels.AttnFwd
	cfg             AttentionConfig
}

// Attention rotates q [n, heads*dim] and k [n, kv heads*dim] in place and computes causal attention with v; n = batch*seq. With a cache
// the new keys and values are appended at Start and the queries see all before them; this form has no backward.
func Attention(t *autograd.Tape, q, k, v autograd.Value, c AttentionConfig) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	b, s, d := int64(c.Batch), int64(c.Seq), int64(c.HeadDim)
	split := func(x autograd.Value, heads int) autograd.Tensor { return t.Data(x).Reshape(b, s, int64(heads), d) }
	qd, kd, vd := split(q, c.Heads), split(k, c.KVHeads), split(v, c.KVHeads)
	od, h := t.Out(b*s, int64(c.Heads)*d)
	lse, lh := t.Out(b, int64(c.Heads), s)
	if !t.OK() {
		return autograd.Value{}
	}
	op := &attention{q: q, k: k, v: v, cfg: c}
	queue := t.Queue()
	op.rotate(queue, qd, false)
	op.rotate(queue, kd, false)
	f := kernels.AttnFwd{Q: qd, K: kd, V: vd, O: od.Reshape(b, s, int64(c.Heads), d), LSE: lse, KVFirst: c.KVFirst, KVLast: c.KVLast,
		CuSeqlens: c.Docs, KeyMask: c.KeyMask, Scale: float32(1 / math.Sqrt(float64(d))), Causal: 1, WindowLeft: -1, WindowRight: -1}
	if c.Cache != nil {
		if t.Recording() {
			t.Fail("attention", fmt.Errorf("a key-value cache cannot be used in training"))
			return autograd.Value{}
		}
		end := int64(c.Start) + s
		queue.Copy(kernels.Copy{X: kd, Y: c.Cache.K.Slice(1, int64(c.Start), end)})
		queue.Copy(kernels.Copy{X: vd, Y: c.Cache.V.Slice(1, int64(c.Start), end)})
		f.K, f.V = c.Cache.K.Slice(1, 0, end), c.Cache.V.Slice(1, 0, end)
		f.QStart0 = int64(c.Start)
	}
	queue.AttnFwd(f)
	t.Check("attention", qd, kd, vd)
	op.fwd = f
	op.lse = t.Hold(lse, lh)
	op.o = t.Record(op, od, h, t.Needs(q, k, v), q, k, v, op.lse)
	if t.Needs(op.o) {
		t.Keep(op.o)
	}
	t.Release(op.lse)
	return op.o
}

func (op *attention) rotate(q *kernels.Queue, x autograd.Tensor, inverse bool) {
	q.Rope(kernels.Rope{X: x, Y: x, Pos: op.cfg.Pos, Cos: op.cfg.Cos, Sin: op.cfg.Sin, RotDim: int32(op.cfg.HeadDim),
		Inverse: kernels.Flag(inverse)})
}

// Name implements autograd.Op.
func (op *attention) Name() string { return "attention" }

// Backward implements autograd.Op.
func (op *attention) Backward(t *autograd.Tape) error {
	do, _ := t.Grad(op.o)
	p := kernels.AttnBwd{AttnFwd: op.fwd, DO: do.Reshape(op.fwd.O.Shape()...)}
	var scratch [3]autograd.Handle
	type side struct {
		v      autograd.Value
		shape  autograd.Tensor
		g      *kernels.Tensor
		rotate bool
		wanted bool
	}
	sides := []side{{v: op.q, shape: op.fwd.Q, g: &p.DQ, rotate: true}, {v: op.k, shape: op.fwd.K, g: &p.DK, rotate: true}, {v: op.v, shape: op.fwd.V, g: &p.DV}}
	for i := range sides {
		s := &sides[i]
		g, acc, ok := t.GradFor(s.v)
		if acc {
			return fmt.Errorf("an operand of attention is used elsewhere too")
		}
		if !ok {
			g, scratch[i] = t.Out(t.Data(s.v).Shape()...)
		}
		s.wanted = ok
		*s.g = g.Reshape(s.shape.Shape()...)
	}
	if !t.OK() {
		return t.Err()
	}
	q := t.Queue()
	q.AttnBwd(p)
	for i, s := range sides {
		if s.rotate && s.wanted {
			op.rotate(q, *s.g, true)
		}
		t.Free(&scratch[i])
	}
	return q.Err()
}
