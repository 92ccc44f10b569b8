package kernels

import "testing"

func TestClamp(t *testing.T) {
	const rows, d = 9, 37
	x, dy := noise(1, rows*d), noise(2, rows*d)
	want, grad := make([]float64, len(x)), make([]float64, len(x))
	for i, v := range x {
		want[i] = min(max(float64(v), -0.5), 0.25)
		if v >= -0.5 && v <= 0.25 {
			grad[i] = float64(dy[i])
		}
	}
	compare(t, 0, func(e *env) outputs {
		X, Y, DX := e.f32(x, rows, d), e.empty(rows, d), e.empty(rows, d)
		e.q.ClampFwd(ClampFwd{X: X, Y: Y, Lo: -0.5, Hi: 0.25})
		e.q.ClampBwd(ClampBwd{X: X, DY: e.f32(dy, rows, d), DX: DX, Lo: -0.5, Hi: 0.25})
		return outputs{"y": get[float32](e, Y), "dx": get[float32](e, DX)}
	}, map[string][]float64{"y": want, "dx": grad})
}
