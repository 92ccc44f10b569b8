package zero_test

import (
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// TestOffloadedActivationsGiveTheSameBits: whether the inputs of blocks wait on the device or on the host does not show, on the CPU and on queues
// that run behind the caller, with one rank and several, and beside an optimizer that is offloaded too.
func TestOffloadedActivationsGiveTheSameBits(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]setup{
		"full":             {},
		"tied, zero3":      {tied: true, sharding: zero.Zero3},
		"frozen, lora":     {lora: true, freeze: 2},
		"frozen":           {freeze: 2},
		"experts":          {experts: 8},
		"borrowed":         {lend: true},
		"optimizer, zero2": {offload: true, sharding: zero.Zero2},
	} {
		t.Run(name, func(t *testing.T) {
			s.hidden, s.layers, s.steps, s.leaves, s.checkpoint = 32, 4, 3, 2, true
			if s.experts > 0 || s.lend {
				s.leaves = 1
			}
			if s.sharding == "" {
				s.sharding = zero.None
			}
			for world := 1; world <= 2; world++ {
				s.away, s.backend = false, ""
				want := runWorld(t, world, s)
				s.away = true
				for _, s.backend = range []string{"", so} {
					for rank, got := range runWorld(t, world, s) {
						if got.hash != want[rank].hash || !slices.Equal(got.losses, want[rank].losses) || !slices.Equal(got.norms, want[rank].norms) {
							t.Errorf("rank %d of %d, backend %q: weights, losses or norms differ", rank, world, s.backend)
						}
					}
				}
			}
		})
	}
}

// TestOffloadedActivationsOnTheEmulation: the same on the CUDA backend's host side and kernels.
func TestOffloadedActivationsOnTheEmulation(t *testing.T) {
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := setup{hidden: 32, layers: 3, leaves: 1, steps: 2, sharding: zero.None, backend: so, checkpoint: true}
	want := runWorld(t, 1, s)[0]
	s.away = true
	if got := runWorld(t, 1, s)[0]; got.hash != want.hash || !slices.Equal(got.losses, want.losses) || !slices.Equal(got.norms, want.norms) {
		t.Error("weights, losses or norms differ from those without offloading")
	}
}
