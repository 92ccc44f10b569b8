package optim

import (
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// TestOptimizersOnDevices: an optimizer gives the CPU's bits on queues that run behind the caller over memory that the host cannot read, and on
// the CUDA backend's kernels, but for the last digits of matrix products, which are a library's there.
func TestOptimizersOnDevices(t *testing.T) {
	late, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	cuda, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base := Config{LR: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-7, WeightDecay: 0.1, SkipDecay: true}
	for name, change := range map[string]func(c *Config){
		"adamw":      func(c *Config) { c.Name = AdamW },
		"adamw_8bit": func(c *Config) { c.Name = AdamW8bit },
		"lion":       func(c *Config) { c.Name = Lion },
		"sgd":        func(c *Config) { c.Name, c.Momentum, c.Nesterov = SGD, 0.9, true },
		"adam_mini":  func(c *Config) { c.Name, c.HeadDim = AdamMini, 2 },
		"adafactor":  func(c *Config) { c.Name = Adafactor },
		"adafactor, relative": func(c *Config) {
			c.Name, c.Adafactor = Adafactor, AdafactorConfig{ScaleParameter: true, RelativeStep: true, FirstMoment: true}
		},
		"muon":            func(c *Config) { c.Name, c.Nesterov = Muon, true },
		"muon, moonlight": func(c *Config) { c.Name, c.Muon.Moonlight = Muon, true },
		"galore":          func(c *Config) { c.Name, c.LowRank = GaLore, LowRankConfig{Rank: 3, Every: 2} },
		"galore, left":    func(c *Config) { c.Name, c.LowRank = GaLore, LowRankConfig{Rank: 3, Every: 2, Proj: "left"} },
		"apollo":          func(c *Config) { c.Name, c.LowRank = Apollo, LowRankConfig{Rank: 3, Every: 2} },
		"apollo, tensor": func(c *Config) {
			c.Name, c.LowRank = Apollo, LowRankConfig{Rank: 3, Every: 2, ScaleType: "tensor", ScaleFront: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := base
			change(&c)
			products := c.Name == Muon || c.Name == GaLore || c.Name == Apollo
			var want [][]float32
			for _, backend := range []string{kernels.CPU, late, cuda} {
				b := newBench(t, backend, c, goldenParams())
				for step := range 4 {
					b.clip = []float32{1, 0.5, 0.25, 0}[step]
					b.step(t, step, c.LR)
				}
				for k, s := range b.stretches {
					got := make([]float32, s.Len)
					if err := kernels.Download(b.q, got, s.P); err != nil {
						t.Fatal(err)
					}
					if backend == kernels.CPU {
						want = append(want, got)
						continue
					}
					begin, limit := series(s.Len, int64(-1-k), 17, 0.5), 0.0
					switch {
					case backend == cuda && c.Muon.Moonlight:
						limit = 1e-2 // products in bfloat16
					case backend == cuda && products:
						limit = 1e-4
					}
					if d, moved := distance(got, want[k]), distance(want[k], begin); !(d <= limit*moved) {
						t.Errorf("%s: %s differs by %.3g from the CPU's, which moved %.3g", b.name, s.Param.Name, d, moved)
					}
				}
			}
		})
	}
}

// distance is the L2 norm of a - b.
func distance(a, b []float32) float64 {
	var d float64
	for i := range a {
		d += math.Pow(float64(a[i]-b[i]), 2)
	}
	return math.Sqrt(d)
}
