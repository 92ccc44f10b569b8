package train

import (
	"errors"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// TestOnTheHostileBackend: training, commits and resuming with two ZeRO-3 ranks on a backend whose memory Go cannot touch and whose
// queues run behind the caller, interrupted after a step, gives the bits of one rank on the CPU, whichever backend goes on.
func TestOnTheHostileBackend(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method)
		stage.Train.Epochs, stage.Train.Steps = 0, 5
		undisturbed := newFleet(t, stage)
		want := undisturbed.complete("train", 1).StateHash
		losses := undisturbed.losses()
		for name, backends := range map[string][2]string{"hostile": {so, so}, "hostile, then CPU": {so, ""}, "CPU, then hostile": {"", so}} {
			t.Run(method+"/"+name, func(t *testing.T) {
				f := newFleet(t, stage)
				for r, err := range f.generation("train", plan{world: 2, killAt: 3, kill: 1, opts: Options{Backend: backends[0]}}) {
					if !errors.Is(err, collective.ErrPeerLost) {
						t.Fatalf("rank %d: %v, want a lost peer", r, err)
					}
				}
				for r, err := range f.generation("train", plan{world: 2, opts: Options{Backend: backends[1]}}) {
					if err != nil {
						t.Fatalf("rank %d: %v", r, err)
					}
				}
				if m := f.manifest(); !m.Final || m.StateHash != want {
					t.Error("weights differ from those of one rank on the CPU")
				}
				for i, l := range f.losses() {
					if l != losses[i] {
						t.Errorf("step %d has loss %v, on the CPU %v", i+1, l, losses[i])
					}
				}
			})
		}
	}
}

// TestOnCUDAHost: two ZeRO-3 ranks on the CUDA kernels' emulation, one of them lost after a step, then resumed, give the bits of one rank
// that was never disturbed. The emulation runs threads in another order from one launch to the next.
func TestOnCUDAHost(t *testing.T) {
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method)
		stage.Train.Epochs, stage.Train.Steps = 0, 4
		undisturbed, f := newFleet(t, stage), newFleet(t, stage)
		for r, err := range undisturbed.generation("train", plan{world: 1, opts: Options{Backend: so}}) {
			if err != nil {
				t.Fatalf("rank %d: %v", r, err)
			}
		}
		for r, err := range f.generation("train", plan{world: 2, killAt: 3, kill: 1, opts: Options{Backend: so}}) {
			if !errors.Is(err, collective.ErrPeerLost) {
				t.Fatalf("rank %d: %v, want a lost peer", r, err)
			}
		}
		for r, err := range f.generation("train", plan{world: 2, opts: Options{Backend: so}}) {
			if err != nil {
				t.Fatalf("rank %d: %v", r, err)
			}
		}
		if m := f.manifest(); !m.Final || m.StateHash != undisturbed.manifest().StateHash {
			t.Errorf("%s: weights differ from those of one rank", method)
		}
		if n := strings.Count(f.log.String(), "copies on one device"); n != 4 {
			t.Errorf("%s: %d of 2 x 2 ranks exchanged between their devices", method, n)
		}
	}
}
