package zero_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// TestOffloadedOptimizersGiveTheSameBits: on queues that run behind the caller, with one rank and several, whether states are the device's or
// the host's does not show, neither at the end nor in the snapshots that are on their way meanwhile; and the device holds no states.
func TestOffloadedOptimizersGiveTheSameBits(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]setup{
		"adamw":           {optim: "adamw"},
		"adamw, bf16":     {optim: "adamw", store: kernels.BF16},
		"adamw, zero3":    {optim: "adamw", sharding: zero.Zero3},
		"adamw, zero2":    {optim: "adamw", sharding: zero.Zero2},
		"adamw, hybrid":   {optim: "adamw", sharding: zero.Hybrid},
		"adamw, experts":  {optim: "adamw", experts: 8, leaves: 1},
		"adamw, borrowed": {optim: "adamw", lend: true, leaves: 1},
		"adamw_8bit":      {optim: "adamw_8bit"},
		"lion, lora":      {optim: "lion", lora: true},
		"sgd":             {optim: "sgd"},
		"muon":            {optim: "muon"},
		"adafactor":       {optim: "adafactor"},
		"adam_mini":       {optim: "adam_mini"},
		"apollo":          {optim: "apollo"},
		"badam":           {optim: "badam"},
		"galore":          {optim: "galore"},
	} {
		t.Run(name, func(t *testing.T) {
			s.hidden, s.layers, s.steps, s.snapshots = 32, 2, 4, true
			if s.leaves == 0 {
				s.leaves = 2
			}
			if s.sharding == "" {
				s.sharding = zero.None
			}
			for world := 1; world <= 2; world++ {
				s.backend, s.offload = "", true // nothing to offload from
				want := runWorld(t, world, s)
				s.backend = so
				for rank, got := range runWorld(t, world, s) {
					if err := sameStates(got.states, want[rank].states); err != nil {
						t.Errorf("rank %d of %d: %v", rank, world, err)
					}
					if got.hash != want[rank].hash {
						t.Errorf("rank %d of %d: weights differ at the end", rank, world)
					}
					if n := got.resident.Optimizer; n != 0 {
						t.Errorf("rank %d of %d: %d bytes of state are on the device", rank, world, n)
					}
				}
			}
		})
	}
}

// TestOffloadOnTheEmulation: the CUDA backend's optimizers give the bits of the host's, which update in their place.
func TestOffloadOnTheEmulation(t *testing.T) {
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"adamw", "adamw_8bit", "lion", "adam_mini", "adafactor"} {
		s := setup{hidden: 32, layers: 1, leaves: 1, steps: 3, sharding: zero.None, backend: so, snapshots: true, optim: name}
		want := runWorld(t, 1, s)[0]
		s.offload = true
		got := runWorld(t, 1, s)[0]
		if err := sameStates(got.states, want.states); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
