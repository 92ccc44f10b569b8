package kerneltest

import (
	"math"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// optimizerStep is how an optimizer of rounded steps is called: with or without scalars on the device.
type optimizerStep struct {
	name         string
	step         int64
	devs, skip   bool
	decay, scale float64
}

var optimizerSteps = []optimizerStep{{"first step", 1, false, false, 0, 0}, {"decay and gradient scale", 7, false, false, 0.1, 0.5},
	{"device scalars", 3, true, false, 0.1, 2}, {"skipped", 3, true, true, 0.1, 1}}

// scalars gives the learning rate and the factor of gradients that a step amounts to, and its device scalars.
func (e *Env) scalars(o optimizerStep, base float64) (lr float64, clip float32, lrDev, clipDev, skipDev kernels.Addr) {
	clip = float32(o.scale)
	if clip == 0 {
		clip = 1
	}
	if !o.devs {
		return base, clip, 0, 0, 0
	}
	return base * 0.5, clip * 0.25, e.Vals32([]float64{0.5}, 1).T.Data, e.Vals32([]float64{0.25}, 1).T.Data, e.I32([]int32{int32(flag(o.skip))}, 1).Data
}

// adam8 are the operands of AdamW8.
type adam8 struct{ p, g, mc, vc, ms, vs Operand }

func (e *Env) adam8(n int) adam8 {
	blocks := (n + kernels.Adam8Block - 1) / kernels.Adam8Block
	codes := func() Operand {
		v := make([]float64, n)
		for i := range v {
			v[i] = float64(uint8(e.rand.Uint32()))
		}
		return e.put(kernels.U8, v, 0, int64(n))
	}
	scales := func() Operand {
		v := make([]float64, blocks)
		for i := range v {
			v[i] = float64(float32(math.Abs(e.rand.NormFloat64()) * 0.01))
		}
		v[0] = 0 // a block that has no moments yet
		return e.Vals32(v, int64(blocks))
	}
	return adam8{p: e.In32(int64(n)), g: e.In32(int64(n)), mc: codes(), vc: codes(), ms: scales(), vs: scales()}
}

// adam8Cases are exact: a code that is off by one is wrong.
func adam8Cases() []Case {
	var cases []Case
	f32 := func(o Operand) []float32 { return convert(o.V, func(x float64) float32 { return float32(x) }) }
	u8 := func(o Operand) []uint8 { return convert(o.V, func(x float64) uint8 { return uint8(x) }) }
	for _, o := range optimizerSteps {
		for _, n := range []int{4096 + 3*kernels.Adam8Block, 5*kernels.Adam8Block + 77} {
			name := o.name
			if n%kernels.Adam8Block != 0 {
				name += ", a part of a block"
			}
			cases = append(cases, Case{Op: "adamw8", Name: name, Run: func(e *Env) {
				x := e.adam8(n)
				for i := range kernels.Adam8Block { // gradients of nothing but 0, over moments of 0
					x.g.V[i] = 0
				}
				upload(e.q, x.g.T, x.g.V)
				a := kernels.AdamW8{P: x.p.T, G: x.g.T, MCodes: x.mc.T, VCodes: x.vc.T, MScales: x.ms.T, VScales: x.vs.T,
					LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: o.decay, Step: o.step, GradScale: float32(o.scale)}
				var lr float64
				var clip float32
				lr, clip, a.LRDev, a.ClipDev, a.SkipDev = e.scalars(o, a.LR)
				if o.devs {
					a.StepDev, a.Step = e.I64([]int64{o.step}, 1).Data, 1000
				}
				e.Do(func(q *kernels.Queue) { q.AdamW8(a) })
				p, g, mc, vc, ms, vs := f32(x.p), f32(x.g), u8(x.mc), u8(x.vc), f32(x.ms), f32(x.vs)
				if !o.skip {
					oracle.AdamW8(p, g, mc, vc, ms, vs, lr, a.Beta1, a.Beta2, a.Eps, o.decay, clip, int(o.step))
				}
				for _, w := range []struct {
					name string
					o    Operand
					v    []float32
				}{{"p", x.p, p}, {"m's scales", x.ms, ms}, {"v's scales", x.vs, vs}} {
					e.WantTol(w.name, w.o, 0, func() []float64 { return convert(w.v, func(x float32) float64 { return float64(x) }) })
				}
				e.WantTol("m's codes", x.mc, 0, func() []float64 { return convert(mc, func(x uint8) float64 { return float64(x) }) })
				e.WantTol("v's codes", x.vc, 0, func() []float64 { return convert(vc, func(x uint8) float64 { return float64(x) }) })
			}})
		}
	}
	wrong := func(name string, change func(a *kernels.AdamW8)) Case {
		return Case{Op: "adamw8", Name: name, Fails: true, Run: func(e *Env) {
			x := e.adam8(1000)
			a := kernels.AdamW8{P: x.p.T, G: x.g.T, MCodes: x.mc.T, VCodes: x.vc.T, MScales: x.ms.T, VScales: x.vs.T, LR: 0.01, Beta1: 0.9, Beta2: 0.95, Step: 1}
			change(&a)
			e.Do(func(q *kernels.Queue) { q.AdamW8(a) })
		}}
	}
	return append(cases, wrong("too few scales", func(a *kernels.AdamW8) { a.MScales = a.MScales.Slice(0, 0, 3) }), wrong("step 0", func(a *kernels.AdamW8) { a.Step = 0 }),
		wrong("codes of f32", func(a *kernels.AdamW8) { a.VCodes = a.G }))
}

func lionCases() []Case {
	var cases []Case
	for _, o := range optimizerSteps {
		cases = append(cases, Case{Op: "lion", Name: o.name, Run: func(e *Env) {
			const n = 4113
			p, m, g := e.In32(n), e.In32(n), e.In32(n)
			for i := range 20 { // no sign
				m.V[i], g.V[i] = 0, 0
			}
			upload(e.q, m.T, m.V)
			upload(e.q, g.T, g.V)
			a := kernels.Lion{P: p.T, M: m.T, G: g.T, LR: 0.01, Beta1: 0.9, Beta2: 0.95, WeightDecay: o.decay, GradScale: float32(o.scale)}
			var lr float64
			var clip float32
			lr, clip, a.LRDev, a.ClipDev, a.SkipDev = e.scalars(o, a.LR)
			e.Do(func(q *kernels.Queue) { q.Lion(a) })
			after := [2][]float32{}
			for i, x := range []Operand{p, m} {
				after[i] = convert(x.V, func(x float64) float32 { return float32(x) })
			}
			if !o.skip {
				oracle.Lion(after[0], convert(g.V, func(x float64) float32 { return float32(x) }), after[1], lr, a.Beta1, a.Beta2, o.decay, clip)
			}
			for i, x := range []Operand{p, m} {
				e.WantTol([]string{"p", "m"}[i], x, 0, func() []float64 { return convert(after[i], func(x float32) float64 { return float64(x) }) })
			}
		}})
	}
	return cases
}
