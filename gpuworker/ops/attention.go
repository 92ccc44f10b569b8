package ops

import (
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// LayerCache holds the rotated keys [batch, capacity, kv heads, head dim] and the values [batch, capacity, kv heads, value dim] of one
// layer.
type LayerCache struct {
	K, V autograd.Tensor
}

// Layout says where queries, keys and values lie.
type Layout uint8

// Layouts of one fused projection; in each the query operand is the whole of it and the others are absent.
const (
	// Separate operands q, k and v.
	Separate Layout = iota
	// FusedParts: all queries, then all keys, then all values.
	FusedParts
	// FusedHeads: for each head its query, key and value. Needs as many kv heads as heads.
	FusedHeads
	// FusedGroups: for each kv head the queries of its group, then its key, then its value.
	FusedGroups
)

// AttentionConfig describes one attention operation. Absent tensors are zero Tensors.
type AttentionConfig struct {
	Batch, Seq, Heads, KVHeads, HeadDim int
	// ValueDim is the length of a value, default HeadDim.
	ValueDim int
	Layout   Layout
	// Scale multiplies q.k, default 1/sqrt(HeadDim).
	Scale float64
	// Window, when positive, is the number of keys that a query sees, itself included.
	Window int
	// Softcap, when positive, bounds scores: softcap*tanh(score/softcap).
	Softcap float64
	// RotDim is the number of rotated elements of a head, default HeadDim; Interleaved pairs neighbours instead of halves.
	RotDim      int
	Interleaved bool
	// Cos and Sin are the rotary tables [positions, RotDim/2], absent: no rotation; Pos (i32 [batch, seq]) the rows to use, default 0, 1, ...
	Cos, Sin, Pos autograd.Tensor
	// KVFirst and KVLast (i32 [batch]) bound the visible keys; Docs (i32 [documents+1]) separates packed documents.
	KVFirst, KVLast, Docs autograd.Tensor
	// KeyMask (u8 [batch, seq]) hides single keys.
	KeyMask autograd.Tensor
	// Bias (f32 [batch, heads, keys], those of a cache included) is added to the scores of each key: ALiBi. It has no gradient.
	Bias autograd.Tensor
	// Sinks ([heads]) are one more logit of each head, in the denominator only; may be absent.
	Sinks autograd.Value
	// Drop, with a P above 0, drops probabilities after the softmax; its Rows are the tokens'.
	Drop DropoutConfig
	// Start is the number of positions already in Cache.
	Start int
	Cache *LayerCache
	// Starts, when not nil, are those of each row in place of Start, the greatest of which Start is; QStart (i32 [batch]) are the same on the
	// device. Seq is 1 then.
	Starts []int
	QStart autograd.Tensor
}

type attention struct {
	q, k, v, o, lse, grouped autograd.Value
	fwd                      kernels.AttnFwd
	cfg                      AttentionConfig
}

// Attention rotates q [n, heads*dim] and k [n, kv heads*dim] in place and computes causal attention with v [n, kv heads*value dim];
// n = batch*seq. With a cache the new keys and values are appended at Start and the queries see all before them; this form has no
// backward.
func Attention(t *autograd.Tape, q, k, v autograd.Value, c AttentionConfig) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	if c.ValueDim == 0 {
		c.ValueDim = c.HeadDim
	}
	if c.RotDim == 0 {
		c.RotDim = c.HeadDim
	}
	if c.Scale == 0 {
		c.Scale = 1 / math.Sqrt(float64(c.HeadDim))
	}
	op := &attention{q: q, k: k, v: v, cfg: c}
	if c.Layout != Separate && (k.Valid() || v.Valid() || c.ValueDim != c.HeadDim || c.Layout == FusedHeads && c.Heads != c.KVHeads) {
		t.Fail("attention", fmt.Errorf("operands do not fit layout %d", c.Layout), t.Data(q))
		return autograd.Value{}
	}
	b, s := int64(c.Batch), int64(c.Seq)
	od, h := t.OutLike(t.Data(q), b*s, int64(c.Heads*c.ValueDim))
	lse, lh := t.Out(b, int64(c.Heads), s)
	if !t.OK() {
		return autograd.Value{}
	}
	qd, kd, vd := op.operands(t)
	if !t.OK() {
		return autograd.Value{}
	}
	queue := t.Queue()
	op.rotate(queue, qd, false)
	op.rotate(queue, kd, false)
	f := kernels.AttnFwd{Q: qd, K: kd, V: vd, O: od.Reshape(b, s, int64(c.Heads), int64(c.ValueDim)), LSE: lse, KVFirst: c.KVFirst, KVLast: c.KVLast,
		CuSeqlens: c.Docs, KeyMask: c.KeyMask, Bias: c.Bias, Scale: float32(c.Scale), Softcap: float32(c.Softcap), Causal: 1, WindowLeft: -1, WindowRight: -1}
	if c.Drop.P > 0 {
		f.Dropout, f.Seed, f.Stream, f.RowIDs = c.Drop.P, c.Drop.Seed, c.Drop.Stream, c.Drop.Rows
	}
	if c.Window > 0 {
		f.WindowLeft = int32(c.Window - 1)
	}
	if c.Sinks.Valid() {
		f.Sinks = t.Data(c.Sinks)
	}
	if c.Cache != nil {
		if t.Recording() {
			t.Fail("attention", fmt.Errorf("a key-value cache cannot be used in training"))
			return autograd.Value{}
		}
		c.append(queue, kd, vd)
		end := int64(c.Start) + s
		f.K, f.V = c.Cache.K.Slice(1, 0, end), c.Cache.V.Slice(1, 0, end)
		f.QStart0, f.QStart = int64(c.Start), c.QStart
	}
	queue.AttnFwd(f)
	t.Check("attention", qd, kd, vd)
	op.fwd = f
	op.lse = t.Hold(lse, lh)
	saved := []autograd.Value{q, k, v, op.lse}
	if op.grouped.Valid() {
		saved[1] = op.grouped
	}
	t.Modified(q, k, v)
	op.o = t.Record(op, od, h, t.Needs(q, k, v, c.Sinks), saved...)
	if t.Needs(op.o) {
		t.Keep(op.o)
	}
	t.Release(op.lse, op.grouped)
	return op.o
}

// append puts new keys and values [batch, seq, kv heads, dim] behind those of the cache.
func (c *AttentionConfig) append(q *kernels.Queue, k, v autograd.Tensor) {
	for _, x := range [2][2]autograd.Tensor{{k, c.Cache.K}, {v, c.Cache.V}} {
		if c.Starts == nil {
			q.Copy(kernels.Copy{X: x[0], Y: x[1].Slice(1, int64(c.Start), int64(c.Start+c.Seq))})
			continue
		}
		for r, at := range c.Starts {
			q.Copy(kernels.Copy{X: x[0].Select(0, int64(r)), Y: x[1].Select(0, int64(r)).Slice(0, int64(at), int64(at+1))})
		}
	}
}

// operands views q, k and v as [batch, seq, heads, dim]. Queries of groups have no such view and are copied.
func (op *attention) operands(t *autograd.Tape) (q, k, v autograd.Tensor) {
	c := op.cfg
	b, s := int64(c.Batch), int64(c.Seq)
	if c.Layout == Separate {
		return t.Data(op.q).Reshape(b, s, int64(c.Heads), int64(c.HeadDim)), t.Data(op.k).Reshape(b, s, int64(c.KVHeads), int64(c.HeadDim)),
			t.Data(op.v).Reshape(b, s, int64(c.KVHeads), int64(c.ValueDim))
	}
	q, k, v = c.split(t.Data(op.q))
	if c.Layout == FusedGroups {
		x, h := t.OutLike(q, b, s, int64(c.Heads), int64(c.HeadDim))
		if !t.OK() {
			return q, k, v
		}
		t.Queue().Copy(kernels.Copy{X: q, Y: x.Reshape(q.Shape()...)})
		op.grouped = t.Hold(x, h)
		q = x
	}
	return q, k, v
}

// split views a fused projection; with FusedGroups queries are [batch, seq, kv heads, group, dim].
func (c AttentionConfig) split(x autograd.Tensor) (q, k, v autograd.Tensor) {
	b, s, hq, hk, d := int64(c.Batch), int64(c.Seq), int64(c.Heads), int64(c.KVHeads), int64(c.HeadDim)
	switch c.Layout {
	case FusedParts:
		x = x.Reshape(b, s, hq+2*hk, d)
		return x.Slice(2, 0, hq), x.Slice(2, hq, hq+hk), x.Slice(2, hq+hk, hq+2*hk)
	case FusedHeads:
		x = x.Reshape(b, s, hq, 3, d)
		return x.Select(3, 0), x.Select(3, 1), x.Select(3, 2)
	}
	r := hq / hk
	x = x.Reshape(b, s, hk, r+2, d)
	return x.Slice(3, 0, r), x.Select(3, r), x.Select(3, r+1)
}

func (op *attention) rotate(q *kernels.Queue, x autograd.Tensor, inverse bool) {
	if !op.cfg.Cos.Present() {
		return
	}
	q.Rope(kernels.Rope{X: x, Y: x, Pos: op.cfg.Pos, Cos: op.cfg.Cos, Sin: op.cfg.Sin, RotDim: int32(op.cfg.RotDim),
		Interleaved: kernels.Flag(op.cfg.Interleaved), Inverse: kernels.Flag(inverse)})
}

// Name implements autograd.Op.
func (op *attention) Name() string { return "attention" }

// Backward implements autograd.Op.
func (op *attention) Backward(t *autograd.Tape) error {
	do, _ := t.Grad(op.o)
	p := kernels.AttnBwd{AttnFwd: op.fwd, DO: do.Reshape(op.fwd.O.Shape()...)}
	if g, acc, ok := t.GradFor(op.cfg.Sinks); ok {
		p.DSinks, p.DSinksAccumulate = g, kernels.Flag(acc)
	}
	if op.cfg.Layout != Separate {
		return op.backwardFused(t, p)
	}
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
			g, scratch[i] = t.OutLike(op.fwd.Q, t.Data(s.v).Shape()...)
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

// backwardFused writes the three gradients into that of the fused projection, which they cover.
func (op *attention) backwardFused(t *autograd.Tape, p kernels.AttnBwd) error {
	g, acc, ok := t.GradFor(op.q)
	if acc {
		return fmt.Errorf("an operand of attention is used elsewhere too")
	}
	var scratch, grouped autograd.Handle
	if !ok {
		g, scratch = t.OutLike(op.fwd.Q, t.Data(op.q).Shape()...)
	}
	if !t.OK() {
		return t.Err()
	}
	var dq autograd.Tensor
	dq, p.DK, p.DV = op.cfg.split(g)
	p.DQ = dq
	if op.cfg.Layout == FusedGroups {
		if p.DQ, grouped = t.OutLike(op.fwd.Q, op.fwd.Q.Shape()...); !t.OK() {
			return t.Err()
		}
	}
	q := t.Queue()
	q.AttnBwd(p)
	op.rotate(q, p.DQ, true)
	op.rotate(q, p.DK, true)
	if op.cfg.Layout == FusedGroups {
		q.Copy(kernels.Copy{X: p.DQ.Reshape(dq.Shape()...), Y: dq})
	}
	t.Free(&grouped)
	t.Free(&scratch)
	return q.Err()
}
