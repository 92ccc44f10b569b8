package kernels

import (
	"fmt"
	"testing"
)

// refGemm is c + bias + alpha * a b in float64.
func refGemm(a, b, c, bias []float64, alpha float64, m, n, k int) []float64 {
	out := make([]float64, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for l := range k {
				s += a[i*k+l] * b[l*n+j]
			}
			s *= alpha
			if c != nil {
				s += c[i*n+j]
			}
			if bias != nil {
				s += bias[j]
			}
			out[i*n+j] = s
		}
	}
	return out
}

func transposed(v []float32, m, n int) []float32 {
	r := make([]float32, len(v))
	for i := range m {
		for j := range n {
			r[j*m+i] = v[i*n+j]
		}
	}
	return r
}

func TestGemm(t *testing.T) {
	for _, s := range [][3]int{{1, 1, 1}, {1, 7, 5}, {3, 16, 8}, {6, 16, 16}, {7, 17, 33}, {13, 65, 300}, {97, 40, 19}, {64, 130, 17}, {170, 31, 270}, {5, 3, 0}} {
		m, n, k := s[0], s[1], s[2]
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			a, b, c, bias := noise(1, int64(m*k)), noise(2, int64(k*n)), noise(3, int64(m*n)), noise(4, int64(n))
			want := map[string][]float64{
				"nn":      refGemm(f64(a), f64(b), nil, nil, 1, m, n, k),
				"bias":    refGemm(f64(a), f64(b), nil, f64(bias), 0.5, m, n, k),
				"acc":     refGemm(f64(a), f64(b), f64(c), f64(bias), 1, m, n, k),
				"nt":      refGemm(f64(a), f64(b), nil, nil, 1, m, n, k),
				"tn":      refGemm(f64(a), f64(b), f64(c), nil, 1, m, n, k),
				"tt":      refGemm(f64(a), f64(b), nil, nil, -2, m, n, k),
				"strided": refGemm(f64(a), f64(b), nil, nil, 1, m, n, k),
			}
			compare(t, 3e-6, func(e *env) outputs {
				M, N, K := int64(m), int64(n), int64(k)
				if k == 0 {
					K = 0
				}
				A, B := e.f32(a, M, K), e.f32(b, K, N)
				AT, BT := e.f32(transposed(a, m, k), K, M).T(), e.f32(transposed(b, k, n), N, K).T()
				out := outputs{}
				do := func(name string, A, B Tensor, alpha float32, acc bool, bias Tensor) {
					C := e.f32(c, M, N)
					e.q.Gemm(Gemm{A: A, B: B, C: C, Bias: bias, Alpha: alpha, Accumulate: Flag(acc)})
					out[name] = get[float32](e, C)
				}
				do("nn", A, B, 1, false, Tensor{})
				do("bias", A, B, 0.5, false, e.f32(bias, N))
				do("acc", A, B, 1, true, e.f32(bias, N))
				do("nt", A, BT, 1, false, Tensor{})
				do("tn", AT, B, 1, true, Tensor{})
				do("tt", AT, BT, -2, false, Tensor{})
				wide := e.empty(M, N+5).Slice(1, 2, N+2)
				e.q.Gemm(Gemm{A: A, B: B, C: wide, Alpha: 1})
				flat := e.empty(M, N)
				e.q.Copy(Copy{X: wide, Y: flat})
				out["strided"] = get[float32](e, flat)
				return out
			}, want)
		})
	}
}

func TestGemmBatch(t *testing.T) {
	a, b := noise(1, 3*5*7), noise(2, 7*9)
	want := refGemm(f64(a), f64(b), nil, nil, 1, 15, 9, 7)
	compare(t, 3e-6, func(e *env) outputs {
		B := e.f32(b, 7, 9).Unsqueeze(0)
		B.Dim[0], B.Stride[0] = 3, 0
		C := e.empty(3, 5, 9)
		e.q.Gemm(Gemm{A: e.f32(a, 3, 5, 7), B: B, C: C, Alpha: 1})
		return outputs{"c": get[float32](e, C)}
	}, map[string][]float64{"c": want})
}
