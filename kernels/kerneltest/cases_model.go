package kerneltest

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

func normCases() []Case {
	const rows = 7
	const eps = 1e-5
	var cases []Case
	for _, o := range []struct {
		name             string
		weight, residual bool
		offset           float64
		acc              bool
		n                int
	}{{"weight", true, false, 0, false, 45}, {"residual", true, true, 0, true, 45}, {"1 + weight", true, true, 1, false, 45}, {"no weight", false, false, 0, true, 45},
		{"long rows", true, true, 0, true, 2056}} {
		n, N, pad := o.n, int64(o.n), int64(3)
		if n > 1000 {
			pad = 0
		}
		ones := slices.Repeat([]float64{1}, n)
		weights := func(e *Env) (kernels.Tensor, []float64) {
			if !o.weight {
				return kernels.Tensor{}, ones
			}
			w := e.In32(N)
			return w.T, w.V
		}
		offset := o.offset
		cases = append(cases, Case{Op: "rmsnorm_fwd", Name: o.name, Run: func(e *Env) {
			x, y, rstd := e.Wide(pad, rows, N), e.Out(rows, N), e.Out32(rows)
			w, wv := weights(e)
			p := kernels.RMSNormFwd{X: x.T, W: w, Y: y.T, RStd: rstd.T, Eps: eps, WOffset: float32(offset)}
			s := x.V
			if o.residual {
				res, sum := e.In(rows, N), e.Out(rows, N)
				p.Res, p.Sum, s = res.T, sum.T, add(x.V, res.V)
				e.Want("sum", sum, func() []float64 { return s })
			}
			e.Do(func(q *kernels.Queue) { q.RMSNormFwd(p) })
			e.Want("y", y, func() []float64 { return oracle.RMSNorm(s, wv, rows, n, eps, offset) })
			e.Want("rstd", rstd, func() []float64 { return oracle.RStd(s, rows, n, eps) })
		}}, Case{Op: "rmsnorm_bwd", Name: o.name, Run: func(e *Env) {
			x, dy := e.In(rows, N), e.In(rows, N)
			rstd := e.Vals32(oracle.RStd(x.V, rows, n, eps), rows)
			w, wv := weights(e)
			dx, old := e.before(o.acc, rows, N)
			p := kernels.RMSNormBwd{X: x.T, W: w, RStd: rstd.T, DY: dy.T, DX: dx.T, WOffset: float32(offset), DXAccumulate: flag(o.acc), DWAccumulate: flag(o.acc)}
			if o.residual {
				ds := e.In(rows, N)
				p.DSum, old = ds.T, add(ds.V, old)
			}
			if o.weight {
				dw, oldW := e.before32(o.acc, N)
				p.DW = dw.T
				e.Want("dw", dw, func() []float64 {
					_, g := oracle.RMSNormBackward(x.V, wv, dy.V, rows, n, eps, offset)
					return add(g, oldW)
				})
				e.normGrad("dw", dw, wv, oldW, func(v []float64) float64 { return dot(oracle.RMSNorm(x.V, v, rows, n, eps, offset), dy.V) })
			}
			e.Do(func(q *kernels.Queue) { q.RMSNormBwd(p) })
			e.Want("dx", dx, func() []float64 {
				g, _ := oracle.RMSNormBackward(x.V, wv, dy.V, rows, n, eps, offset)
				return add(g, old)
			})
			e.normGrad("dx", dx, x.V, old, func(v []float64) float64 { return dot(oracle.RMSNorm(v, wv, rows, n, eps, offset), dy.V) })
		}}, Case{Op: "layernorm_fwd", Name: o.name, Run: func(e *Env) {
			x, y, mean, rstd := e.Wide(pad, rows, N), e.Out(rows, N), e.Out32(rows), e.Out32(rows)
			p := kernels.LayerNormFwd{X: x.T, Y: y.T, Mean: mean.T, RStd: rstd.T, Eps: eps, WOffset: float32(offset)}
			s := x.V
			var wv, bv []float64
			if o.weight {
				w, b := e.In32(N), e.In32(N)
				p.W, p.B, wv, bv = w.T, b.T, w.V, b.V
			}
			if o.residual {
				res, sum := e.In(rows, N), e.Out(rows, N)
				p.Res, p.Sum, s = res.T, sum.T, add(x.V, res.V)
			}
			e.Do(func(q *kernels.Queue) { q.LayerNormFwd(p) })
			e.Want("y", y, func() []float64 { v, _, _ := oracle.LayerNorm(s, wv, bv, rows, n, eps, offset); return v })
			e.Want("mean", mean, func() []float64 { _, v, _ := oracle.LayerNorm(s, wv, bv, rows, n, eps, offset); return v })
			e.Want("rstd", rstd, func() []float64 { _, _, v := oracle.LayerNorm(s, wv, bv, rows, n, eps, offset); return v })
		}}, Case{Op: "layernorm_bwd", Name: o.name, Run: func(e *Env) {
			x, dy := e.In(rows, N), e.In(rows, N)
			_, m, r := oracle.LayerNorm(x.V, nil, nil, rows, n, eps, 0)
			mean, rstd := e.Vals32(m, rows), e.Vals32(r, rows)
			dx, old := e.before(o.acc, rows, N)
			p := kernels.LayerNormBwd{X: x.T, Mean: mean.T, RStd: rstd.T, DY: dy.T, DX: dx.T, WOffset: float32(offset), DXAccumulate: flag(o.acc),
				DWAccumulate: flag(o.acc), DBAccumulate: flag(o.acc)}
			var wv []float64
			forward := func(x, w, b []float64) float64 {
				y, _, _ := oracle.LayerNorm(x, w, b, rows, n, eps, offset)
				return dot(y, dy.V)
			}
			if o.weight {
				w := e.In32(N)
				dw, oldW := e.before32(o.acc, N)
				db, oldB := e.before32(o.acc, N)
				p.W, p.DW, p.DB, wv = w.T, dw.T, db.T, w.V
				e.Want("dw", dw, func() []float64 {
					_, g, _ := oracle.LayerNormBackward(x.V, wv, dy.V, rows, n, eps, offset)
					return add(g, oldW)
				})
				e.Want("db", db, func() []float64 {
					_, _, g := oracle.LayerNormBackward(x.V, wv, dy.V, rows, n, eps, offset)
					return add(g, oldB)
				})
				e.normGrad("dw", dw, wv, oldW, func(v []float64) float64 { return forward(x.V, v, nil) })
				e.normGrad("db", db, make([]float64, n), oldB, func(v []float64) float64 { return forward(x.V, wv, v) })
			}
			if o.residual {
				ds := e.In(rows, N)
				p.DSum, old = ds.T, add(ds.V, old)
			}
			e.Do(func(q *kernels.Queue) { q.LayerNormBwd(p) })
			e.Want("dx", dx, func() []float64 {
				g, _, _ := oracle.LayerNormBackward(x.V, wv, dy.V, rows, n, eps, offset)
				return add(g, old)
			})
			e.normGrad("dx", dx, x.V, old, func(v []float64) float64 { return forward(v, wv, nil) })
		}})
	}
	return cases
}

// normGrad is Grad, where rows are short enough for central differences.
func (e *Env) normGrad(name string, o Operand, x, before []float64, loss func(x []float64) float64) {
	if len(x) < 1000 {
		e.Grad(name, o, x, before, loss)
	}
}

func transpose(v []float64, m, n int) []float64 {
	out := make([]float64, len(v))
	for i := range m {
		for j := range n {
			out[j*m+i] = v[i*n+j]
		}
	}
	return out
}

func gemmCases() []Case {
	var cases []Case
	for _, s := range [][3]int{{1, 1, 1}, {1, 33, 70}, {5, 1, 9}, {13, 65, 129}, {64, 48, 32}, {70, 31, 270}} {
		m, n, k := s[0], s[1], s[2]
		M, N, K := int64(m), int64(n), int64(k)
		for _, v := range []struct {
			name   string
			ta, tb bool
			bias   bool
			acc    bool
			alpha  float64
		}{{"nn", false, false, false, false, 1}, {"nt bias", false, true, true, false, 0.5}, {"tn accumulate", true, false, false, true, 1},
			{"tt all", true, true, true, true, -2}} {
			cases = append(cases, Case{Op: "gemm", Name: fmt.Sprintf("%dx%dx%d %s", m, n, k, v.name), Run: func(e *Env) {
				var a, b Operand
				var av, bv []float64
				if v.ta {
					a = e.In(K, M)
					av, a.T = transpose(a.V, k, m), a.T.T()
				} else {
					a = e.Wide(3, M, K)
					av = a.V
				}
				if v.tb {
					b = e.Wide(5, N, K)
					bv, b.T = transpose(b.V, n, k), b.T.T()
				} else {
					b = e.In(K, N)
					bv = b.V
				}
				c, old := e.before(v.acc, M, N)
				p := kernels.Gemm{A: a.T, B: b.T, C: c.T, Alpha: float32(v.alpha), Accumulate: flag(v.acc)}
				var bias []float64
				if v.bias {
					o := e.In32(N)
					p.Bias, bias = o.T, o.V
				}
				e.Do(func(q *kernels.Queue) { q.Gemm(p) })
				e.Want("c", c, func() []float64 {
					out := add(oracle.Gemm(scaled(av, v.alpha), bv, nil, 0, m, n, k), old)
					for i := range out {
						if bias != nil {
							out[i] += bias[i%n]
						}
					}
					return out
				})
			}})
		}
	}
	return append(cases, Case{Op: "gemm", Name: "batch, one operand repeated", Run: func(e *Env) {
		a, b, c := e.In(3, 5, 7), e.In(7, 9), e.Out(3, 5, 9)
		rep := b.T.Unsqueeze(0)
		rep.Dim[0], rep.Stride[0] = 3, 0
		e.Do(func(q *kernels.Queue) { q.Gemm(kernels.Gemm{A: a.T, B: rep, C: c.T, Alpha: 1}) })
		e.Want("c", c, func() []float64 { return oracle.Gemm(a.V, b.V, nil, 0, 15, 9, 7) })
	}}, Case{Op: "gemm", Name: "into f32, accumulate", Run: func(e *Env) {
		const m, n, k = 61, 35, 300
		a, b, c := e.In(k, m), e.Wide(1, k, n), e.In32(m, n)
		e.Do(func(q *kernels.Queue) { q.Gemm(kernels.Gemm{A: a.T.T(), B: b.T, C: c.T, Alpha: 1, Accumulate: 1}) })
		e.Want("c", c, func() []float64 {
			_, dw, _ := oracle.LinearBackward(b.V, make([]float64, m*n), a.V, k, m, n)
			return add(dw, c.V)
		})
	}}, Case{Op: "gemm", Name: "inner dimensions differ", Fails: true, Run: func(e *Env) {
		a, b, c := e.In(3, 5), e.In(4, 2), e.Out(3, 2)
		e.Do(func(q *kernels.Queue) { q.Gemm(kernels.Gemm{A: a.T, B: b.T, C: c.T, Alpha: 1}) })
	}})
}

func ropeCases() []Case {
	const b, t, h, d = 2, 5, 3, 16
	var cases []Case
	for _, o := range []struct {
		name               string
		rot                int
		interleaved, inv   bool
		positions, inPlace bool
		acc                bool
		pos0               int64
	}{{"half", 16, false, false, false, false, false, 0}, {"half, positions, inverse", 16, false, true, true, false, false, 0},
		{"partial, from 3", 8, false, false, false, true, false, 3}, {"interleaved, accumulate", 16, true, false, true, false, true, 0},
		{"interleaved partial inverse", 6, true, true, false, false, false, 0}} {
		cases = append(cases, Case{Op: "rope", Name: o.name, Run: func(e *Env) {
			half := int64(o.rot / 2)
			x, cos, sin := e.In(b, t, h, d), e.In32(11, half), e.In32(11, half)
			pos := make([]int32, b*t)
			for i := range pos {
				pos[i] = int32(int64(i%t) + o.pos0)
				if o.positions {
					pos[i] = int32(i * 7 % 11)
				}
			}
			y, old := e.before(o.acc, b, t, h, d)
			if o.inPlace {
				y = x
			}
			p := kernels.Rope{X: x.T, Cos: cos.T, Sin: sin.T, Y: y.T, RotDim: int32(o.rot), Interleaved: flag(o.interleaved), Inverse: flag(o.inv),
				Accumulate: flag(o.acc), Pos0: o.pos0}
			if o.positions {
				p.Pos = e.I32(pos, b, t)
			}
			e.Do(func(q *kernels.Queue) { q.Rope(p) })
			e.Want("y", y, func() []float64 {
				f := oracle.Rope
				if o.inv {
					f = oracle.RopeBackward
				}
				return add(f(x.V, cos.V, sin.V, pos, h, d, o.rot, o.interleaved), old)
			})
		}})
	}
	return cases
}

func vocabCases() []Case {
	var cases []Case
	for _, o := range []struct {
		name                     string
		n, v, k                  int
		bias, acc                bool
		scale, softcap           float64
		smoothing, zloss, scaler float64
	}{{"plain", 9, 67, 12, false, false, 0, 0, 0, 0, 0}, {"bias, accumulate, device scale", 9, 67, 12, true, true, 0, 0, 0, 0, 0.25},
		{"logit scale and softcap", 5, 40, 8, true, false, 0.5, 3, 0, 0, 0}, {"smoothing and z-loss", 5, 40, 8, false, false, 0, 0, 0.1, 0.01, 2},
		{"large vocabulary", 3, 4097, 4, false, false, 0, 0, 0, 0, 0}, {"many rows", 2115, 5, 3, true, true, 0, 0, 0, 0, 0.25}} {
		n, v, k := int64(o.n), int64(o.v), int64(o.k)
		voc := oracle.Vocab{M: o.n, V: o.v, K: o.k, Scale: o.scale, Softcap: o.softcap}
		common := func(e *Env) (x, w Operand, bias Operand, targets []int32, t kernels.Tensor) {
			x, w = e.In(n, k), e.In(v, k)
			if o.bias {
				bias = e.In32(v)
			}
			for i := range o.n {
				targets = append(targets, int32(i*31%o.v))
			}
			targets[1] = oracle.IgnoreIndex
			return x, w, bias, targets, e.I32(targets, n)
		}
		cases = append(cases, Case{Op: "linear_logprob_fwd", Name: o.name, Run: func(e *Env) {
			x, w, bias, targets, t := common(e)
			logp, lse, entropy, zsum := e.Out32(n), e.Out32(n), e.Out32(n), e.Out32(n)
			e.Do(func(q *kernels.Queue) {
				q.LinearLogprobFwd(kernels.LinearLogprobFwd{X: x.T, W: w.T, Bias: bias.T, Targets: t, LogP: logp.T, LSE: lse.T, Entropy: entropy.T, ZSum: zsum.T,
					LogitScale: float32(o.scale), Softcap: float32(o.softcap)})
			})
			stats := func() oracle.Stats { return voc.Forward(x.V, w.V, bias.V, targets) }
			e.Want("logp", logp, func() []float64 { return stats().LogP })
			e.Want("lse", lse, func() []float64 { return stats().LSE })
			e.WantTol("entropy", entropy, 10, func() []float64 { return stats().Entropy })
			e.WantTol("zsum", zsum, 10, func() []float64 { return stats().ZSum })
		}}, Case{Op: "linear_logprob_bwd", Name: o.name, Run: func(e *Env) {
			x, w, bias, targets, t := common(e)
			lse, d := e.Vals32(voc.Forward(x.V, w.V, bias.V, targets).LSE, n), e.In32(n)
			dx, oldX := e.before(o.acc, n, k)
			dw, oldW := e.before32(o.acc, v, k)
			p := kernels.LinearLogprobBwd{X: x.T, W: w.T, Bias: bias.T, Targets: t, LSE: lse.T, DLogP: d.T, DX: dx.T, DW: dw.T, LogitScale: float32(o.scale),
				Softcap: float32(o.softcap), DXAccumulate: flag(o.acc), DWAccumulate: flag(o.acc), DBiasAccumulate: flag(o.acc)}
			loss := func(x, w, b []float64) float64 { return dot(voc.Forward(x, w, b, targets).LogP, d.V) }
			if o.bias {
				db, oldB := e.before32(o.acc, v)
				p.DBias = db.T
				e.Grad("dbias", db, bias.V, oldB, func(b []float64) float64 { return loss(x.V, w.V, b) })
			}
			e.Do(func(q *kernels.Queue) { q.LinearLogprobBwd(p) })
			if o.v > 1000 || o.n > 1000 {
				return
			}
			e.Grad("dx", dx, x.V, oldX, func(x []float64) float64 { return loss(x, w.V, bias.V) })
			e.Grad("dw", dw, w.V, oldW, func(w []float64) float64 { return loss(x.V, w, bias.V) })
		}}, Case{Op: "linear_xent", Name: o.name, Run: func(e *Env) {
			x, w, bias, targets, t := common(e)
			weights := make([]float64, o.n)
			for i := range weights {
				weights[i] = 0.5 + float64(i%3)
			}
			ws := e.Vals32(weights, n)
			logp, lse := e.Out32(n), e.Out32(n)
			dx, oldX := e.before(o.acc, n, k)
			dw, oldW := e.before32(o.acc, v, k)
			factor := 0.125
			p := kernels.LinearXent{X: x.T, W: w.T, Bias: bias.T, Targets: t, Weights: ws.T, LogP: logp.T, LSE: lse.T, DX: dx.T, DW: dw.T,
				LogitScale: float32(o.scale), Softcap: float32(o.softcap), LossScale: 0.125, LabelSmoothing: float32(o.smoothing), ZLoss: float32(o.zloss),
				DXAccumulate: flag(o.acc), DWAccumulate: flag(o.acc), DBiasAccumulate: flag(o.acc)}
			if o.scaler != 0 {
				p.LossScaleDev = e.Vals32([]float64{o.scaler}, 1).T.Data
				factor *= o.scaler
			}
			smoothing, zloss := float64(p.LabelSmoothing), float64(p.ZLoss)
			loss := func(x, w, b []float64) float64 { return factor * voc.Loss(x, w, b, targets, weights, smoothing, zloss) }
			var oldB []float64
			var db Operand
			if o.bias {
				db, oldB = e.before32(o.acc, v)
				p.DBias = db.T
				e.Grad("dbias", db, bias.V, oldB, func(b []float64) float64 { return loss(x.V, w.V, b) })
			}
			e.Do(func(q *kernels.Queue) { q.LinearXent(p) })
			e.Want("logp", logp, func() []float64 { return voc.Forward(x.V, w.V, bias.V, targets).LogP })
			e.Want("lse", lse, func() []float64 { return voc.Forward(x.V, w.V, bias.V, targets).LSE })
			if o.scale == 0 && o.softcap == 0 && o.smoothing == 0 && o.zloss == 0 {
				grads := func() (_, dx, dw, db []float64) {
					return oracle.LinearXent(x.V, w.V, bias.V, targets, scaled(weights, factor), o.n, o.v, o.k)
				}
				e.WantTol("dx", dx, 2, func() []float64 { _, g, _, _ := grads(); return add(g, oldX) })
				e.WantTol("dw", dw, 2, func() []float64 { _, _, g, _ := grads(); return add(g, oldW) })
				if o.bias {
					e.WantTol("dbias", db, 2, func() []float64 { _, _, _, g := grads(); return add(g, oldB) })
				}
			}
			if o.v > 1000 || o.n > 1000 {
				return
			}
			e.Grad("dx", dx, x.V, oldX, func(x []float64) float64 { return loss(x, w.V, bias.V) })
			e.Grad("dw", dw, w.V, oldW, func(w []float64) float64 { return loss(x.V, w, bias.V) })
		}})
	}
	return cases
}

func optimizerCases() []Case {
	var cases []Case
	for _, o := range []struct {
		name         string
		step         int64
		devs, skip   bool
		decay, scale float64
	}{{"first step", 1, false, false, 0, 0}, {"decay and gradient scale", 7, false, false, 0.1, 0.5}, {"device scalars", 3, true, false, 0.1, 2}, {"skipped", 3, true, true, 0.1, 1}} {
		cases = append(cases, Case{Op: "adamw", Name: o.name, Run: func(e *Env) {
			const n = 4113
			p, m, g := e.In32(n), e.In32(n), e.In32(n)
			v := e.Vals32(convert(e.In32(n).V, func(x float64) float64 { return x * x }), n)
			a := kernels.AdamW{P: p.T, M: m.T, V: v.T, G: g.T, LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: o.decay, Step: o.step, GradScale: float32(o.scale)}
			lr, clip := 0.01, o.scale
			if clip == 0 {
				clip = 1
			}
			if o.devs {
				lrDev, clipDev := e.Vals32([]float64{0.5}, 1), e.Vals32([]float64{0.25}, 1)
				a.LRDev, a.ClipDev = lrDev.T.Data, clipDev.T.Data
				a.StepDev = e.I64([]int64{o.step}, 1).Data
				a.SkipDev = e.I32([]int32{int32(flag(o.skip))}, 1).Data
				a.Step = 1000
				lr, clip = lr*0.5, clip*0.25
			}
			e.Do(func(q *kernels.Queue) { q.AdamW(a) })
			after := func() (pv, mv, vv []float64) {
				pv, mv, vv = slices.Clone(p.V), slices.Clone(m.V), slices.Clone(v.V)
				if !o.skip {
					oracle.AdamW(pv, g.V, mv, vv, lr, a.Beta1, a.Beta2, a.Eps, o.decay, clip, int(o.step))
				}
				return pv, mv, vv
			}
			e.Want("p", p, func() []float64 { w, _, _ := after(); return w })
			e.Want("m", m, func() []float64 { _, w, _ := after(); return w })
			e.Want("v", v, func() []float64 { _, _, w := after(); return w })
		}})
	}
	cases = append(cases, Case{Op: "sqnorm", Name: "chunks", Run: func(e *Env) {
		const n = 2*kernels.SqNormChunk + 77
		x, y := e.In32(n), e.OutAs(kernels.F64, 3)
		e.Do(func(q *kernels.Queue) { q.SqNorm(kernels.SqNorm{X: x.T, Partials: y.T}) })
		e.WantTol("partials", y, 1e6, func() []float64 { return oracle.SquareNorms(x.V, kernels.SqNormChunk) })
	}}, Case{Op: "sum_f64", Name: "in order", Run: func(e *Env) {
		v := []float64{1, 1e100, 1, -1e100, 3}
		x, y := e.put(kernels.F64, v, 0, 5), e.put(kernels.F64, []float64{0.5}, 0, 1)
		e.Do(func(q *kernels.Queue) { q.SumF64(kernels.SumF64{X: x.T, Total: y.T, Accumulate: 1}) })
		e.WantTol("total", y, 0, func() []float64 { return []float64{3} })
	}})
	cases = append(cases, clipCase("clipped", 16, 2, 4, 2/(4+1e-6)), clipCase("small", 0.25, 2, 0.5, 1), clipCase("no limit", 16, 0, 4, 1), Case{Op: "clip_factor", Name: "not finite", Run: func(e *Env) {
		s, skip := e.put(kernels.F64, []float64{math.Inf(1)}, 0, 1), e.OutAs(kernels.I32, 1)
		e.Do(func(q *kernels.Queue) { q.ClipFactor(kernels.ClipFactor{SumSq: s.T, Skip: skip.T, MaxNorm: 1}) })
		e.WantTol("skip", skip, 0, func() []float64 { return []float64{1} })
	}})
	for _, bad := range []float64{0, math.NaN(), math.Inf(-1)} {
		cases = append(cases, Case{Op: "nonfinite", Name: fmt.Sprintf("with %g", bad), Run: func(e *Env) {
			v := slices.Repeat([]float64{1e38}, 9001)
			v[8999] = bad
			x, f, acc := e.Vals32(v, 9001), e.OutAs(kernels.I32, 1), e.put(kernels.I32, []float64{1}, 0, 1)
			e.Do(func(q *kernels.Queue) {
				q.NonFinite(kernels.NonFinite{X: x.T, Flag: f.T})
				q.NonFinite(kernels.NonFinite{X: x.T.Slice(0, 0, 5), Flag: acc.T, Accumulate: 1})
			})
			e.WantTol("flag", f, 0, func() []float64 {
				if bad == 0 {
					return []float64{0}
				}
				return []float64{1}
			})
			e.WantTol("accumulated", acc, 0, func() []float64 { return []float64{1} })
		}})
	}
	for _, dt := range []kernels.DType{kernels.F32, kernels.BF16} {
		for _, acc := range []bool{false, true} {
			cases = append(cases, Case{Op: "slice_add", Name: fmt.Sprintf("%s accumulate %v", dt, acc), Run: func(e *Env) {
				const s, n = 3, 1037
				x := e.in(dt, 0, s, n)
				y, old := e.Out32(n), make([]float64, n)
				if acc {
					y = e.In32(n)
					old = y.V
				}
				e.Do(func(q *kernels.Queue) { q.SliceAdd(kernels.SliceAdd{X: x.T, Y: y.T, Accumulate: flag(acc)}) })
				e.WantTol("y, every addition rounded in order", y, 0, func() []float64 {
					out := slices.Clone(old)
					for i := range s {
						for j := range n {
							out[j] = float64(float32(out[j]) + float32(x.V[i*n+j]))
						}
					}
					return out
				})
			}})
		}
	}
	return cases
}

func clipCase(name string, sumsq, limit, norm, clip float64) Case {
	return Case{Op: "clip_factor", Name: name, Run: func(e *Env) {
		s, n, c, f := e.put(kernels.F64, []float64{sumsq * 16}, 0, 1), e.Out32(1), e.Out32(1), e.OutAs(kernels.I32, 1)
		e.Do(func(q *kernels.Queue) {
			q.ClipFactor(kernels.ClipFactor{SumSq: s.T, Norm: n.T, Clip: c.T, Skip: f.T, MaxNorm: float32(limit), InvScale: 0.25})
		})
		e.Want("norm", n, func() []float64 { return []float64{norm} })
		e.Want("clip", c, func() []float64 { return []float64{clip} })
		e.WantTol("skip", f, 0, func() []float64 { return []float64{0} })
	}}
}
