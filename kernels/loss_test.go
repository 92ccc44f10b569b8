package kernels

import (
	"fmt"
	"math"
	"testing"
)

type lossCase struct {
	n, d, v                            int
	bias                               bool
	scale, softcap, loss, smooth, zeta float64
}

// rows gives for each row: logp, lse, entropy, sum of z, and the loss of linear_xent.
func (c lossCase) rows(x, w, b []float64, targets []int32) (logp, lse, ent, zsum, loss []float64) {
	for i := range c.n {
		z, m := make([]float64, c.v), math.Inf(-1)
		for j := range z {
			z[j] = dot(x[i*c.d:][:c.d], w[j*c.d:][:c.d])
			if b != nil {
				z[j] += b[j]
			}
			z[j] *= c.scale
			if c.softcap > 0 {
				z[j] = c.softcap * math.Tanh(z[j]/c.softcap)
			}
			m = max(m, z[j])
		}
		s, h, zs, mean := 0.0, 0.0, 0.0, 0.0
		for _, v := range z {
			s += math.Exp(v - m)
			zs += v
		}
		l := m + math.Log(s)
		for _, v := range z {
			h -= math.Exp(v-l) * (v - l)
			mean += (l - v) / float64(c.v)
		}
		lp, lo := 0.0, 0.0
		if t := targets[i]; t >= 0 {
			lp = z[t] - l
			lo = (1-c.smooth)*-lp + c.smooth*mean + c.zeta*l*l
		}
		logp, lse, ent, zsum, loss = append(logp, lp), append(lse, l), append(ent, h), append(zsum, zs), append(loss, lo)
	}
	return logp, lse, ent, zsum, loss
}

func TestLinearLoss(t *testing.T) {
	for _, c := range []lossCase{
		{n: 3, d: 5, v: 7, scale: 1, loss: 1},
		{n: 11, d: 6, v: 37, bias: true, scale: 0.7, softcap: 3, loss: 0.25, smooth: 0.1, zeta: 0.01},
		{n: 150, d: 4, v: 16, bias: true, scale: 1.5, loss: 0.5, zeta: 0.1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			x, w, b := noise(1, int64(c.n*c.d)), noise(2, int64(c.v*c.d)), noise(3, int64(c.v))
			weights, dlogp, base := noise(4, int64(c.n)), noise(5, int64(c.n)), noise(6, int64(c.v*c.d))
			targets := make([]int32, c.n)
			for i := range targets {
				targets[i] = int32(i * 5 % c.v)
			}
			targets[1] = -100
			weights[2], dlogp[1] = 0, 0
			X, W, B := f64(x), f64(w), f64(b)
			if !c.bias {
				B = nil
			}
			logp, lse, ent, zsum, _ := c.rows(X, W, B, targets)
			xent := func() float64 {
				_, _, _, _, l := c.rows(X, W, B, targets)
				return c.loss * dot(l, f64(weights))
			}
			lp := func() float64 {
				l, _, _, _, _ := c.rows(X, W, B, targets)
				return dot(l, f64(dlogp))
			}
			want := map[string][]float64{"logp": logp, "lse": lse, "entropy": ent, "zsum": zsum, "xlogp": logp,
				"xdx": numGrad(X, xent), "xdw": sum(numGrad(W, xent), f64(base)), "ldx": numGrad(X, lp), "ldw": numGrad(W, lp)}
			if c.bias {
				want["xdb"], want["ldb"] = numGrad(B, xent), numGrad(B, lp)
			}
			compare(t, 3e-5, func(e *env) outputs {
				n, d, v := int64(c.n), int64(c.d), int64(c.v)
				I := put(e, I32, targets, n)
				f := LinearLogprobFwd{X: e.f32(x, n, d), W: e.f32(w, v, d), Targets: I, LogP: e.empty(n), LSE: e.empty(n), Entropy: e.empty(n),
					ZSum: e.empty(n), LogitScale: float32(c.scale), Softcap: float32(c.softcap)}
				g := LinearLogprobBwd{X: f.X, W: f.W, Targets: I, LSE: f.LSE, DLogP: e.f32(dlogp, n), DX: e.empty(n, d), DW: e.empty(v, d),
					LogitScale: f.LogitScale, Softcap: f.Softcap}
				l := LinearXent{X: f.X, W: f.W, Targets: I, Weights: e.f32(weights, n), LogP: e.empty(n), DX: e.empty(n, d), DW: e.f32(base, v, d),
					LogitScale: f.LogitScale, Softcap: f.Softcap, LossScale: float32(c.loss) / 2, LabelSmoothing: float32(c.smooth),
					ZLoss: float32(c.zeta), DWAccumulate: 1, LossScaleDev: e.f32([]float32{2}, 1).Data}
				if c.bias {
					f.Bias = e.f32(b, v)
					g.Bias, l.Bias, g.DBias, l.DBias = f.Bias, f.Bias, e.empty(v), e.empty(v)
				}
				e.q.LinearLogprobFwd(f)
				e.q.LinearLogprobBwd(g)
				e.q.LinearXent(l)
				out := outputs{"logp": get[float32](e, f.LogP), "lse": get[float32](e, f.LSE), "entropy": get[float32](e, f.Entropy),
					"zsum": get[float32](e, f.ZSum), "xlogp": get[float32](e, l.LogP), "xdx": get[float32](e, l.DX), "xdw": get[float32](e, l.DW),
					"ldx": get[float32](e, g.DX), "ldw": get[float32](e, g.DW)}
				if c.bias {
					out["xdb"], out["ldb"] = get[float32](e, l.DBias), get[float32](e, g.DBias)
				}
				return out
			}, want)
		})
	}
}
