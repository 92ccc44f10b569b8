package kerneltest

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// perfCases are the shapes of one training step of a small llama: 2,048 tokens, 512 hidden, 8 heads, intermediate 1,408, vocabulary 8,192.
func perfCases() []Case {
	const t, h, f, v, heads, hd = 2048, 512, 1408, 8192, 8, 64
	perf := func(op, name string, run func(e *Env)) Case { return Case{Op: op, Name: name, Perf: true, Run: run} }
	var cases []Case
	for _, s := range [][3]int64{{t, h, h}, {t, f, h}, {t, h, f}, {1, f, h}} {
		m, n, k := s[0], s[1], s[2]
		cases = append(cases, perf("gemm", fmt.Sprintf("forward %dx%dx%d", m, n, k), func(e *Env) {
			x, w, y := e.In(m, k), e.In(n, k), e.Out(m, n)
			e.Cost(2*float64(m*n*k), 4*float64(m*k+n*k+m*n))
			e.Do(func(q *kernels.Queue) { q.Gemm(kernels.Gemm{A: x.T, B: w.T.T(), C: y.T, Alpha: 1}) })
		}))
	}
	cases = append(cases, perf("gemm", "weight gradient", func(e *Env) {
		x, dy, dw := e.In(t, h), e.In(t, f), e.In(f, h)
		e.Cost(2*t*h*f, 4*(t*h+t*f+2*f*h))
		e.Do(func(q *kernels.Queue) { q.Gemm(kernels.Gemm{A: dy.T.T(), B: x.T, C: dw.T, Alpha: 1, Accumulate: 1}) })
	}))
	attention := func(e *Env) kernels.AttnFwd {
		q, k, vv := e.In(4, t/4, heads, hd), e.In(4, t/4, heads, hd), e.In(4, t/4, heads, hd)
		o, lse := e.Out(4, t/4, heads, hd), e.Out32(4, heads, t/4)
		return kernels.AttnFwd{Q: q.T, K: k.T, V: vv.T, O: o.T, LSE: lse.T, Scale: 0.125, Causal: 1, WindowLeft: -1, WindowRight: -1}
	}
	pairs := float64(4 * heads * (t / 4) * (t / 4) / 2)
	cases = append(cases, perf("attn_fwd", "causal 4x512", func(e *Env) {
		p := attention(e)
		e.Cost(4*pairs*hd, 4*4*t*h)
		e.Do(func(q *kernels.Queue) { q.AttnFwd(p) })
	}), perf("attn_bwd", "causal 4x512", func(e *Env) {
		p := attention(e)
		d, dq, dk, dv := e.In(4, t/4, heads, hd), e.Out(4, t/4, heads, hd), e.Out(4, t/4, heads, hd), e.Out(4, t/4, heads, hd)
		e.Cost(10*pairs*hd, 8*4*t*h)
		e.q.AttnFwd(p)
		e.Do(func(q *kernels.Queue) {
			q.AttnBwd(kernels.AttnBwd{AttnFwd: p, DO: d.T, DQ: dq.T, DK: dk.T, DV: dv.T})
		})
	}), perf("linear_xent", "8192 words", func(e *Env) {
		x, w, dx, dw := e.In(t, h), e.In(v, h), e.Out(t, h), e.Out(v, h)
		logp, targets := e.Out32(t), e.I32(make([]int32, t), t)
		e.Cost(6*t*h*v, 4*(2*t*h+2*v*h))
		e.Do(func(q *kernels.Queue) {
			q.LinearXent(kernels.LinearXent{X: x.T, W: w.T, Targets: targets, LogP: logp.T, DX: dx.T, DW: dw.T, LossScale: 1})
		})
	}), perf("linear_logprob_fwd", "8192 words", func(e *Env) {
		x, w, logp, targets := e.In(t, h), e.In(v, h), e.Out32(t), e.I32(make([]int32, t), t)
		e.Cost(2*t*h*v, 4*(t*h+v*h))
		e.Do(func(q *kernels.Queue) {
			q.LinearLogprobFwd(kernels.LinearLogprobFwd{X: x.T, W: w.T, Targets: targets, LogP: logp.T})
		})
	}), perf("rmsnorm_fwd", "2048x512", func(e *Env) {
		x, w, y, r := e.In(t, h), e.In(h), e.Out(t, h), e.Out32(t)
		e.Cost(4*t*h, 8*t*h)
		e.Do(func(q *kernels.Queue) { q.RMSNormFwd(kernels.RMSNormFwd{X: x.T, W: w.T, Y: y.T, RStd: r.T, Eps: 1e-5}) })
	}), perf("rmsnorm_bwd", "2048x512", func(e *Env) {
		x, w, r, dy, dx, dw := e.In(t, h), e.In(h), e.In32(t), e.In(t, h), e.Out(t, h), e.Out(h)
		e.Cost(8*t*h, 12*t*h)
		e.Do(func(q *kernels.Queue) {
			q.RMSNormBwd(kernels.RMSNormBwd{X: x.T, W: w.T, RStd: r.T, DY: dy.T, DX: dx.T, DW: dw.T})
		})
	}), perf("glu_fwd", "2048x1408", func(e *Env) {
		g, u, y := e.In(t, f), e.In(t, f), e.Out(t, f)
		e.Cost(6*t*f, 12*t*f)
		e.Do(func(q *kernels.Queue) { q.GLUFwd(kernels.GLUFwd{Gate: g.T, Up: u.T, Y: y.T, Act: kernels.SiLU}) })
	}), perf("glu_bwd", "2048x1408", func(e *Env) {
		g, u, dy, dg, du := e.In(t, f), e.In(t, f), e.In(t, f), e.Out(t, f), e.Out(t, f)
		e.Cost(12*t*f, 20*t*f)
		e.Do(func(q *kernels.Queue) {
			q.GLUBwd(kernels.GLUBwd{Gate: g.T, Up: u.T, DY: dy.T, DGate: dg.T, DUp: du.T, Act: kernels.SiLU})
		})
	}), perf("rope", "2048x8x64", func(e *Env) {
		x, y, cos, sin := e.In(4, t/4, heads, hd), e.Out(4, t/4, heads, hd), e.In32(t/4, hd/2), e.In32(t/4, hd/2)
		e.Cost(3*t*h, 8*t*h)
		e.Do(func(q *kernels.Queue) { q.Rope(kernels.Rope{X: x.T, Cos: cos.T, Sin: sin.T, Y: y.T, RotDim: hd}) })
	}), perf("gather_rows", "embedding", func(e *Env) {
		w, ids, y := e.In(v, h), e.I32(make([]int32, t), t), e.Out(t, h)
		e.Cost(0, 8*t*h)
		e.Do(func(q *kernels.Queue) { q.GatherRows(kernels.GatherRows{X: w.T, IDs: ids, Y: y.T, Scale: 1}) })
	}), perf("adamw", "4 M parameters", func(e *Env) {
		const n = 4 << 20
		p, m, vv, g := e.Vals32(make([]float64, n), n), e.Vals32(make([]float64, n), n), e.Vals32(make([]float64, n), n), e.Vals32(make([]float64, n), n)
		e.Cost(12*n, 28*n)
		e.Do(func(q *kernels.Queue) {
			q.AdamW(kernels.AdamW{P: p.T, M: m.T, V: vv.T, G: g.T, LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Step: 1})
		})
	}), perf("adamw8", "4 M parameters", func(e *Env) {
		const n = 4 << 20
		a := e.adam8(n)
		e.Cost(12*n, 16*n)
		e.Do(func(q *kernels.Queue) {
			q.AdamW8(kernels.AdamW8{P: a.p.T, G: a.g.T, MCodes: a.mc.T, VCodes: a.vc.T, MScales: a.ms.T, VScales: a.vs.T, LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Step: 1})
		})
	}), perf("lion", "4 M parameters", func(e *Env) {
		const n = 4 << 20
		p, m, g := e.In32(n), e.In32(n), e.In32(n)
		e.Cost(8*n, 20*n)
		e.Do(func(q *kernels.Queue) {
			q.Lion(kernels.Lion{P: p.T, M: m.T, G: g.T, LR: 1e-3, Beta1: 0.9, Beta2: 0.95})
		})
	}), perf("sqsums", "4 M elements, rows and columns of 2048x2048", func(e *Env) {
		const n = 2048
		x, rows, cols := e.In32(1, n, n), e.OutAs(kernels.F64, n), e.OutAs(kernels.F64, n)
		e.Cost(4*n*n, 8*n*n)
		e.Do(func(q *kernels.Queue) { q.SqSums(kernels.SqSums{X: x.T, Rows: rows.T, Cols: cols.T}) })
	}), perf("gram", "192 rows of 4096", func(e *Env) {
		const n, m = 192, 4096
		x, y := e.In32(n, m), e.OutAs(kernels.F64, n, n)
		e.Cost(n*n*m, 4*n*m+8*n*n)
		e.Do(func(q *kernels.Queue) { q.Gram(kernels.Gram{X: x.T, Y: y.T}) })
	}), perf("adam_mini", "4 M parameters, 2048 rows", func(e *Env) {
		const n, rows = 4 << 20, 2048
		p, m, g, v := e.In32(n), e.In32(n), e.In32(n), e.In32(rows)
		e.Cost(10*n, 24*n)
		e.Do(func(q *kernels.Queue) {
			q.AdamMini(kernels.AdamMini{P: p.T, M: m.T, G: g.T, V: v.T, LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Step: 1})
		})
	}), perf("adafactor", "4 M parameters, 2048 rows", func(e *Env) {
		const rows, cols = 2048, 2048
		p, g, row, col := e.In32(1, rows, cols), e.In32(1, rows, cols), e.In32(rows), e.In32(cols)
		e.Cost(12*rows*cols, 32*rows*cols)
		e.Do(func(q *kernels.Queue) {
			q.Adafactor(kernels.Adafactor{P: p.T, G: g.T, Row: row.T, Col: col.T, LR: 1e-3, Beta2: 0.95, Eps1: 1e-30, ClipThreshold: 1})
		})
	}), perf("adam_dir", "4 M elements", func(e *Env) {
		const n = 4 << 20
		x, m, v := e.In32(n), e.In32(n), e.Vals32(make([]float64, n), n)
		e.Cost(9*n, 24*n)
		e.Do(func(q *kernels.Queue) {
			q.AdamDir(kernels.AdamDir{X: x.T, M: m.T, V: v.T, Y: x.T, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8})
		})
	}), perf("sqnorm", "4 M elements", func(e *Env) {
		const n = 4 << 20
		x, y := e.Vals32(make([]float64, n), n), e.OutAs(kernels.F64, n/kernels.SqNormChunk)
		e.Cost(2*n, 4*n)
		e.Do(func(q *kernels.Queue) { q.SqNorm(kernels.SqNorm{X: x.T, Partials: y.T}) })
	}), perf("slice_add", "8 x 512 K elements", func(e *Env) {
		const s, n = 8, 512 << 10
		x, y := e.Vals32(make([]float64, s*n), s, n), e.Out32(n)
		e.Cost(s*n, 4*(s+1)*n)
		e.Do(func(q *kernels.Queue) { q.SliceAdd(kernels.SliceAdd{X: x.T, Y: y.T}) })
	}))
	return cases
}
