package zero_test

import (
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// TestDevicesGiveTheSameBits: values and gradients that go from device to device end with the bits of one rank, whatever is sharded, fast
// reduction with those of the host's way.
func TestDevicesGiveTheSameBits(t *testing.T) {
	for name, s := range map[string]setup{
		"full":          {hidden: 48, layers: 2},
		"small buckets": {hidden: 48, layers: 2, tied: true, bucket: 1},
		"LoRA":          {hidden: 48, layers: 3, lora: true, freeze: 1, checkpoint: true},
		"8-bit":         {hidden: 48, layers: 2, optim: "adamw_8bit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.leaves, s.steps, s.sharding = 5, 2, zero.None
			want := runWorld(t, 1, s)[0]
			s.devices = true
			for _, world := range []int{2, 3, 5, 7} {
				for _, s.sharding = range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
					if world == 7 {
						s.sharding = zero.Zero3 // some ranks have no leaf
					}
					got := runWorld(t, world, s)[0]
					if got.hash != want.hash || !slices.Equal(got.losses, want.losses) || !slices.Equal(got.norms, want.norms) {
						t.Errorf("%d ranks, %s: weights, losses or norms differ from those of one rank", world, s.sharding)
					}
				}
			}
			s.fast, s.devices, s.sharding = true, false, zero.Zero3
			fast := runWorld(t, 2, s)[0]
			s.devices = true
			if got := runWorld(t, 2, s)[0]; got.hash != fast.hash {
				t.Error("fast reduction: weights differ from those of the host's way")
			}
		})
	}
}

// TestDevicesForgetNoEvent: on queues that run behind the caller, bits stay.
func TestDevicesForgetNoEvent(t *testing.T) {
	path, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	s := setup{hidden: 32, layers: 2, leaves: 3, steps: 2, sharding: zero.Zero3}
	want := runWorld(t, 1, s)[0]
	s.devices, s.backend = true, path
	for world := 2; world <= 3; world++ {
		for _, s.sharding = range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
			if got := runWorld(t, world, s)[0]; got.hash != want.hash {
				t.Errorf("%d ranks, %s: weights differ from the CPU's", world, s.sharding)
			}
		}
	}
}

// TestDevicesOnOneCard: ranks that are goroutines on one card, emulated, run all of ZeRO-3 and end with the bits of one rank there.
func TestDevicesOnOneCard(t *testing.T) {
	path, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := setup{hidden: 32, layers: 1, leaves: 3, steps: 2, sharding: zero.Zero3, backend: path}
	want := runWorld(t, 1, s)[0]
	s.devices = true
	for world := 2; world <= 3; world++ {
		if got := runWorld(t, world, s)[0]; got.hash != want.hash || !slices.Equal(got.norms, want.norms) {
			t.Errorf("%d ranks: weights or norms differ from those of one rank", world)
		}
	}
}
