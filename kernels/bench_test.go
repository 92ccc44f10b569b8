package kernels

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkGemm measures the three products of a linear layer at the shapes of a llama of 34 M parameters and of small ones.
func BenchmarkGemm(b *testing.B) {
	for _, s := range [][3]int64{{2048, 512, 512}, {2048, 1408, 512}, {2048, 512, 1408}, {512, 8192, 512}, {256, 128, 128}, {1024, 192, 192}, {2048, 16, 512}, {1, 512, 512}} {
		m, n, k := s[0], s[1], s[2]
		for _, form := range []string{"forward", "input", "weight"} {
			b.Run(fmt.Sprintf("%dx%dx%d/%s", m, n, k, form), func(b *testing.B) {
				e := newEnv(b, setup{threads: 2})
				defer e.close()
				x, w, y := e.f32(noise(1, m*k), m, k), e.f32(noise(2, n*k), n, k), e.f32(noise(3, m*n), m, n)
				g := Gemm{A: x, B: w.T(), C: y, Alpha: 1}
				switch form {
				case "input":
					g = Gemm{A: y, B: w, C: x, Alpha: 1}
				case "weight":
					g = Gemm{A: y.T(), B: x, C: w, Alpha: 1}
				}
				rate(b, e, 2*float64(m*n*k), func() { e.q.Gemm(g) })
			})
		}
	}
}

// BenchmarkAttention measures causal attention of 4 x 512 tokens, 8 heads of 64.
func BenchmarkAttention(b *testing.B) {
	e := newEnv(b, setup{threads: 2})
	defer e.close()
	t := func(seed uint64) Tensor { return e.f32(noise(seed, 4*512*512), 4, 512, 8, 64) }
	f := AttnFwd{Q: t(1), K: t(2), V: t(3), O: t(4), LSE: e.empty(4, 8, 512), Scale: 0.125, Causal: 1, WindowLeft: -1, WindowRight: -1}
	g := AttnBwd{AttnFwd: f, DO: t(5), DQ: t(6), DK: t(7), DV: t(8)}
	const product = 2 * 4 * 8 * 512 * 256 * 64
	b.Run("forward", func(b *testing.B) { rate(b, e, 2*product, func() { e.q.AttnFwd(f) }) })
	b.Run("backward", func(b *testing.B) { rate(b, e, 7*product, func() { e.q.AttnBwd(g) }) })
}

func rate(b *testing.B, e *env, flops float64, run func()) {
	run()
	start := time.Now()
	for b.Loop() {
		run()
	}
	if err := e.q.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(flops*float64(b.N)/time.Since(start).Seconds()*1e-9, "GFLOP/s")
}
