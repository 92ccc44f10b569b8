package kerneltest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

func clampCases() []Case {
	const lo, hi = -0.7513, 0.513 // no bf16 lies there
	cases := []Case{{Op: "clamp_fwd", Name: "both sides", Run: func(e *Env) {
		x, y := e.Wide(3, 6, 37), e.Out(6, 37)
		e.Do(func(q *kernels.Queue) { q.ClampFwd(kernels.ClampFwd{X: x.T, Y: y.T, Lo: lo, Hi: hi}) })
		e.Want("y", y, func() []float64 { return oracle.Clamp(x.V, float64(float32(lo)), float64(float32(hi))) })
	}}, {Op: "clamp_fwd", Name: "limits the wrong way round", Fails: true, Run: func(e *Env) {
		x, y := e.In(2, 3), e.Out(2, 3)
		e.Do(func(q *kernels.Queue) { q.ClampFwd(kernels.ClampFwd{X: x.T, Y: y.T, Lo: hi, Hi: lo}) })
	}}}
	for _, acc := range []bool{false, true} {
		cases = append(cases, Case{Op: "clamp_bwd", Name: fmt.Sprintf("accumulate %v", acc), Run: func(e *Env) {
			dx, old := e.before(acc, 6, 37)
			x, dy := e.In(6, 37), e.In(6, 37)
			e.Do(func(q *kernels.Queue) {
				q.ClampBwd(kernels.ClampBwd{X: x.T, DY: dy.T, DX: dx.T, Lo: lo, Hi: hi, Accumulate: flag(acc)})
			})
			e.Want("dx", dx, func() []float64 { return add(oracle.ClampBackward(x.V, dy.V, lo, hi), old) })
			e.Grad("dx", dx, x.V, old, func(v []float64) float64 { return dot(oracle.Clamp(v, lo, hi), dy.V) })
		}})
	}
	return cases
}

func moeCases() []Case {
	return slices.Concat(gluClampedCases(), routeCases(), combineCases(), groupedCases(), auxCases())
}

func gluClampedCases() []Case {
	const rows, f, alpha, limit = 5, 37, 1.702, 0.9
	var cases []Case
	for _, inter := range []bool{false, true} {
		name := fmt.Sprintf("interleaved %v", inter)
		cases = append(cases, Case{Op: "glu_clamped_fwd", Name: name, Run: func(e *Env) {
			x, y := e.Wide(3, rows, 2*f), e.Out(rows, f)
			e.Do(func(q *kernels.Queue) {
				q.GLUClampedFwd(kernels.GLUClampedFwd{X: x.T, Y: y.T, Alpha: alpha, Limit: limit, Interleaved: flag(inter)})
			})
			e.Want("y", y, func() []float64 {
				return oracle.GLUClamped(x.V, f, float64(float32(alpha)), float64(float32(limit)), inter)
			})
		}})
		for _, acc := range []bool{false, true} {
			cases = append(cases, Case{Op: "glu_clamped_bwd", Name: fmt.Sprintf("%s accumulate %v", name, acc), Run: func(e *Env) {
				dx, old := e.before(acc, rows, 2*f)
				x, dy := e.In(rows, 2*f), e.In(rows, f)
				e.Do(func(q *kernels.Queue) {
					q.GLUClampedBwd(kernels.GLUClampedBwd{X: x.T, DY: dy.T, DX: dx.T, Alpha: alpha, Limit: limit, Interleaved: flag(inter), Accumulate: flag(acc)})
				})
				e.Want("dx", dx, func() []float64 { return add(oracle.GLUClampedBackward(x.V, dy.V, f, alpha, limit, inter), old) })
				e.Grad("dx", dx, x.V, old, func(v []float64) float64 { return dot(oracle.GLUClamped(v, f, alpha, limit, inter), dy.V) })
			}})
		}
	}
	return cases
}

var routeScores = map[string]kernels.RouteScore{oracle.RouteSoftmax: kernels.RouteSoftmax, oracle.RouteSigmoid: kernels.RouteSigmoid,
	oracle.RouteSoftmaxTopK: kernels.RouteSoftmaxTopK}

func routers() map[string]oracle.Router {
	return map[string]oracle.Router{
		"mixtral":          {E: 7, K: 2, Score: oracle.RouteSoftmax, Normalize: true, Scale: 1},
		"olmoe":            {E: 19, K: 5, Score: oracle.RouteSoftmax, Scale: 1},
		"granite, gpt-oss": {E: 9, K: 3, Score: oracle.RouteSoftmaxTopK, Scale: 1},
		"deepseek v2":      {E: 18, K: 3, Score: oracle.RouteSoftmax, Groups: 6, TopKGroups: 2, GroupTop: 1, Scale: 2.5},
		"deepseek v3": {E: 40, K: 6, Score: oracle.RouteSigmoid, Groups: 5, TopKGroups: 3, GroupTop: 2, Normalize: true, NormEps: 1e-20,
			Scale: 1.7, Bias: []float64{}},
		"ernie, least sum": {E: 5, K: 2, Score: oracle.RouteSoftmax, Normalize: true, NormMin: 0.75, Scale: 1, Bias: []float64{}},
		"one expert":       {E: 1, K: 1, Score: oracle.RouteSigmoid, Scale: 1},
	}
}

// router gives the operations of one router its bias.
func (e *Env) router(o *oracle.Router) (bias kernels.Tensor) {
	if o.Bias == nil {
		return bias
	}
	b := e.In32(int64(o.E))
	o.Bias = scaled(b.V, 0.3)
	return e.Vals32(o.Bias, int64(o.E)).T
}

func routeCases() []Case {
	const rows = 23
	var cases []Case
	for _, name := range slices.Sorted(maps.Keys(routers())) {
		o := routers()[name]
		E, K := int64(o.E), int64(o.K)
		cases = append(cases, Case{Op: "moe_route_fwd", Name: name, Run: func(e *Env) {
			x, s, w, ids := e.In32(rows, E), e.Out32(rows, E), e.Out32(rows, K), e.OutAs(kernels.I32, rows, K)
			bias := e.router(&o)
			e.Do(func(q *kernels.Queue) {
				q.MoERouteFwd(kernels.MoERouteFwd{Logits: x.T, Bias: bias, Scores: s.T, IDs: ids.T, Weights: w.T, K: K, Groups: int64(o.Groups),
					TopKGroups: int64(o.TopKGroups), GroupTop: int64(o.GroupTop), NormEps: float32(o.NormEps), NormMin: float32(o.NormMin),
					Scale: float32(o.Scale), Score: routeScores[o.Score], Normalize: flag(o.Normalize)})
			})
			e.Want("scores", s, func() []float64 { return o.Route(x.V).Scores })
			e.Want("weights", w, func() []float64 { return o.Route(x.V).Weights })
			e.WantTol("ids", ids, 0, func() []float64 {
				return convert(o.Route(x.V).IDs, func(v int32) float64 { return float64(v) })
			})
		}})
		for _, acc := range []bool{false, true} {
			cases = append(cases, Case{Op: "moe_route_bwd", Name: fmt.Sprintf("%s accumulate %v", name, acc), Run: func(e *Env) {
				x, dw := e.In32(rows, E), e.In32(rows, K)
				e.router(&o)
				r := o.Route(x.V)
				scores, ids := e.Vals32(r.Scores, rows, E), e.I32(r.IDs, rows, K)
				dx, old := e.before32(acc, rows, E)
				e.Do(func(q *kernels.Queue) {
					q.MoERouteBwd(kernels.MoERouteBwd{Scores: scores.T, IDs: ids, DWeights: dw.T, DLogits: dx.T, K: K, NormEps: float32(o.NormEps),
						NormMin: float32(o.NormMin), Scale: float32(o.Scale), Score: routeScores[o.Score], Normalize: flag(o.Normalize), Accumulate: flag(acc)})
				})
				loss := func(v []float64) float64 { return dot(o.Weights(v, r.IDs), dw.V) }
				e.WantTol("dlogits", dx, 5, func() []float64 { return add(oracle.CentralDifference(loss, x.V, 1e-5), old) })
				e.Grad("dlogits", dx, x.V, old, loss)
			}})
		}
	}
	return append(cases, Case{Op: "moe_route_bwd", Name: "gradient of the scores", Run: func(e *Env) {
		o := oracle.Router{E: 11, K: 1, Score: oracle.RouteSoftmax, Scale: 1}
		x, ds := e.In32(rows, 11), e.In32(rows, 11)
		r := o.Route(x.V)
		scores, ids, dx := e.Vals32(r.Scores, rows, 11), e.I32(r.IDs, rows, 1), e.Out32(rows, 11)
		e.Do(func(q *kernels.Queue) {
			q.MoERouteBwd(kernels.MoERouteBwd{Scores: scores.T, IDs: ids, DScores: ds.T, DLogits: dx.T, K: 1, Score: kernels.RouteSoftmax})
		})
		e.Grad("dlogits", dx, x.V, nil, func(v []float64) float64 { return dot(o.Route(v).Scores, ds.V) })
		e.WantTol("dlogits", dx, 5, func() []float64 {
			return oracle.CentralDifference(func(v []float64) float64 { return dot(o.Route(v).Scores, ds.V) }, x.V, 1e-5)
		})
	}}, Case{Op: "moe_route_fwd", Name: "groups that do not divide", Fails: true, Run: func(e *Env) {
		x, s, w, ids := e.In32(2, 7), e.Out32(2, 7), e.Out32(2, 1), e.OutAs(kernels.I32, 2, 1)
		e.Do(func(q *kernels.Queue) {
			q.MoERouteFwd(kernels.MoERouteFwd{Logits: x.T, Scores: s.T, IDs: ids.T, Weights: w.T, K: 1, Groups: 2, TopKGroups: 1, GroupTop: 1, Score: kernels.RouteSoftmax})
		})
	}}, Case{Op: "moe_sort", Name: "stable, empty experts", Run: func(e *Env) {
		v := []int32{3, 0, 3, 5, 0, 3, 5, 5, 1, 3}
		ids := e.I32(v, 5, 2)
		off, order, place, tokens := e.OutAs(kernels.I32, 8), e.OutAs(kernels.I32, 10), e.OutAs(kernels.I32, 10), e.OutAs(kernels.I32, 10)
		e.Do(func(q *kernels.Queue) {
			q.MoESort(kernels.MoESort{IDs: ids, Offsets: off.T, Order: order.T, Place: place.T, Tokens: tokens.T, Experts: 7})
		})
		o, s, p := oracle.SortExperts(v, 7)
		widen := func(v []int32, by int32) func() []float64 {
			return func() []float64 { return convert(v, func(x int32) float64 { return float64(x / by) }) }
		}
		e.WantTol("offsets", off, 0, widen(o, 1))
		e.WantTol("order", order, 0, widen(s, 1))
		e.WantTol("place", place, 0, widen(p, 1))
		e.WantTol("tokens", tokens, 0, widen(s, 2))
	}}, Case{Op: "moe_sort", Name: "many slots", Run: func(e *Env) {
		const n, k, experts = 1300, 2, 60
		v := make([]int32, n*k)
		for i := range v {
			v[i] = int32(i * i % experts)
		}
		ids := e.I32(v, n, k)
		off, order, place, tokens := e.OutAs(kernels.I32, experts+1), e.OutAs(kernels.I32, n*k), e.OutAs(kernels.I32, n*k), e.OutAs(kernels.I32, n*k)
		e.Do(func(q *kernels.Queue) {
			q.MoESort(kernels.MoESort{IDs: ids, Offsets: off.T, Order: order.T, Place: place.T, Tokens: tokens.T, Experts: experts})
		})
		o, s, p := oracle.SortExperts(v, experts)
		widen := func(v []int32) func() []float64 {
			return func() []float64 { return convert(v, func(x int32) float64 { return float64(x) }) }
		}
		e.WantTol("offsets", off, 0, widen(o))
		e.WantTol("order", order, 0, widen(s))
		e.WantTol("place", place, 0, widen(p))
	}}, Case{Op: "moe_sort", Name: "id out of range", Fails: true, Run: func(e *Env) {
		ids, o, s := e.I32([]int32{0, 3}, 2, 1), e.OutAs(kernels.I32, 4), e.OutAs(kernels.I32, 2)
		e.Do(func(q *kernels.Queue) {
			q.MoESort(kernels.MoESort{IDs: ids, Offsets: o.T, Order: s.T, Place: s.T, Tokens: s.T, Experts: 3})
		})
	}})
}

// before32 is before of an operand that is always f32.
func (e *Env) before32(acc bool, dims ...int64) (Operand, []float64) {
	if !acc {
		return e.Out32(dims...), nil
	}
	o := e.In32(dims...)
	return o, o.V
}

func combineCases() []Case {
	const n, k, d = 13, 3, 21
	slots := []int32{}
	for i := range int32(n * k) {
		slots = append(slots, i*7%5)
	}
	_, _, place := oracle.SortExperts(slots, 5)
	var cases []Case
	for _, acc := range []bool{false, true} {
		name := fmt.Sprintf("accumulate %v", acc)
		cases = append(cases, Case{Op: "moe_combine_fwd", Name: name, Run: func(e *Env) {
			y, old := e.before(acc, n, d)
			x, w, p := e.Wide(2, n*k, d), e.In32(n, k), e.I32(place, n, k)
			e.Do(func(q *kernels.Queue) {
				q.MoECombineFwd(kernels.MoECombineFwd{X: x.T, Place: p, Weights: w.T, Y: y.T, K: k, Accumulate: flag(acc)})
			})
			e.Want("y", y, func() []float64 { return add(oracle.Combine(x.V, w.V, place, n, k, d), old) })
		}}, Case{Op: "moe_combine_bwd", Name: name, Run: func(e *Env) {
			dx, old := e.before(acc, n*k, d)
			dw, oldW := e.before32(acc, n, k)
			x, w, p, dy := e.In(n*k, d), e.In32(n, k), e.I32(place, n, k), e.In(n, d)
			e.Do(func(q *kernels.Queue) {
				q.MoECombineBwd(kernels.MoECombineBwd{X: x.T, Place: p, Weights: w.T, DY: dy.T, DX: dx.T, DWeights: dw.T, K: k,
					DXAccumulate: flag(acc), DWeightsAccumulate: flag(acc)})
			})
			e.Want("dx", dx, func() []float64 {
				g, _ := oracle.CombineBackward(x.V, w.V, dy.V, place, n, k, d, n*k)
				return add(g, old)
			})
			e.Want("dweights", dw, func() []float64 {
				_, g := oracle.CombineBackward(x.V, w.V, dy.V, place, n, k, d, n*k)
				return add(g, oldW)
			})
			e.Grad("dx", dx, x.V, old, func(v []float64) float64 { return dot(oracle.Combine(v, w.V, place, n, k, d), dy.V) })
			e.Grad("dweights", dw, w.V, oldW, func(v []float64) float64 { return dot(oracle.Combine(x.V, v, place, n, k, d), dy.V) })
		}})
	}
	same := []int32{0, 1, 2, 3}
	ones := []float64{1, 1, 1, 1}
	return append(cases, Case{Op: "moe_combine_fwd", Name: "aligned", Run: func(e *Env) {
		x, w, p, y := e.In(n*k, 64), e.In32(n, k), e.I32(place, n, k), e.Out(n, 64)
		e.Do(func(q *kernels.Queue) {
			q.MoECombineFwd(kernels.MoECombineFwd{X: x.T, Place: p, Weights: w.T, Y: y.T, K: k})
		})
		e.Want("y", y, func() []float64 { return oracle.Combine(x.V, w.V, place, n, k, 64) })
	}}, Case{Op: "moe_combine_fwd", Name: "gate of whole rows", Run: func(e *Env) {
		x, w, y := e.In(4, d), e.In32(4, 1), e.Out(4, d)
		e.Do(func(q *kernels.Queue) { q.MoECombineFwd(kernels.MoECombineFwd{X: x.T, Weights: w.T, Y: y.T, K: 1}) })
		e.Want("y", y, func() []float64 { return oracle.Combine(x.V, w.V, same, 4, 1, d) })
	}}, Case{Op: "moe_combine_bwd", Name: "without weights", Run: func(e *Env) {
		dx, p, dy := e.Out(4, d), e.I32([]int32{2, 0, 3, 1}, 4, 1), e.In(4, d)
		e.Do(func(q *kernels.Queue) { q.MoECombineBwd(kernels.MoECombineBwd{Place: p, DY: dy.T, DX: dx.T, K: 1}) })
		e.Want("dx", dx, func() []float64 {
			g, _ := oracle.CombineBackward(make([]float64, 4*d), ones, dy.V, []int32{2, 0, 3, 1}, 4, 1, d, 4)
			return g
		})
	}})
}

// groupRows are groups of several sizes: none, one row, and more than a product of few rows takes.
var groupRows = []int32{0, 3, 3, 74, 75, 80}

func groupedCases() []Case {
	const m, k, n, groups = 80, 19, 35, 5
	each := func(f func(g, lo, hi int)) {
		for g := range groups {
			f(g, int(groupRows[g]), int(groupRows[g+1]))
		}
	}
	at := []int64{2 * k * n, 0, -1, 3 * k * n, k * n}
	var cases []Case
	for _, acc := range []bool{false, true} {
		name := fmt.Sprintf("accumulate %v", acc)
		cases = append(cases, Case{Op: "grouped_gemm", Name: "transposed, bias, " + name, Run: func(e *Env) {
			c, old := e.before(acc, m, n)
			a, b, bias, off := e.Wide(2, m, k), e.In(groups, n, k), e.In32(groups, n), e.I32(groupRows, groups+1)
			e.Do(func(q *kernels.Queue) {
				q.GroupedGemm(kernels.GroupedGemm{A: a.T, B: b.T.Transpose(1, 2), C: c.T, Bias: bias.T, Offsets: off, Alpha: 1, Accumulate: flag(acc)})
			})
			e.Want("c", c, func() []float64 {
				var out []float64
				each(func(g, lo, hi int) {
					out = append(out, oracle.Linear(a.V[lo*k:hi*k], b.V[g*n*k:(g+1)*n*k], bias.V[g*n:(g+1)*n], hi-lo, n, k)...)
				})
				return add(out, old)
			})
		}}, Case{Op: "grouped_gemm_dw", Name: name, Run: func(e *Env) {
			c, old := e.before32(acc, groups, k, n)
			a, b, off := e.In(m, k), e.Wide(1, m, n), e.I32(groupRows, groups+1)
			e.Do(func(q *kernels.Queue) {
				q.GroupedGemmDW(kernels.GroupedGemmDW{A: a.T, B: b.T, C: c.T, Offsets: off, Alpha: 0.5, Accumulate: flag(acc)})
			})
			e.Want("c", c, func() []float64 {
				var out []float64
				each(func(_, lo, hi int) {
					_, dw, _ := oracle.LinearBackward(b.V[lo*n:hi*n], make([]float64, k*n), scaled(a.V[lo*k:hi*k], 0.5), hi-lo, k, n)
					out = append(out, dw...)
				})
				return add(out, old)
			})
		}}, Case{Op: "grouped_colsum", Name: name, Run: func(e *Env) {
			y, old := e.before32(acc, groups, n)
			x, off := e.Wide(3, m, n), e.I32(groupRows, groups+1)
			e.Do(func(q *kernels.Queue) {
				q.GroupedColSum(kernels.GroupedColSum{X: x.T, Y: y.T, Offsets: off, Accumulate: flag(acc)})
			})
			e.Want("y", y, func() []float64 {
				var out []float64
				each(func(_, lo, hi int) {
					_, _, db := oracle.LinearBackward(make([]float64, hi-lo), make([]float64, n), x.V[lo*n:hi*n], hi-lo, n, 1)
					out = append(out, db...)
				})
				return add(out, old)
			})
		}})
	}
	return append(cases, Case{Op: "grouped_gemm", Name: "matrices by distances", Run: func(e *Env) {
		a, b, c, off := e.In(m, k), e.In(groups, k, n), e.Out(m, n), e.I32(groupRows, groups+1)
		dist := e.I64([]int64{2 * k * n, 0, 4 * k * n, 3 * k * n, k * n}, groups)
		e.Do(func(q *kernels.Queue) {
			q.GroupedGemm(kernels.GroupedGemm{A: a.T, B: b.T.Select(0, 0), BAt: dist, C: c.T, Offsets: off, Alpha: 1})
		})
		e.Want("c", c, func() []float64 {
			var out []float64
			each(func(g, lo, hi int) {
				i := []int{2, 0, 4, 3, 1}[g] * k * n
				out = append(out, oracle.Gemm(a.V[lo*k:hi*k], b.V[i:i+k*n], nil, 0, hi-lo, n, k)...)
			})
			return out
		})
	}}, Case{Op: "grouped_gemm_dw", Name: "an expert left out", Run: func(e *Env) {
		a, b, c, off := e.In(m, k), e.In(m, n), e.In32(groups, k, n), e.I32(groupRows, groups+1)
		dist := e.I64(at, groups)
		e.Do(func(q *kernels.Queue) {
			q.GroupedGemmDW(kernels.GroupedGemmDW{A: a.T, B: b.T, C: c.T.Select(0, 0), CAt: dist, Offsets: off, Alpha: 1})
		})
		e.Want("c", c, func() []float64 {
			out := slices.Clone(c.V)
			each(func(g, lo, hi int) {
				if at[g] >= 0 {
					_, dw, _ := oracle.LinearBackward(b.V[lo*n:hi*n], make([]float64, k*n), a.V[lo*k:hi*k], hi-lo, k, n)
					copy(out[at[g]:], dw)
				}
			})
			return out
		})
	}}, Case{Op: "grouped_gemm", Name: "offsets that do not cover", Fails: true, Run: func(e *Env) {
		a, b, c, off := e.In(4, 3), e.In(1, 3, 2), e.Out(4, 2), e.I32([]int32{0, 3}, 2)
		e.Do(func(q *kernels.Queue) {
			q.GroupedGemm(kernels.GroupedGemm{A: a.T, B: b.T, C: c.T, Offsets: off, Alpha: 1})
		})
	}})
}

func auxCases() []Case {
	const n, experts, k = 530, 9, 3
	mask := make([]uint8, n)
	for i := range mask {
		mask[i] = uint8(min(i%7, 1))
	}
	var cases []Case
	for _, acc := range []bool{false, true} {
		name := fmt.Sprintf("accumulate %v", acc)
		cases = append(cases, Case{Op: "moe_aux_fwd", Name: name, Run: func(e *Env) {
			x, m := e.In32(n, experts), e.U8(mask, n)
			counts, probs := e.put(kernels.F64, make([]float64, experts), 0, experts), e.put(kernels.F64, make([]float64, experts), 0, experts)
			e.Do(func(q *kernels.Queue) {
				q.MoEAuxFwd(kernels.MoEAuxFwd{X: x.T, Counts: counts.T, Probs: probs.T, K: k, Accumulate: flag(acc)})
				q.MoEAuxFwd(kernels.MoEAuxFwd{X: x.T, Mask: m, Counts: counts.T, Probs: probs.T, K: k, Accumulate: flag(acc)})
			})
			both := func(which int) []float64 {
				c, p := oracle.MoEAux(x.V, mask, experts, k)
				out := [][]float64{c, p}[which]
				if acc {
					c, p = oracle.MoEAux(x.V, nil, experts, k)
					out = add(out, [][]float64{c, p}[which])
				}
				return out
			}
			e.WantTol("counts", counts, 0, func() []float64 { return both(0) })
			e.WantTol("probs", probs, 1e6, func() []float64 { return both(1) }) // sums of f32 probabilities
		}}, Case{Op: "moe_aux_bwd", Name: name, Run: func(e *Env) {
			dx, old := e.before32(acc, n, experts)
			x, m := e.In32(n, experts), e.U8(mask, n)
			c, _ := oracle.MoEAux(x.V, mask, experts, k)
			counts := e.put(kernels.F64, c, 0, experts)
			e.Do(func(q *kernels.Queue) {
				q.MoEAuxBwd(kernels.MoEAuxBwd{X: x.T, Mask: m, Counts: counts.T, DX: dx.T, Scale: 0.01, Accumulate: flag(acc)})
			})
			e.WantTol("dx", dx, 5, func() []float64 { return add(oracle.MoEAuxBackward(x.V, mask, c, 0.01), old) })
			e.Grad("dx", dx, x.V, old, func(v []float64) float64 {
				_, p := oracle.MoEAux(v, mask, experts, k)
				return 0.01 * dot(c, p)
			})
		}})
	}
	return cases
}
