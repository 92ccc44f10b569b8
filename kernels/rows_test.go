package kernels

import (
	"fmt"
	"math"
	"testing"
)

func refNorm(x, w, b []float64, d int, eps, off float64, layer bool) []float64 {
	y := make([]float64, len(x))
	for r := 0; r < len(x); r += d {
		mean, ss := 0.0, 0.0
		if layer {
			for _, v := range x[r : r+d] {
				mean += v / float64(d)
			}
		}
		for _, v := range x[r : r+d] {
			ss += (v - mean) * (v - mean) / float64(d)
		}
		for i := range d {
			v := (x[r+i] - mean) / math.Sqrt(ss+eps)
			if w != nil {
				v *= w[i] + off
			}
			if b != nil {
				v += b[i]
			}
			y[r+i] = v
		}
	}
	return y
}

func TestRMSNorm(t *testing.T) {
	for _, s := range []struct {
		rows, d int
		off     float32
		w, res  bool
	}{{1, 1, 0, true, false}, {3, 7, 1, true, true}, {70, 33, 0, true, true}, {5, 64, 0, false, false}} {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			n, d := int64(s.rows*s.d), int64(s.d)
			x, res, w, dy, dsum, base := noise(1, n), noise(2, n), noise(3, d), noise(4, n), noise(5, n), noise(6, d)
			S, W := f64(x), f64(w)
			if s.res {
				for i := range S {
					S[i] = float64(x[i] + res[i])
				}
			}
			if !s.w {
				W = nil
			}
			loss := func() float64 {
				return dot(refNorm(S, W, nil, s.d, 1e-3, float64(s.off), false), f64(dy)) + dot(S, f64(dsum))
			}
			want := map[string][]float64{"y": refNorm(S, W, nil, s.d, 1e-3, float64(s.off), false), "dx": numGrad(S, loss)}
			if s.w {
				want["dw"] = sum(numGrad(W, loss), f64(base))
			}
			compare(t, 2e-5, func(e *env) outputs {
				R := int64(s.rows)
				f := RMSNormFwd{X: e.f32(x, R, d), Y: e.empty(R, d), RStd: e.empty(R), Eps: 1e-3, WOffset: s.off}
				g := RMSNormBwd{X: f.X, RStd: f.RStd, DY: e.f32(dy, R, d), DSum: e.f32(dsum, R, d), DX: e.empty(R, d), WOffset: s.off}
				if s.res {
					f.Res, f.Sum = e.f32(res, R, d), e.empty(R, d)
					g.X = f.Sum
				}
				if s.w {
					f.W = e.f32(w, d)
					g.W, g.DW, g.DWAccumulate = f.W, e.f32(base, d), 1
				}
				e.q.RMSNormFwd(f)
				e.q.RMSNormBwd(g)
				out := outputs{"y": get[float32](e, f.Y), "dx": get[float32](e, g.DX)}
				if s.w {
					out["dw"] = get[float32](e, g.DW)
				}
				return out
			}, want)
		})
	}
}

func TestLayerNorm(t *testing.T) {
	for _, s := range [][2]int{{1, 5}, {37, 19}, {6, 48}} {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			n, d := int64(s[0]*s[1]), int64(s[1])
			x, w, b, dy, base := noise(1, n), noise(3, d), noise(7, d), noise(4, n), noise(6, n)
			X, W, B := f64(x), f64(w), f64(b)
			ref := func() []float64 { return refNorm(X, W, B, s[1], 1e-3, 1, true) }
			loss := func() float64 { return dot(ref(), f64(dy)) }
			want := map[string][]float64{"y": ref(), "dx": sum(numGrad(X, loss), f64(base)), "dw": numGrad(W, loss), "db": numGrad(B, loss)}
			compare(t, 2e-5, func(e *env) outputs {
				R := int64(s[0])
				f := LayerNormFwd{X: e.f32(x, R, d), W: e.f32(w, d), B: e.f32(b, d), Y: e.empty(R, d), Mean: e.empty(R), RStd: e.empty(R), Eps: 1e-3, WOffset: 1}
				e.q.LayerNormFwd(f)
				g := LayerNormBwd{X: f.X, W: f.W, Mean: f.Mean, RStd: f.RStd, DY: e.f32(dy, R, d), DX: e.f32(base, R, d), DXAccumulate: 1,
					DW: e.empty(d), DB: e.empty(d), WOffset: 1}
				e.q.LayerNormBwd(g)
				return outputs{"y": get[float32](e, f.Y), "dx": get[float32](e, g.DX), "dw": get[float32](e, g.DW), "db": get[float32](e, g.DB)}
			}, want)
		})
	}
}

func refAct(a Activation, x float64) float64 {
	switch a {
	case SiLU:
		return x / (1 + math.Exp(-x))
	case GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case GELUErf:
		return 0.5 * x * (1 + math.Erf(x/math.Sqrt2))
	case ReLU:
		return max(x, 0)
	case ReLU2:
		return max(x, 0) * max(x, 0)
	}
	return math.Tanh(x)
}

func TestActivations(t *testing.T) {
	for a := SiLU; a <= Tanh; a++ {
		t.Run(fmt.Sprint(a), func(t *testing.T) {
			const rows, d = 5, 211
			g, u, dy, base := noise(1, rows*d), noise(2, rows*d), noise(3, rows*d), noise(4, rows*d)
			for i := range g {
				g[i] *= 4
			}
			g[0], g[1] = 90, -95
			deriv := func(x float64) float64 { return (refAct(a, x+1e-6) - refAct(a, x-1e-6)) / 2e-6 }
			want := map[string][]float64{}
			for _, k := range []string{"y", "dx", "glu", "dgate", "dup"} {
				want[k] = make([]float64, rows*d)
			}
			for i := range g {
				x, up, e := float64(g[i]), float64(u[i]), float64(dy[i])
				want["y"][i], want["dx"][i] = refAct(a, x), deriv(x)*e
				want["glu"][i], want["dgate"][i], want["dup"][i] = refAct(a, x)*up, deriv(x)*up*e+float64(base[i]), refAct(a, x)*e
			}
			compare(t, 1e-6, func(e *env) outputs {
				// Gate and up are the halves of one tensor, as gate_up_proj makes them.
				both := e.empty(rows, 2*d)
				G, U := both.Slice(1, 0, d), both.Slice(1, d, 2*d)
				e.q.Copy(Copy{X: e.f32(g, rows, d), Y: G})
				e.q.Copy(Copy{X: e.f32(u, rows, d), Y: U})
				DY := e.f32(dy, rows, d)
				y, dx, glu, dg, du := e.empty(rows, d), e.empty(rows, d), e.empty(rows, d), e.f32(base, rows, d), e.empty(rows, d)
				e.q.ActFwd(ActFwd{X: e.f32(g, rows, d), Y: y, Act: a})
				e.q.ActBwd(ActBwd{X: G, DY: DY, DX: dx, Act: a})
				e.q.GLUFwd(GLUFwd{Gate: G, Up: U, Y: glu, Act: a})
				e.q.GLUBwd(GLUBwd{Gate: G, Up: U, DY: DY, DGate: dg, DUp: du, Act: a, DGateAccumulate: 1})
				return outputs{"y": get[float32](e, y), "dx": get[float32](e, dx), "glu": get[float32](e, glu), "dgate": get[float32](e, dg),
					"dup": get[float32](e, du)}
			}, want)
		})
	}
}

func TestElementwise(t *testing.T) {
	const rows, d = 3, 1031
	a, b, c, w := noise(1, rows*d), noise(2, rows*d), noise(3, rows*d), noise(4, d)
	want := map[string][]float64{"add": make([]float64, rows*d), "scale": make([]float64, rows*d), "mul": make([]float64, rows*d), "row": make([]float64, rows*d), "colsum": make([]float64, d)}
	for i := range a {
		A, B, C := float64(a[i]), float64(b[i]), float64(c[i])
		want["add"][i], want["scale"][i], want["mul"][i] = A-2*B+C, -1.5*A, A*B
		want["row"][i] = C + A*float64(w[i%d])
		want["colsum"][i%d] += A
	}
	compare(t, 1e-6, func(e *env) outputs {
		A, B := e.f32(a, rows, d), e.f32(b, rows, d)
		add, scale, mul, row, cs := e.f32(c, rows, d), e.empty(rows, d), e.empty(rows, d), e.f32(c, rows, d), e.empty(d)
		e.q.Add(Add{A: A, B: B, Y: add, Alpha: 1, Beta: -2, Accumulate: 1})
		e.q.Add(Add{A: A, Y: scale, Alpha: -0.5, AlphaDev: e.f32([]float32{3}, 1).Data})
		e.q.Mul(Mul{A: A, B: B, Y: mul})
		e.q.Mul(Mul{A: A, B: e.f32(w, d), Y: row, Accumulate: 1})
		e.q.ColSum(ColSum{X: A, Y: cs})
		return outputs{"add": get[float32](e, add), "scale": get[float32](e, scale), "mul": get[float32](e, mul), "row": get[float32](e, row), "colsum": get[float32](e, cs)}
	}, want)
}

func TestRope(t *testing.T) {
	const B, T, H, D, P = 2, 5, 3, 44, 9
	for _, rot := range []int{44, 20} {
		for _, inter := range []bool{false, true} {
			t.Run(fmt.Sprint(rot, inter), func(t *testing.T) {
				x, half := noise(1, B*T*H*D), rot/2
				cos, sin := make([]float32, P*half), make([]float32, P*half)
				for i := range cos {
					s, c := math.Sincos(float64(i/half) * math.Pow(100, -float64(i%half)/float64(half)))
					cos[i], sin[i] = float32(c), float32(s)
				}
				pos := []int32{3, 4, 5, 6, 7, 0, 1, 2, 8, 1}
				y := f64(x)
				for i := range B * T {
					for h := range H {
						row, in := y[(i*H+h)*D:][:D], x[(i*H+h)*D:][:D]
						for k := range half {
							u, v := k, k+half
							if inter {
								u, v = 2*k, 2*k+1
							}
							c, s := float64(cos[int(pos[i])*half+k]), float64(sin[int(pos[i])*half+k])
							row[u], row[v] = float64(in[u])*c-float64(in[v])*s, float64(in[v])*c+float64(in[u])*s
						}
					}
				}
				compare(t, 1e-6, func(e *env) outputs {
					r := Rope{X: e.f32(x, B, T, H, D), Pos: put(e, I32, pos, B, T), Cos: e.f32(cos, P, int64(half)), Sin: e.f32(sin, P, int64(half)),
						Y: e.empty(B, T, H, D), RotDim: int32(rot), Interleaved: Flag(inter)}
					e.q.Rope(r)
					back := r
					back.X, back.Y, back.Inverse = e.f32(get[float32](e, r.Y), B, T, H, D), Tensor{}, 1
					back.Y = back.X
					e.q.Rope(back)
					return outputs{"y": get[float32](e, r.Y), "back": get[float32](e, back.Y)}
				}, map[string][]float64{"y": y, "back": f64(x)})
			})
		}
	}
}

func TestGatherScatter(t *testing.T) {
	const v, n, d = 13, 300, 37
	table, x, base := noise(1, v*d), noise(2, n*d), noise(3, v*d)
	ids, signed := make([]int32, n), make([]int32, n)
	for i := range ids {
		ids[i] = int32(i * i % v)
		signed[i] = ids[i]
		if i%7 == 0 {
			signed[i] = -100
		}
	}
	want := map[string][]float64{"gather": make([]float64, n*d), "scatter": f64(base), "fresh": make([]float64, v*d)}
	for i := range n {
		for k := range d {
			want["gather"][i*d+k] = 2 * float64(table[int(ids[i])*d+k])
			if signed[i] >= 0 {
				want["scatter"][int(ids[i])*d+k] += float64(x[i*d+k])
				want["fresh"][int(ids[i])*d+k] += 0.5 * float64(x[i*d+k])
			}
		}
	}
	compare(t, 1e-5, func(e *env) outputs {
		y, s, f := e.empty(n, d), e.f32(base, v, d), e.empty(v, d)
		e.q.GatherRows(GatherRows{X: e.f32(table, v, d), IDs: put(e, I32, ids, n), Y: y, Scale: 2})
		I := put(e, I32, signed, 3, n/3)
		e.q.ScatterAddRows(ScatterAddRows{X: e.f32(x, n, d), IDs: I, Y: s, Scale: 1, Accumulate: 1})
		e.q.ScatterAddRows(ScatterAddRows{X: e.f32(x, n, d), IDs: I, Y: f, Scale: 0.5})
		return outputs{"gather": get[float32](e, y), "scatter": get[float32](e, s), "fresh": get[float32](e, f)}
	}, want)
}

func TestRowTopK(t *testing.T) {
	for _, s := range setups(t) {
		e := newEnv(t, s)
		x := e.f32([]float32{1, 5, 5, -2, 5, 0, -1, -1, -3, -2}, 2, 5)
		ids, err := e.a.New(I32, 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		vals := e.empty(2, 3)
		e.q.RowTopK(RowTopK{X: x, Values: vals, IDs: ids, K: 3})
		if got := get[int32](e, ids); fmt.Sprint(got) != "[1 2 4 0 1 2]" {
			t.Errorf("%v: ids %v", s, got)
		}
		if got := get[float32](e, vals); fmt.Sprint(got) != "[5 5 5 0 -1 -1]" {
			t.Errorf("%v: values %v", s, got)
		}
		e.close()
	}
}
