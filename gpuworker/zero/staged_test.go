package zero_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// sameStates reports the first difference between the snapshots of two trainings.
func sameStates(got, want []map[string][]float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d snapshots, not %d", len(got), len(want))
	}
	for step := range want {
		if len(got[step]) != len(want[step]) {
			return fmt.Errorf("step %d: %d tensors, not %d", step, len(got[step]), len(want[step]))
		}
		for name, w := range want[step] {
			g := got[step][name]
			if len(g) != len(w) {
				return fmt.Errorf("step %d: %s has %d elements, not %d", step, name, len(g), len(w))
			}
			for i := range w {
				if math.Float32bits(g[i]) != math.Float32bits(w[i]) {
					return fmt.Errorf("step %d: element %d of %s is %v, not %v", step, i, name, g[i], w[i])
				}
			}
		}
	}
	return nil
}

// TestSnapshotsAreThoseOfTheBoundary: a snapshot that is copied and written while the next step runs, and its update too, holds the state of
// the step before, whatever the type of values and states, and however small the memory that it goes through.
func TestSnapshotsAreThoseOfTheBoundary(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]setup{
		"adamw":       {optim: "adamw"},
		"adamw, bf16": {optim: "adamw", store: kernels.BF16},
		"adamw_8bit":  {optim: "adamw_8bit"},
		"lora":        {optim: "adamw", lora: true},
		"zero3":       {optim: "adamw", sharding: zero.Zero3},
	} {
		t.Run(name, func(t *testing.T) {
			s.hidden, s.layers, s.leaves, s.steps, s.snapshots = 32, 2, 2, 5, true
			if s.sharding == "" {
				s.sharding = zero.None
			}
			for world := 1; world <= 2; world++ {
				s.backend, s.staging = "", 0
				want := runWorld(t, world, s)
				s.backend = so
				for _, s.staging = range []int64{0, 1 << 10} { // one slot a tensor; many
					for rank, got := range runWorld(t, world, s) {
						if err := sameStates(got.states, want[rank].states); err != nil {
							t.Errorf("rank %d of %d, slots of %d bytes: %v", rank, world, s.staging, err)
						}
						if got.hash != want[rank].hash {
							t.Errorf("rank %d of %d: weights differ at the end", rank, world)
						}
					}
				}
			}
		})
	}
}

// TestSnapshotsOnTheEmulation: as above on the CUDA backend's host side, whose streams run only when something waits. What is compared with
// are snapshots that were taken at the end of shorter trainings.
func TestSnapshotsOnTheEmulation(t *testing.T) {
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := setup{hidden: 32, layers: 1, leaves: 1, steps: 3, sharding: zero.None, backend: so, staging: 1 << 10, snapshots: true}
	got := runWorld(t, 1, s)[0].states
	s.snapshots = false
	var want []map[string][]float32
	for s.steps = 1; s.steps <= 3; s.steps++ {
		want = append(want, runWorld(t, 1, s)[0].state)
	}
	if err := sameStates(got, want); err != nil {
		t.Error(err)
	}
}
