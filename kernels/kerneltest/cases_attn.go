package kerneltest

import (
	"slices"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// attn is an attention case: the oracle's description and what the backend gets.
type attn struct {
	name string
	a    oracle.Attn
	acc  bool
	// qstart gives positions by tensor, not by number; aligned operands have rows without gaps (but for gap elements, as views of a larger
	// tensor have); sequences share a sharedBias.
	qstart, aligned, sharedBias bool
	gap                         int64
}

// bias is slope times the number of each key, as ALiBi has it, and a little noise, so that it is no function of the distance; with shared
// the same for all sequences.
func (c *attn) bias(slope float64, shared bool) {
	a := &c.a
	c.sharedBias = shared
	for b := range a.Batch {
		for h := range a.Heads {
			for j := range a.TK {
				n := h*31 + j*17
				if !shared {
					n += b * 7
				}
				a.Bias = append(a.Bias, float64(float32(slope/float64(h+1)*float64(j)+float64(n%11)/32)))
			}
		}
	}
}

func attnCases() []attn {
	base := oracle.Attn{Batch: 2, TQ: 9, TK: 9, Heads: 4, KVHeads: 2, DQK: 16, DV: 16, Scale: 0.25}
	with := func(name string, f func(*attn)) attn { c := attn{name: name, a: base}; f(&c); return c }
	return []attn{
		with("bidirectional", func(*attn) {}),
		with("causal", func(c *attn) { c.a.Causal, c.acc = true, true }),
		with("window", func(c *attn) { c.a.Causal, c.a.Band = true, &[2]int{3, -1} }),
		with("band", func(c *attn) { c.a.Band = &[2]int{2, 1} }),
		with("key range and mask", func(c *attn) {
			c.a.KVFirst, c.a.KVLen = []int32{0, 2}, []int32{9, 7}
			c.a.Mask = []uint8{1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1}
		}),
		with("documents", func(c *attn) { c.a.Batch, c.a.Causal, c.a.Docs = 1, true, []int32{0, 0, 0, 1, 1, 2, 2, 2, 2} }),
		with("softcap and bias", func(c *attn) { c.a.Causal, c.a.Softcap = true, 1.5; c.bias(0.5, false) }),
		with("bias that sequences share, key range", func(c *attn) {
			c.a.Causal, c.a.KVFirst, c.a.KVLen = true, []int32{0, 2}, []int32{9, 7}
			c.bias(0.25, true)
		}),
		with("bias of documents", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.Docs = 1, true, []int32{0, 0, 0, 1, 1, 2, 2, 2, 2}
			c.bias(0.5, false)
		}),
		with("sinks", func(c *attn) { c.a.Causal, c.a.Sinks, c.acc = true, []float64{0.5, -1, 2, 0}, true }),
		with("decode", func(c *attn) { c.a.Causal, c.a.TQ, c.a.QOffset = true, 1, 8 }),
		with("decode by tensor", func(c *attn) { c.a.Causal, c.a.TQ, c.a.QOffset, c.qstart = true, 3, 6, true }),
		with("decode over many keys", func(c *attn) {
			c.a.Causal, c.a.TQ, c.a.TK, c.a.QOffset, c.a.Sinks = true, 1, 700, 650, []float64{0.5, -1, 2, 0}
			c.a.KVFirst, c.a.KVLen = []int32{0, 300}, []int32{700, 640}
		}),
		// More than 64 parts of 128 keys: a part has several rounds.
		with("decode over so many keys", func(c *attn) {
			c.a.Causal, c.a.Batch, c.a.Heads, c.a.KVHeads, c.a.TQ, c.a.TK, c.a.QOffset, c.a.DQK, c.a.DV = true, 1, 2, 1, 1, 8500, 8499, 8, 8
		}),
		with("decode over many keys, mask, window, bias, softcap", func(c *attn) {
			c.a.Causal, c.a.TQ, c.a.TK, c.a.QOffset, c.a.Band, c.a.DQK, c.a.DV = true, 1, 400, 390, &[2]int{350, -1}, 40, 136
			c.a.Softcap, c.aligned = 1.5, true
			c.bias(0.05, false)
			for i := range 800 {
				c.a.Mask = append(c.a.Mask, uint8(min(i%3, 1)))
			}
		}),
		with("decode of a sequence that sees nothing", func(c *attn) {
			c.a.TQ, c.a.TK, c.a.QOffset, c.a.KVFirst, c.a.KVLen = 1, 300, 299, []int32{0, 0}, []int32{0, 300}
		}),
		with("odd sizes", func(c *attn) {
			c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.DQK, c.a.DV = true, 37, 37, 3, 1, 20, 12
		}),
		with("several blocks", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.DQK, c.a.DV, c.aligned = 1, true, 200, 200, 2, 1, 72, 72, true
		}),
		with("several blocks, band, mask", func(c *attn) {
			c.a.Batch, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.Band, c.acc = 1, 140, 150, 2, 2, &[2]int{70, 3}, true
			for i := range 150 {
				c.a.Mask = append(c.a.Mask, uint8(min(i%5, 1)))
			}
		}),
		with("bias of several blocks, mask, dropout", func(c *attn) {
			c.a.TQ, c.a.TK, c.a.Causal, c.acc, c.a.Drop = 130, 150, true, true, &oracle.Drop{P: 0.2, Seed: 8, Stream: 9}
			c.a.QOffset, c.qstart = 20, true
			c.bias(0.125, false)
			for i := range 300 {
				c.a.Mask = append(c.a.Mask, uint8(min(i%7, 1)))
			}
		}),
		with("dropout", func(c *attn) { c.a.Causal, c.a.Drop = true, &oracle.Drop{P: 0.25, Seed: 7, Stream: 1 << 40} }),
		with("dropout by row ids, sinks, key range", func(c *attn) {
			c.a.KVFirst, c.a.KVLen, c.a.Sinks, c.acc = []int32{0, 2}, []int32{9, 7}, []float64{0.5, -1, 2, 0}, true
			c.a.Drop = &oracle.Drop{P: 0.5, Seed: 1 << 50, Stream: 3}
			for i := range 18 {
				c.a.RowIDs = append(c.a.RowIDs, int64(i)<<36+int64(17*i))
			}
		}),
		with("dropout of several blocks", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.DQK, c.a.DV = 1, true, 150, 150, 2, 1, 24, 40
			c.a.Drop = &oracle.Drop{P: 0.1, Seed: 5, Stream: 6}
		}),
		// What a library may take in place of a backend's own kernel: lengths of whole tiles, rows that begin at multiples of 16 bytes.
		with("whole tiles, causal", func(c *attn) { c.a.Causal, c.a.TQ, c.a.TK, c.aligned, c.gap = true, 128, 128, true, 24 }),
		with("whole tiles, window", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.DQK, c.a.DV, c.aligned = 1, true, 256, 256, 2, 2, 24, 16, true
			c.a.Band = &[2]int{70, -1}
		}),
		with("whole tiles, bidirectional, fewer queries", func(c *attn) { c.a.TQ, c.a.TK, c.a.KVHeads, c.aligned = 128, 256, 1, true }),
		with("whole tiles, documents", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.TQ, c.a.TK, c.a.KVHeads, c.aligned = 1, true, 256, 256, 1, true
			for i, n := range []int{3, 130, 1, 100, 22} {
				c.a.Docs = append(c.a.Docs, slices.Repeat([]int32{int32(i)}, n)...)
			}
		}),
		with("whole tiles and a part, padding", func(c *attn) {
			c.a.Causal, c.a.TQ, c.a.TK, c.aligned, c.gap = true, 150, 150, true, 8
			c.a.KVFirst, c.a.KVLen = []int32{0, 40}, []int32{120, 150}
		}),
		with("whole tiles and a part, padding, window", func(c *attn) {
			c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.aligned, c.a.Band = true, 140, 140, 2, 2, true, &[2]int{30, -1}
			c.a.KVFirst, c.a.KVLen = []int32{0, 0}, []int32{60, 140}
		}),
		with("whole tiles and a part, bidirectional, padding, an empty row", func(c *attn) {
			c.a.Batch, c.a.TQ, c.a.TK, c.a.KVHeads, c.aligned = 3, 130, 130, 1, true
			c.a.KVFirst, c.a.KVLen = []int32{0, 20, 0}, []int32{130, 100, 0}
		}),
		with("whole tiles and a part", func(c *attn) { c.a.Causal, c.a.TQ, c.a.TK, c.aligned = true, 200, 200, true }),
		with("wide heads", func(c *attn) {
			c.a.Batch, c.a.Causal, c.a.TQ, c.a.TK, c.a.Heads, c.a.KVHeads, c.a.DQK, c.a.DV, c.a.Scale = 1, true, 70, 70, 1, 1, 264, 200, 0.0625
		}),
	}
}

// operands makes q, k, v as views of one fused projection, and the parameters.
func (c attn) operands(e *Env) (p kernels.AttnFwd, q, k, v []float64, sinks []float64) {
	a := c.a
	b, tq, tk, hq, hk, dk, dv := int64(a.Batch), int64(a.TQ), int64(a.TK), int64(a.Heads), int64(a.KVHeads), int64(a.DQK), int64(a.DV)
	padQ, padK := int64(5), int64(3)
	if c.aligned {
		padQ, padK = c.gap, c.gap
	}
	Q, K, V := e.Wide(padQ, b, tq, hq, dk), e.Wide(padK, b, tk, hk, dk), e.In(b, tk, hk, dv)
	p = kernels.AttnFwd{Q: Q.T, K: K.T, V: V.T, QStart0: int64(a.QOffset), Scale: float32(a.Scale), Softcap: float32(a.Softcap), Causal: flag(a.Causal),
		WindowLeft: -1, WindowRight: -1}
	if a.Band != nil {
		p.WindowLeft, p.WindowRight = int32(a.Band[0]), int32(a.Band[1])
	}
	if a.KVFirst != nil {
		p.KVFirst, p.KVLast = e.I32(a.KVFirst, b), e.I32(a.KVLen, b)
	}
	if a.Mask != nil {
		p.KeyMask = e.U8(a.Mask, b, tk)
	}
	if a.Docs != nil {
		cu := []int32{0}
		for i := 1; i <= len(a.Docs); i++ {
			if i == len(a.Docs) || a.Docs[i] != a.Docs[i-1] {
				cu = append(cu, int32(i))
			}
		}
		p.CuSeqlens = e.I32(cu, int64(len(cu)))
	}
	if a.Bias != nil {
		if c.sharedBias {
			p.Bias = e.put(kernels.F32, a.Bias[:hq*tk], 0, 1, hq, tk).T
			p.Bias.Dim[0], p.Bias.Stride[0] = b, 0
		} else {
			p.Bias = e.put(kernels.F32, a.Bias, 3, b, hq, tk).T
		}
	}
	if a.Sinks != nil {
		s := e.Vals32(a.Sinks, hq)
		p.Sinks, sinks = s.T, s.V
	}
	if d := a.Drop; d != nil {
		p.Dropout, p.Seed, p.Stream = float32(d.P), d.Seed, d.Stream
		if a.RowIDs != nil {
			p.RowIDs = e.I64(a.RowIDs, b*tq)
		}
	}
	if c.qstart {
		p.QStart, p.QStart0 = e.I32(slices.Repeat([]int32{int32(a.QOffset)}, a.Batch), b), 0
	}
	return p, Q.V, K.V, V.V, sinks
}

func attentionCases() []Case {
	var cases []Case
	for _, c := range attnCases() {
		a := c.a
		b, tq, hq, dv := int64(a.Batch), int64(a.TQ), int64(a.Heads), int64(a.DV)
		cases = append(cases, Case{Op: "attn_fwd", Name: c.name, Run: func(e *Env) {
			p, q, k, v, _ := c.operands(e)
			o, lse := e.Out(b, tq, hq, dv), e.Out32(b, hq, tq)
			p.O, p.LSE = o.T, lse.T
			e.Do(func(queue *kernels.Queue) { queue.AttnFwd(p) })
			e.Want("o", o, func() []float64 { w, _ := oracle.Attention(a, q, k, v); return w })
			e.Want("lse", lse, func() []float64 { _, w := oracle.Attention(a, q, k, v); return w })
		}}, Case{Op: "attn_bwd", Name: c.name, Run: func(e *Env) { c.backward(e) }})
	}
	return cases
}

func (c attn) backward(e *Env) {
	a := c.a
	b, tq, tk, hq, hk, dk, dv := int64(a.Batch), int64(a.TQ), int64(a.TK), int64(a.Heads), int64(a.KVHeads), int64(a.DQK), int64(a.DV)
	p, q, k, v, sinks := c.operands(e)
	ov, lv := oracle.Attention(a, q, k, v)
	p.O, p.LSE = e.Vals(ov, b, tq, hq, dv).T, e.Vals32(lv, b, hq, tq).T
	do := e.In(b, tq, hq, dv)
	dq, oldQ := e.before(c.acc, b, tq, hq, dk)
	dK, oldK := e.before(c.acc, b, tk, hk, dk)
	dV, oldV := e.before(c.acc, b, tk, hk, dv)
	bp := kernels.AttnBwd{AttnFwd: p, DO: do.T, DQ: dq.T, DK: dK.T, DV: dV.T, DQAccumulate: flag(c.acc), DKAccumulate: flag(c.acc), DVAccumulate: flag(c.acc)}
	loss := func(q, k, v []float64) float64 { o, _ := oracle.Attention(a, q, k, v); return dot(o, do.V) }
	if sinks != nil {
		ds := e.Out32(hq)
		bp.DSinks = ds.T
		e.Grad("dsinks", ds, sinks, nil, func(x []float64) float64 {
			s := a
			s.Sinks = x
			o, _ := oracle.Attention(s, q, k, v)
			return dot(o, do.V)
		})
	}
	e.Do(func(queue *kernels.Queue) { queue.AttnBwd(bp) })
	e.WantTol("dq", dq, 2, func() []float64 { g, _, _ := oracle.AttentionBackward(a, q, k, v, do.V); return add(g, oldQ) })
	e.WantTol("dk", dK, 2, func() []float64 { _, g, _ := oracle.AttentionBackward(a, q, k, v, do.V); return add(g, oldK) })
	e.WantTol("dv", dV, 2, func() []float64 { _, _, g := oracle.AttentionBackward(a, q, k, v, do.V); return add(g, oldV) })
	if a.TQ > 9 || a.TK > 64 { // central differences of long sequences take minutes
		return
	}
	e.Grad("dq", dq, q, oldQ, func(x []float64) float64 { return loss(x, k, v) })
	e.Grad("dk", dK, k, oldK, func(x []float64) float64 { return loss(q, x, v) })
	e.Grad("dv", dV, v, oldV, func(x []float64) float64 { return loss(q, k, x) })
}
