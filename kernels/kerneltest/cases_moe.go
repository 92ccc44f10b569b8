package kerneltest

import (
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

func clampCases() []Case {
	const lo, hi = -0.75, 0.5
	cases := []Case{{Op: "clamp_fwd", Name: "both sides", Run: func(e *Env) {
		x, y := e.Wide(3, 6, 37), e.Out(6, 37)
		e.Do(func(q *kernels.Queue) { q.ClampFwd(kernels.ClampFwd{X: x.T, Y: y.T, Lo: lo, Hi: hi}) })
		e.WantTol("y", y, 0, func() []float64 { return oracle.Clamp(x.V, lo, hi) })
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
