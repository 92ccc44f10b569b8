package zero_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels"
)

// TestFiftySteps: 50 steps of accumulated leaves end with the same bits on 1, 2, 3 and 4 ranks.
func TestFiftySteps(t *testing.T) {
	for name, s := range map[string]setup{"full": {hidden: 32, layers: 2}, "LoRA": {hidden: 32, layers: 2, lora: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.leaves, s.steps, s.sharding = 5, 50, zero.Zero3
			want := runWorld(t, 1, s)[0]
			if first, last := want.losses[0], want.losses[49]; first == last || math.IsNaN(last) {
				t.Fatalf("losses %v", want.losses)
			}
			for world := 2; world <= 4; world++ {
				got := runWorld(t, world, s)[0]
				if got.hash != want.hash || !slices.Equal(got.losses, want.losses) {
					t.Errorf("%d ranks: weights or losses differ from those of one rank", world)
				}
			}
		})
	}
}

// TestInstructionSets: a training ends with the same bits whatever instructions its kernels use.
func TestInstructionSets(t *testing.T) {
	for name, s := range map[string]setup{"full": {hidden: 48, layers: 2}, "LoRA": {hidden: 48, layers: 2, lora: true}} {
		s.leaves, s.steps, s.sharding, s.threads = 3, 6, zero.None, 2
		s.isa = kernels.ISAScalar
		want := runWorld(t, 1, s)[0]
		for set, isa := range map[string]kernels.ISA{"avx2": kernels.ISAAVX2, "avx512": kernels.ISAAVX512} {
			dev, err := kernels.Open(kernels.Options{Threads: 1, ISA: isa})
			if err != nil {
				t.Logf("%s: not on this machine: %v", set, err)
				continue
			}
			if err := dev.Close(); err != nil {
				t.Fatal(err)
			}
			s.isa = isa
			if got := runWorld(t, 1, s)[0]; got.hash != want.hash {
				t.Errorf("%s: %s gives other weights than scalar code", name, set)
			}
		}
	}
}

// TestFastReduction: sums that are exchanged once a step give the canonical gradient up to rounding, also where the last leaves do not
// reach every rank, and the same bits each time.
func TestFastReduction(t *testing.T) {
	for name, s := range map[string]setup{"full": {hidden: 48, layers: 2, tied: true, bucket: 3000}, "LoRA": {hidden: 48, layers: 2, lora: true}} {
		for _, leaves := range []int{1, 3, 4, 5, 8} {
			s.leaves, s.steps, s.sharding, s.fast = leaves, 3, zero.None, false
			want := runWorld(t, 1, s)[0]
			for world := 1; world <= 4; world++ {
				for _, sharding := range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
					s.sharding, s.fast = sharding, true
					got, again := runWorld(t, world, s)[0], runWorld(t, world, s)[0]
					if got.hash != again.hash {
						t.Errorf("%s, %d leaves on %d ranks, %s: two runs differ", name, leaves, world, sharding)
					}
					for i := range want.losses {
						if d := math.Abs(got.norms[i]-want.norms[i]) / want.norms[i]; !(d < 1e-4) || math.Abs(got.losses[i]-want.losses[i]) > 1e-4 {
							t.Errorf("%s, %d leaves on %d ranks, %s: step %d has loss %g and norm %g, canonical %g and %g", name, leaves, world, sharding, i,
								got.losses[i], got.norms[i], want.losses[i], want.norms[i])
						}
					}
				}
			}
		}
	}
}

// counted is a collective that counts the bytes which leave its rank.
type counted struct {
	zero.Collective
	bytes *atomic.Int64
}

func (c counted) AllToAll(ctx context.Context, send, recv [][]byte) error {
	for k, b := range send {
		if k != c.Rank() {
			c.bytes.Add(int64(len(b)))
		}
	}
	return c.Collective.AllToAll(ctx, send, recv)
}

func (c counted) AllGather(ctx context.Context, send []byte, recv [][]byte) error {
	c.bytes.Add(int64(len(send)) * int64(c.World()-1))
	return c.Collective.AllGather(ctx, send, recv)
}

// BenchmarkReduction measures canonical reduction against fast: time, bytes sent and memory of a rank, for steps of 8 leaves.
func BenchmarkReduction(b *testing.B) {
	for _, lora := range []bool{false, true} {
		for _, world := range []int{2, 4} {
			for _, fast := range []bool{false, true} {
				name := fmt.Sprintf("lora=%v/ranks=%d/fast=%v", lora, world, fast)
				b.Run(name, func(b *testing.B) {
					s := setup{hidden: 256, layers: 4, lora: lora, leaves: 8, steps: b.N, sharding: zero.Zero3, fast: fast}
					var sent atomic.Int64
					outs, errs := make([]outcome, world), make([]error, world)
					var wg sync.WaitGroup
					for r, c := range collective.NewLocal(world) {
						wg.Go(func() {
							outs[r], errs[r] = train(b.Context(), counted{c, &sent}, s)
							if errs[r] != nil {
								c.Close()
							}
						})
					}
					wg.Wait()
					if err := errors.Join(errs...); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(sent.Load())/float64(b.N)/float64(world)/(1<<20), "MiB-sent/step")
					b.ReportMetric(float64(outs[0].resident.Total())/(1<<20), "MiB-resident")
					b.ReportMetric(float64(outs[0].resident.Window)/(1<<20), "MiB-window")
				})
			}
		}
	}
}
