package kerneltest

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// small32 is an f32 operand of numbers that are small beside what a step changes.
func (e *Env) small32(dims ...int64) Operand {
	x := e.In32(dims...)
	for i := range x.V {
		x.V[i] *= 0x1p-7
	}
	upload(e.q, x.T, x.V)
	return x
}

// square32 is an f32 operand of squares.
func (e *Env) square32(dims ...int64) Operand {
	x := e.In32(dims...)
	return e.Vals32(convert(x.V, func(v float64) float64 { return v * v }), dims...)
}

// wholeCases are the operations that optimizers of whole tensors are made of.
func wholeCases() []Case {
	return slices.Concat(sqSumsCases(), adamMiniCases(), adafactorCases(), lowRankCases(), normCasesOfUpdates(), gramCases())
}

func sqSumsCases() []Case {
	var cases []Case
	for _, s := range []struct{ b, n, m int64 }{{3, 70, 4196}, {1, 1, 5*4096 + 3}, {2, 5, 7}, {1, 300, 130}} {
		cases = append(cases, Case{Op: "sqsums", Name: fmt.Sprintf("%dx%dx%d", s.b, s.n, s.m), Run: func(e *Env) {
			x, rows, cols := e.In32(s.b, s.n, s.m), e.OutAs(kernels.F64, s.b*s.n), e.OutAs(kernels.F64, s.b*s.m)
			e.Do(func(q *kernels.Queue) {
				q.SqSums(kernels.SqSums{X: x.T, Rows: rows.T, Cols: cols.T, Scale: 0.5, Eps: 0.25})
			})
			want := func() ([]float64, []float64) { return oracle.SquareSums(x.V, int(s.b), int(s.n), int(s.m), 0.5, 0.25) }
			e.WantTol("rows", rows, 1e6, func() []float64 { r, _ := want(); return r })
			e.WantTol("cols", cols, 1e6, func() []float64 { _, c := want(); return c })
		}})
	}
	for _, alone := range []string{"rows", "columns"} {
		cases = append(cases, Case{Op: "sqsums", Name: "only " + alone, Run: func(e *Env) {
			x := e.In32(2, 40, 9)
			p := kernels.SqSums{X: x.T}
			at, n := &p.Rows, int64(80)
			rows, cols := oracle.SquareSums(x.V, 2, 40, 9, 1, 0)
			if alone != "rows" {
				at, n, rows = &p.Cols, 18, cols
			}
			out := e.OutAs(kernels.F64, n)
			*at = out.T
			e.Do(func(q *kernels.Queue) { q.SqSums(p) })
			e.WantTol(alone, out, 1e6, func() []float64 { return rows })
		}})
	}
	cases = append(cases, Case{Op: "sqsums", Name: "in order", Run: func(e *Env) {
		const b, n, m = 2, 75, 4196
		v := make([]float64, b*n*m)
		for i := range v {
			v[i] = math.Ldexp(1, e.rand.IntN(31)) // of whose squares a sum of some loses others
		}
		x, rows, cols := e.Vals32(v, b, n, m), e.OutAs(kernels.F64, b*n), e.OutAs(kernels.F64, b*m)
		e.Do(func(q *kernels.Queue) { q.SqSums(kernels.SqSums{X: x.T, Rows: rows.T, Cols: cols.T}) })
		r, c := oracle.SquareSumsInOrder(x.V, b, n, m)
		e.WantTol("rows", rows, 0, func() []float64 { return r })
		e.WantTol("cols", cols, 0, func() []float64 { return c })
	}})
	return append(cases, Case{Op: "sqsums", Name: "two dimensions", Fails: true, Run: func(e *Env) {
		x, rows := e.In32(4, 9), e.OutAs(kernels.F64, 4)
		e.Do(func(q *kernels.Queue) { q.SqSums(kernels.SqSums{X: x.T, Rows: rows.T}) })
	}})
}

func adamMiniCases() []Case {
	var cases []Case
	for _, o := range optimizerSteps {
		for _, s := range []struct{ blocks, size int64 }{{41, 103}, {3, 4096 + 77}, {57, 1}} {
			cases = append(cases, Case{Op: "adam_mini", Name: fmt.Sprintf("%s, %d blocks of %d", o.name, s.blocks, s.size), Run: func(e *Env) {
				n := s.blocks * s.size
				p, m, g, v := e.small32(n), e.In32(n), e.In32(n), e.square32(s.blocks)
				a := kernels.AdamMini{P: p.T, M: m.T, G: g.T, V: v.T, LR: 0.5, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: o.decay, Step: o.step, GradScale: float32(o.scale)}
				var lr float64
				var clip float32
				lr, clip, a.LRDev, a.ClipDev, a.SkipDev = e.scalars(o, a.LR)
				if o.devs {
					a.StepDev, a.Step = e.I64([]int64{o.step}, 1).Data, 1000
				}
				e.Do(func(q *kernels.Queue) { q.AdamMini(a) })
				after := [3][]float64{slices.Clone(p.V), slices.Clone(m.V), slices.Clone(v.V)}
				if !o.skip {
					oracle.AdamMini(after[0], g.V, after[1], after[2], lr, a.Beta1, a.Beta2, a.Eps, o.decay, float64(clip), int(o.step))
				}
				for i, x := range []Operand{p, m, v} {
					e.Want([]string{"p", "m", "v"}[i], x, func() []float64 { return after[i] })
				}
			}})
		}
	}
	wrong := func(name string, change func(a *kernels.AdamMini)) Case {
		return Case{Op: "adam_mini", Name: name, Fails: true, Run: func(e *Env) {
			p, m, g, v := e.In32(1000), e.In32(1000), e.In32(1000), e.square32(10)
			a := kernels.AdamMini{P: p.T, M: m.T, G: g.T, V: v.T, LR: 0.01, Beta1: 0.9, Beta2: 0.95, Step: 1}
			change(&a)
			e.Do(func(q *kernels.Queue) { q.AdamMini(a) })
		}}
	}
	return append(cases, wrong("blocks of different lengths", func(a *kernels.AdamMini) { a.V = a.V.Slice(0, 0, 7) }), wrong("step 0", func(a *kernels.AdamMini) { a.Step = 0 }))
}

func adafactorCases() []Case {
	var cases []Case
	for _, o := range optimizerSteps {
		for _, s := range []struct {
			name         string
			b, n, m      int64 // n 0: no matrix
			moment, size bool
			threshold    float64
		}{{"stack of matrices", 3, 40, 70, false, false, 1}, {"long rows, first moment", 1, 70, 4196, true, false, 0.5}, {"by the parameter's size", 1, 300, 130, false, true, 1},
			{"vector", 1, 0, 4113, false, false, 1}, {"vector, first moment, by its size", 1, 0, 77, true, true, 100}} {
			cases = append(cases, Case{Op: "adafactor", Name: o.name + ", " + s.name, Run: func(e *Env) {
				dims := []int64{s.b, s.n, s.m}
				if s.n == 0 {
					dims = dims[2:]
				}
				p, g := e.small32(dims...), e.In32(dims...)
				a := kernels.Adafactor{P: p.T, G: g.T, LR: 0.5, Beta1: 0.9, Beta2: 0.75, Eps1: 1e-30, Eps2: 1e-3, ClipThreshold: s.threshold, WeightDecay: o.decay,
					GradScale: float32(o.scale), ScaleParameter: flag(s.size)}
				w := oracle.AdafactorStep{G: g.V, B: int(s.b), Rows: int(s.n), Cols: int(s.m), Beta1: a.Beta1, Beta2: a.Beta2, Eps1: a.Eps1, Eps2: a.Eps2,
					ClipThreshold: s.threshold, WeightDecay: o.decay, ScaleParameter: s.size}
				var clip float32
				w.LR, clip, a.LRDev, a.ClipDev, a.SkipDev = e.scalars(o, a.LR)
				w.Clip = float64(clip)
				state := func(name string, x Operand, at *kernels.Tensor, to *[]float64) {
					*at, *to = x.T, slices.Clone(x.V)
					e.Want(name, x, func() []float64 { return *to })
				}
				w.P = slices.Clone(p.V)
				e.Want("p", p, func() []float64 { return w.P })
				if s.n > 0 {
					state("rows", e.square32(s.b*s.n), &a.Row, &w.Row)
					state("cols", e.square32(s.b*s.m), &a.Col, &w.Col)
				} else {
					state("v", e.square32(s.m), &a.V, &w.V)
				}
				if s.moment {
					state("m", e.small32(dims...), &a.M, &w.M)
				}
				if !o.skip {
					oracle.Adafactor(w)
				}
				e.Do(func(q *kernels.Queue) { q.Adafactor(a) })
			}})
		}
	}
	wrong := func(name string, change func(a *kernels.Adafactor, e *Env)) Case {
		return Case{Op: "adafactor", Name: name, Fails: true, Run: func(e *Env) {
			p, g := e.In32(1, 20, 30), e.In32(1, 20, 30)
			a := kernels.Adafactor{P: p.T, G: g.T, Row: e.square32(20).T, Col: e.square32(30).T, LR: 0.01, Beta2: 0.5, ClipThreshold: 1}
			change(&a, e)
			e.Do(func(q *kernels.Queue) { q.Adafactor(a) })
		}}
	}
	return append(cases, wrong("both kinds of moments", func(a *kernels.Adafactor, e *Env) { a.V = e.square32(600).T }),
		wrong("no moments", func(a *kernels.Adafactor, _ *Env) { a.Row, a.Col = kernels.Tensor{}, kernels.Tensor{} }),
		wrong("columns for rows", func(a *kernels.Adafactor, _ *Env) { a.Row, a.Col = a.Col, a.Row }),
		wrong("two dimensions", func(a *kernels.Adafactor, _ *Env) { a.P = a.P.Reshape(20, 30) }))
}

func lowRankCases() []Case {
	var cases []Case
	for _, scale := range []float64{0, 0.25} {
		cases = append(cases, Case{Op: "adam_dir", Name: fmt.Sprintf("scale %g", scale), Run: func(e *Env) {
			const n = 4113
			x, m, v, y := e.In32(n), e.In32(n), e.square32(n), e.Out32(n)
			a := kernels.AdamDir{X: x.T, M: m.T, V: v.T, Y: y.T, Beta1: 0.9, Beta2: 0.95, Eps: 1e-6, Scale: float32(scale)}
			wm, wv, by := slices.Clone(m.V), slices.Clone(v.V), scale
			if scale == 0 {
				by = 1
			} else {
				a.Y, y = x.T, x // in place
			}
			want := oracle.AdamDirection(x.V, wm, wv, a.Beta1, a.Beta2, a.Eps, by)
			e.Do(func(q *kernels.Queue) { q.AdamDir(a) })
			e.Want("y", y, func() []float64 { return want })
			e.Want("m", m, func() []float64 { return wm })
			e.Want("v", v, func() []float64 { return wv })
		}})
	}
	for _, m := range []int64{37, 4101} {
		cases = append(cases, Case{Op: "scale_rows", Name: fmt.Sprintf("rows of %d", m), Run: func(e *Env) {
			x, r, y := e.In32(19, m), e.In32(19), e.Out32(19, m)
			if m < 100 {
				y = x // in place
			}
			e.Do(func(q *kernels.Queue) { q.ScaleRows(kernels.ScaleRows{X: x.T, R: r.T, Y: y.T}) })
			want := make([]float64, len(x.V))
			for i, v := range x.V {
				want[i] = float64(float32(v * r.V[int64(i)/m]))
			}
			e.WantTol("y", y, 0, func() []float64 { return want })
		}})
	}
	return append(cases, Case{Op: "scale_rows", Name: "too few factors", Fails: true, Run: func(e *Env) {
		x, r := e.In32(5, 6), e.In32(4)
		e.Do(func(q *kernels.Queue) { q.ScaleRows(kernels.ScaleRows{X: x.T, R: r.T, Y: x.T}) })
	}})
}

func normCasesOfUpdates() []Case {
	var cases []Case
	sums := func(e *Env, n int64) Operand {
		v := make([]float64, n)
		for i := range v {
			v[i] = math.Exp(4 * e.rand.NormFloat64())
		}
		v[0] = 0
		return e.put(kernels.F64, v, 0, n)
	}
	for _, s := range []struct {
		name       string
		num        bool
		eps, floor float64
		dt         kernels.DType
	}{{"of two norms", true, 1e-8, 0, 0}, {"inverse with a floor", false, 0, 0x1p-10, kernels.F32}, {"inverse of a norm in bf16", false, 0, 0x1p-10, kernels.BF16}} {
		cases = append(cases, Case{Op: "norm_ratio", Name: s.name, Run: func(e *Env) {
			num, den, y := sums(e, 300), sums(e, 300), e.Out32(300)
			a := kernels.NormRatio{Den: den.T, Y: y.T, Eps: float32(s.eps), Floor: float32(s.floor), DType: s.dt}
			if s.num {
				a.Num = num.T
			}
			want := make([]float64, 300)
			for i := range want {
				d := math.Sqrt(den.V[i])
				if s.dt == kernels.BF16 {
					d = round(kernels.BF16, d)
				}
				want[i] = 1 / math.Max(d+s.eps, s.floor)
				if s.num {
					want[i] *= math.Sqrt(num.V[i])
				}
			}
			e.Do(func(q *kernels.Queue) { q.NormRatio(a) })
			e.Want("y", y, func() []float64 { return want })
		}})
	}
	for _, s := range []struct {
		name                 string
		sumsq, last, y, next float64
	}{{"the first", 9, 0, 1, 3}, {"within the limit", 9, 3, 1, 3}, {"beyond the limit", 100, 2, 0.25, 2.5}} {
		cases = append(cases, Case{Op: "norm_limit", Name: s.name, Run: func(e *Env) {
			sum, last, y := e.put(kernels.F64, []float64{s.sumsq}, 0, 1), e.Vals32([]float64{s.last}, 1), e.Out32(1)
			e.Do(func(q *kernels.Queue) {
				q.NormLimit(kernels.NormLimit{SumSq: sum.T, Last: last.T, Y: y.T, Growth: 1.25, Eps: 1e-8})
			})
			e.Want("y", y, func() []float64 { return []float64{s.y} })
			e.Want("last", last, func() []float64 { return []float64{s.next} })
		}})
	}
	return cases
}

func gramCases() []Case {
	var cases []Case
	for _, s := range []struct{ n, m int64 }{{37, 203}, {16, 4096}, {1, 5}, {3, 1}, {50, 8}} {
		cases = append(cases, Case{Op: "gram", Name: fmt.Sprintf("%dx%d", s.n, s.m), Run: func(e *Env) {
			x, y := e.In32(s.n, s.m), e.OutAs(kernels.F64, s.n, s.n)
			e.Do(func(q *kernels.Queue) { q.Gram(kernels.Gram{X: x.T, Y: y.T}) })
			e.WantTol("y", y, 0, func() []float64 { return oracle.Gram(x.V, int(s.n), int(s.m)) })
		}})
	}
	wrong := func(name string, y int64, dims ...int64) Case {
		return Case{Op: "gram", Name: name, Fails: true, Run: func(e *Env) {
			x, out := e.In32(dims...), e.OutAs(kernels.F64, y)
			e.Do(func(q *kernels.Queue) { q.Gram(kernels.Gram{X: x.T, Y: out.T}) })
		}}
	}
	return append(cases, wrong("too few elements", 24, 5, 9), wrong("three dimensions", 25, 5, 3, 3))
}
