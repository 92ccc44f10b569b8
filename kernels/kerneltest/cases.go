package kerneltest

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// Cases lists all cases, by operation in ABI order.
func Cases() []Case {
	all := slices.Concat(rowCases(), elementCases(), randomCases(), normCases(), gemmCases(), ropeCases(), attentionCases(), vocabCases(), optimizerCases(), adam8Cases(), lionCases(), wholeCases(), clampCases(), moeCases(), packedCases(), packedPerf(), perfCases())
	names := kernels.OpNames()
	slices.SortStableFunc(all, func(a, b Case) int { return slices.Index(names, a.Op) - slices.Index(names, b.Op) })
	return all
}

func flag(b bool) kernels.Bool { return kernels.Flag(b) }

// before is what an accumulating output holds: random numbers when acc, else NaN and nothing to add.
func (e *Env) before(acc bool, dims ...int64) (Operand, []float64) {
	if !acc {
		return e.Out(dims...), nil
	}
	o := e.In(dims...)
	return o, o.V
}

func scaled(v []float64, s float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = s * v[i]
	}
	return out
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

func rowCases() []Case {
	ids := []int32{3, 0, 3, 6, 1, 3}
	var cases []Case
	cases = append(cases,
		Case{Op: "gather_rows", Name: "scaled", Run: func(e *Env) {
			x, y := e.In(7, 19), e.Out(2, 3, 19)
			t := e.I32(ids, 2, 3)
			e.Do(func(q *kernels.Queue) { q.GatherRows(kernels.GatherRows{X: x.T, IDs: t, Y: y.T, Scale: 2.5}) })
			e.Want("y", y, func() []float64 { return scaled(oracle.Embedding(x.V, ids, 19), 2.5) })
		}},
		Case{Op: "gather_rows", Name: "strided", Run: func(e *Env) {
			x, y := e.Wide(5, 7, 16), e.OutWide(3, 6, 16)
			t := e.I32(ids, 6)
			e.Do(func(q *kernels.Queue) { q.GatherRows(kernels.GatherRows{X: x.T, IDs: t, Y: y.T, Scale: 1}) })
			e.WantTol("y", y, 0, func() []float64 { return oracle.Embedding(x.V, ids, 16) })
		}},
		Case{Op: "gather_rows", Name: "aligned", Run: func(e *Env) {
			x, y := e.In(7, 64), e.Out(6, 64)
			t := e.I32(ids, 6)
			e.Do(func(q *kernels.Queue) { q.GatherRows(kernels.GatherRows{X: x.T, IDs: t, Y: y.T, Scale: 1}) })
			e.WantTol("y", y, 0, func() []float64 { return oracle.Embedding(x.V, ids, 64) })
		}},
		Case{Op: "scatter_add_rows", Name: "many ids", Run: func(e *Env) {
			const n, rows, d = 2500, 300, 5
			many := make([]int32, n)
			for i := range many {
				many[i] = int32(i * i % rows)
			}
			x, y, t := e.In(n, d), e.Out32(rows, d), e.I32(many, n)
			e.Do(func(q *kernels.Queue) { q.ScatterAddRows(kernels.ScatterAddRows{X: x.T, IDs: t, Y: y.T, Scale: 1}) })
			e.Want("y", y, func() []float64 { return oracle.EmbeddingBackward(x.V, many, rows, d) })
		}},
		Case{Op: "gather_rows", Name: "id out of range", Fails: true, Run: func(e *Env) {
			x, y, t := e.In(7, 4), e.Out(2, 4), e.I32([]int32{0, 7}, 2)
			e.Do(func(q *kernels.Queue) { q.GatherRows(kernels.GatherRows{X: x.T, IDs: t, Y: y.T, Scale: 1}) })
		}},
		Case{Op: "colsum", Name: "wrong length", Fails: true, Run: func(e *Env) {
			x, y := e.In(3, 5), e.Out32(4)
			e.Do(func(q *kernels.Queue) { q.ColSum(kernels.ColSum{X: x.T, Y: y.T}) })
		}},
	)
	for _, acc := range []bool{false, true} {
		cases = append(cases, Case{Op: "scatter_add_rows", Name: fmt.Sprintf("accumulate %v", acc), Run: func(e *Env) {
			y, old := e.before32(acc, 7, 19)
			x, t := e.In(8, 19), e.I32(append([]int32{-1, 5}, ids...), 8)
			e.Do(func(q *kernels.Queue) {
				q.ScatterAddRows(kernels.ScatterAddRows{X: x.T, IDs: t, Y: y.T, Scale: 0.5, Accumulate: flag(acc)})
			})
			e.Want("y", y, func() []float64 {
				return add(scaled(oracle.EmbeddingBackward(x.V[19:], append([]int32{5}, ids...), 7, 19), 0.5), old)
			})
		}}, Case{Op: "colsum", Name: fmt.Sprintf("accumulate %v", acc), Run: func(e *Env) {
			y, old := e.before32(acc, 37)
			x := e.Wide(3, 1, 521, 37)
			e.Do(func(q *kernels.Queue) { q.ColSum(kernels.ColSum{X: x.T, Y: y.T, Accumulate: flag(acc)}) })
			e.Want("y", y, func() []float64 {
				_, _, db := oracle.LinearBackward(make([]float64, 521), make([]float64, 37), x.V, 521, 37, 1)
				return add(db, old)
			})
		}})
	}
	for _, dt := range []kernels.DType{kernels.BF16, kernels.F16, kernels.F64} {
		cases = append(cases, Case{Op: "copy", Name: "to " + dt.String() + " and back, transposed", Run: func(e *Env) {
			x, mid, y := e.In32(5, 33), e.OutAs(dt, 33, 5), e.Out32(5, 33)
			e.Do(func(q *kernels.Queue) {
				q.Copy(kernels.Copy{X: x.T.T(), Y: mid.T})
				q.Copy(kernels.Copy{X: mid.T.T(), Y: y.T})
			})
			e.WantTol("y", y, 0, func() []float64 { return convert(x.V, func(v float64) float64 { return round(dt, v) }) })
		}})
	}
	cases = append(cases, Case{Op: "copy", Name: "to bf16, contiguous", Run: func(e *Env) {
		x, y := e.In32(3, 1100), e.OutAs(kernels.BF16, 3, 1100)
		e.Do(func(q *kernels.Queue) { q.Copy(kernels.Copy{X: x.T, Y: y.T}) })
		e.WantTol("y", y, 0, func() []float64 { return convert(x.V, func(v float64) float64 { return round(kernels.BF16, v) }) })
	}}, Case{Op: "copy", Name: "rows of any strides", Run: func(e *Env) {
		x, y := e.Wide(2, 3, 4, 6), e.OutWide(1, 4, 3, 6)
		e.Do(func(q *kernels.Queue) { q.Copy(kernels.Copy{X: x.T.Transpose(0, 1), Y: y.T}) })
		e.WantTol("y", y, 0, func() []float64 {
			var out []float64
			for j := range 4 {
				for i := range 3 {
					out = append(out, x.V[(i*4+j)*6:(i*4+j+1)*6]...)
				}
			}
			return out
		})
	}}, Case{Op: "fill", Name: "strided", Run: func(e *Env) {
		y := e.OutWide(3, 5, 9)
		e.Do(func(q *kernels.Queue) { q.Fill(kernels.Fill{Y: y.T, Value: -0.75}) })
		e.WantTol("y", y, 0, func() []float64 { return slices.Repeat([]float64{-0.75}, 45) })
	}}, Case{Op: "row_topk", Name: "ties by index", Run: func(e *Env) {
		v := []float64{1, 3, 3, -2, 3, 0, 5, 5, 5, 5, 5, 5, -1, -3, -2, -9, -1, -4}
		x, values, top := e.Vals(v, 3, 6), e.Out32(3, 4), e.OutAs(kernels.I32, 3, 4)
		e.Do(func(q *kernels.Queue) { q.RowTopK(kernels.RowTopK{X: x.T, Values: values.T, IDs: top.T, K: 4}) })
		e.WantTol("ids", top, 0, func() []float64 { return []float64{1, 2, 4, 0, 0, 1, 2, 3, 0, 4, 2, 1} })
		e.WantTol("values", values, 0, func() []float64 { return []float64{3, 3, 3, 1, 5, 5, 5, 5, -1, -1, -2, -3} })
	}}, Case{Op: "row_topk", Name: "long rows", Run: func(e *Env) {
		x, top := e.In(3, 2049), e.OutAs(kernels.I32, 3, 1)
		e.Do(func(q *kernels.Queue) { q.RowTopK(kernels.RowTopK{X: x.T, IDs: top.T, K: 1}) })
		e.WantTol("ids", top, 0, func() []float64 {
			var out []float64
			for r := range 3 {
				row := x.V[r*2049 : (r+1)*2049]
				out = append(out, float64(slices.Index(row, slices.Max(row))))
			}
			return out
		})
	}})
	return cases
}

var acts = []struct {
	name string
	act  kernels.Activation
}{{oracle.SiLU, kernels.SiLU}, {oracle.GELUTanh, kernels.GELUTanh}, {oracle.GELUErf, kernels.GELUErf}, {oracle.ReLU, kernels.ReLU},
	{oracle.ReLU2, kernels.ReLU2}, {oracle.Tanh, kernels.Tanh}}

func elementCases() []Case {
	var cases []Case
	for _, acc := range []bool{false, true} {
		name := fmt.Sprintf("accumulate %v", acc)
		cases = append(cases, Case{Op: "add", Name: name, Run: func(e *Env) {
			y, old := e.before(acc, 5, 23)
			a, b, alpha := e.Wide(4, 5, 23), e.In(5, 23), e.Vals32([]float64{3}, 1)
			e.Do(func(q *kernels.Queue) {
				q.Add(kernels.Add{A: a.T, B: b.T, Y: y.T, Alpha: 0.5, Beta: -2, AlphaDev: alpha.T.Data, Accumulate: flag(acc)})
			})
			e.Want("y", y, func() []float64 { return add(add(scaled(a.V, 1.5), scaled(b.V, -2)), old) })
		}}, Case{Op: "mul", Name: name, Run: func(e *Env) {
			y, old := e.before(acc, 5, 23)
			a, b := e.In(5, 23), e.In32(23)
			e.Do(func(q *kernels.Queue) { q.Mul(kernels.Mul{A: a.T, B: b.T, Y: y.T, Accumulate: flag(acc)}) })
			e.Want("y", y, func() []float64 {
				out := slices.Clone(a.V)
				for i := range out {
					out[i] *= b.V[i%23]
				}
				return add(out, old)
			})
		}})
	}
	cases = append(cases, Case{Op: "add", Name: "in place, one operand", Run: func(e *Env) {
		a := e.In(4100)
		e.Do(func(q *kernels.Queue) { q.Add(kernels.Add{A: a.T, Y: a.T, Alpha: -3}) })
		e.Want("y", a, func() []float64 { return scaled(a.V, -3) })
	}})
	for _, act := range acts {
		cases = append(cases, Case{Op: "act_fwd", Name: act.name, Run: func(e *Env) {
			x, y := e.spread(4, 150), e.Out(4, 150)
			e.Do(func(q *kernels.Queue) { q.ActFwd(kernels.ActFwd{X: x.T, Y: y.T, Act: act.act}) })
			e.Want("y", y, func() []float64 { return convert(x.V, func(v float64) float64 { return oracle.Act(act.name, v) }) })
		}}, Case{Op: "glu_fwd", Name: act.name, Run: func(e *Env) {
			fused, y := e.In(6, 2*33), e.Out(6, 33)
			e.Do(func(q *kernels.Queue) {
				q.GLUFwd(kernels.GLUFwd{Gate: fused.T.Slice(1, 0, 33), Up: fused.T.Slice(1, 33, 66), Y: y.T, Act: act.act})
			})
			e.Want("y", y, func() []float64 { return oracle.GLU(act.name, halves(fused.V, 66, 0), halves(fused.V, 66, 1)) })
		}})
		for _, acc := range []bool{false, true} {
			name := fmt.Sprintf("%s accumulate %v", act.name, acc)
			cases = append(cases, Case{Op: "act_bwd", Name: name, Run: func(e *Env) {
				dx, old := e.before(acc, 4, 50)
				x, dy := e.spread(4, 50), e.In(4, 50)
				e.Do(func(q *kernels.Queue) {
					q.ActBwd(kernels.ActBwd{X: x.T, DY: dy.T, DX: dx.T, Act: act.act, Accumulate: flag(acc)})
				})
				one := slices.Repeat([]float64{1}, len(x.V))
				e.Want("dx", dx, func() []float64 { g, _ := oracle.GLUBackward(act.name, x.V, one, dy.V); return add(g, old) })
				e.Grad("dx", dx, x.V, old, func(v []float64) float64 { return dot(oracle.GLU(act.name, v, one), dy.V) })
			}}, Case{Op: "glu_bwd", Name: name, Run: func(e *Env) {
				dg, oldG := e.before(acc, 6, 17)
				du, oldU := e.before(acc, 6, 17)
				g, u, dy := e.In(6, 17), e.In(6, 17), e.In(6, 17)
				e.Do(func(q *kernels.Queue) {
					q.GLUBwd(kernels.GLUBwd{Gate: g.T, Up: u.T, DY: dy.T, DGate: dg.T, DUp: du.T, Act: act.act, DGateAccumulate: flag(acc), DUpAccumulate: flag(acc)})
				})
				e.Want("dgate", dg, func() []float64 { w, _ := oracle.GLUBackward(act.name, g.V, u.V, dy.V); return add(w, oldG) })
				e.Want("dup", du, func() []float64 { _, w := oracle.GLUBackward(act.name, g.V, u.V, dy.V); return add(w, oldU) })
				e.Grad("dgate", dg, g.V, oldG, func(v []float64) float64 { return dot(oracle.GLU(act.name, v, u.V), dy.V) })
				e.Grad("dup", du, u.V, oldU, func(v []float64) float64 { return dot(oracle.GLU(act.name, g.V, v), dy.V) })
			}})
		}
	}
	return cases
}

// spread is an operand over the range where activations bend and saturate.
func (e *Env) spread(dims ...int64) Operand {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	v := make([]float64, n)
	for i := range v {
		v[i] = 12 * (2*(float64(i)+0.5)/float64(n) - 1) * (1 + e.rand.Float64()/100)
	}
	return e.Vals(v, dims...)
}

// halves is the left or right half of each row.
func halves(v []float64, row, which int) []float64 {
	var out []float64
	for at := which * row / 2; at < len(v); at += row {
		out = append(out, v[at:at+row/2]...)
	}
	return out
}

func randomCases() []Case {
	const n, p = 40_000, 0.3
	return []Case{{Op: "dropout", Name: "share, scale and rows", Run: func(e *Env) {
		ones := slices.Repeat([]float64{1}, n)
		x, y, shifted := e.Vals(ones, 200, 200), e.Out(200, 200), e.Out(100, 200)
		late := make([]int64, 100)
		for i := range late {
			late[i] = int64(100 + i)
		}
		rows := e.I64(late, 100)
		e.Do(func(q *kernels.Queue) {
			q.Dropout(kernels.Dropout{X: x.T, Y: y.T, Seed: 7, Stream: 3, P: p})
			q.Dropout(kernels.Dropout{X: x.T.Slice(0, 100, 200), RowIDs: rows, Y: shifted.T, Seed: 7, Stream: 3, P: p})
		})
		e.Verify("y", y, func(got []float64) error {
			kept := 0
			for i, v := range got {
				if v != 0 && math.Abs(v-1/(1-p)) > 1e-2 {
					return fmt.Errorf("element %d is %g, want 0 or %g", i, v, 1/(1-p))
				}
				if v != 0 {
					kept++
				}
			}
			drop := oracle.Drop{P: p, Seed: 7, Stream: 3}
			for i, v := range got {
				if want := drop.Factor(int64(i/200), 0, i%200); (v == 0) != (want == 0) {
					return fmt.Errorf("element %d is %g, the oracle has %g", i, v, want)
				}
			}
			if share := float64(kept) / n; math.Abs(share-(1-p)) > 5*math.Sqrt(p*(1-p)/n) {
				return fmt.Errorf("%.4f were kept, want %.4f", share, 1-p)
			}
			return nil
		})
		e.Verify("rows by id", shifted, func(got []float64) error {
			all, err := e.read(y)
			if err == nil && !slices.Equal(all[n/2:], got) {
				err = fmt.Errorf("what a row drops depends on more than its id")
			}
			return err
		})
	}}, {Op: "random", Name: "normal, shards of a whole", Run: func(e *Env) {
		whole, part := e.Out32(n), e.Out32(1000)
		e.Do(func(q *kernels.Queue) {
			q.Random(kernels.Random{Y: whole.T, Seed: 5, Stream: 1, A: 2, B: 3, Kind: kernels.Normal})
			q.Random(kernels.Random{Y: part.T, Seed: 5, Stream: 1, Offset: 12_000, A: 2, B: 3, Kind: kernels.Normal})
		})
		e.Verify("moments", whole, func(got []float64) error { return moments(got, 2, 3) })
		e.Verify("shard", part, func(got []float64) error {
			all, err := e.read(whole)
			if err == nil && !slices.Equal(all[12_000:13_000], got) {
				err = fmt.Errorf("a shard differs from the whole's elements")
			}
			return err
		})
	}}, {Op: "random", Name: "uniform", Run: func(e *Env) {
		y, other := e.Out32(n), e.Out32(n)
		e.Do(func(q *kernels.Queue) {
			q.Random(kernels.Random{Y: y.T, Seed: 5, Stream: 1, A: -1, B: 3, Kind: kernels.Uniform})
			q.Random(kernels.Random{Y: other.T, Seed: 5, Stream: 2, A: -1, B: 3, Kind: kernels.Uniform})
		})
		e.Verify("range and moments", y, func(got []float64) error {
			if lo, hi := slices.Min(got), slices.Max(got); lo < -1 || hi >= 3 {
				return fmt.Errorf("values from %g to %g, want [-1, 3)", lo, hi)
			}
			return moments(got, 1, 4/math.Sqrt(12))
		})
		e.Verify("streams differ", other, func(got []float64) error {
			first, err := e.read(y)
			if err == nil && first[0] == got[0] && first[1] == got[1] {
				err = fmt.Errorf("two streams begin alike")
			}
			return err
		})
	}}}
}

// moments checks mean and deviation within five standard errors.
func moments(v []float64, mean, dev float64) error {
	n := float64(len(v))
	var m, s float64
	for _, x := range v {
		m += x / n
	}
	for _, x := range v {
		s += (x - m) * (x - m) / n
	}
	if !(math.Abs(m-mean) < 5*dev/math.Sqrt(n)) || !(math.Abs(math.Sqrt(s)-dev) < 5*dev/math.Sqrt(n)) {
		return fmt.Errorf("mean %g and deviation %g, want %g and %g", m, math.Sqrt(s), mean, dev)
	}
	return nil
}
