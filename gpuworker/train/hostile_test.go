package train

import (
	"errors"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
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

// TestOffloadedOptimizer: a stage that offloads its optimizer trains, commits and resumes on a device of its own memory with the bits of one
// that does not offload on the CPU, and goes on there.
func TestOffloadedOptimizer(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	stage := toyStage("train", "full")
	stage.Train.Epochs, stage.Train.Steps = 0, 5
	want := newFleet(t, stage).complete("train", 1).StateHash
	stage.Train.Optim.Offload = true
	for name, backends := range map[string][2]string{"hostile": {so, so}, "hostile, then CPU": {so, ""}, "CPU, then hostile": {"", so}} {
		f := newFleet(t, stage)
		for r, err := range f.generation("train", plan{world: 2, killAt: 3, kill: 1, opts: Options{Backend: backends[0]}}) {
			if !errors.Is(err, collective.ErrPeerLost) {
				t.Fatalf("%s: rank %d: %v, want a lost peer", name, r, err)
			}
		}
		for r, err := range f.generation("train", plan{world: 2, opts: Options{Backend: backends[1]}}) {
			if err != nil {
				t.Fatalf("%s: rank %d: %v", name, r, err)
			}
		}
		if m := f.manifest(); !m.Final || m.StateHash != want {
			t.Errorf("%s: weights differ from those of one rank on the CPU without offloading", name)
		}
		if log := f.log.String(); !strings.Contains(log, "the optimizer's state is in the host's memory") {
			t.Errorf("%s: nothing was offloaded", name)
		}
	}
}

// TestOffloadIsCounted: the counting device tells what a step with an offloaded optimizer takes of device and host, within 5 %.
func TestOffloadIsCounted(t *testing.T) {
	model := []byte(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 160,
		"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}`)
	stage := toyStage("train", "full").Train
	c := MeasureConfig{Stage: stage, Model: model, World: 1, Seq: 32}
	plain, err := Measure(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	stage.Optim.Offload = true
	counted, err := Measure(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	dev := hostile.Open(t, kernels.Options{Threads: 1})
	real, err := MeasureOn(t.Context(), dev, c)
	if err != nil {
		t.Fatal(err)
	}
	near := func(a, b int64) bool { return float64(a) <= 1.05*float64(b) && float64(b) <= 1.05*float64(a) }
	if !near(counted.Peak, real.Peak) || !near(counted.Host, real.Host) || counted.Optimizer != 0 || real.Optimizer != 0 {
		t.Errorf("counted %+v, real %+v", counted, real)
	}
	if saved := plain.Peak - counted.Peak; !near(saved, plain.Optimizer) || counted.Host < plain.Optimizer {
		t.Errorf("the device holds %d bytes less of %d of state, the host %d more", saved, plain.Optimizer, counted.Host)
	}
}

// TestOffloadedActivations: a stage that keeps the inputs of blocks in the host's memory trains and resumes on a device of its own memory with
// the bits of one that keeps everything on the CPU, and goes on there, where it says that nothing is offloaded.
func TestOffloadedActivations(t *testing.T) {
	so, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method)
		stage.Train.Epochs, stage.Train.Steps = 0, 5
		want := newFleet(t, stage).complete("train", 1).StateHash
		stage.Train.OffloadActivations = true
		for name, backends := range map[string][2]string{"hostile": {so, so}, "hostile, then CPU": {so, ""}} {
			f := newFleet(t, stage)
			for r, err := range f.generation("train", plan{world: 2, killAt: 3, kill: 1, opts: Options{Backend: backends[0]}}) {
				if !errors.Is(err, collective.ErrPeerLost) {
					t.Fatalf("%s, %s: rank %d: %v, want a lost peer", method, name, r, err)
				}
			}
			for r, err := range f.generation("train", plan{world: 2, opts: Options{Backend: backends[1]}}) {
				if err != nil {
					t.Fatalf("%s, %s: rank %d: %v", method, name, r, err)
				}
			}
			if m := f.manifest(); !m.Final || m.StateHash != want {
				t.Errorf("%s, %s: weights differ from those of one rank on the CPU without offloading", method, name)
			}
			log := f.log.String()
			if !strings.Contains(log, "the inputs of blocks are in the host's memory") {
				t.Errorf("%s, %s: nothing was offloaded", method, name)
			}
			if said := strings.Contains(log, "offload_activations changes nothing"); said != (backends[1] == "") {
				t.Errorf("%s, %s: that nothing is offloaded on the CPU is said: %t", method, name, said)
			}
		}
	}
}

// TestOffloadedActivationsAreCounted: the counting device tells what a step with offloaded activations takes of device and host, within 5 %, also
// beside an offloaded optimizer, and that the device holds less.
func TestOffloadedActivationsAreCounted(t *testing.T) {
	model := []byte(`{"architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160,
		"num_hidden_layers": 12, "num_attention_heads": 4, "max_position_embeddings": 256}`)
	for _, method := range []string{"full", "lora"} {
		stage := toyStage("train", method).Train
		c := MeasureConfig{Stage: stage, Model: model, World: 1, Seq: 256, Recompute: true}
		plain, err := Measure(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		stage.OffloadActivations = true
		for _, stage.Optim.Offload = range []bool{false, true} {
			counted, err := Measure(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			real, err := MeasureOn(t.Context(), hostile.Open(t, kernels.Options{Threads: 1}), c)
			if err != nil {
				t.Fatal(err)
			}
			near := func(a, b int64) bool { return float64(a) <= 1.05*float64(b) && float64(b) <= 1.05*float64(a) }
			if !near(counted.Peak, real.Peak) || !near(counted.Activations, real.Activations) || !near(counted.Host, real.Host) || !near(counted.HostActivations, real.HostActivations) {
				t.Errorf("%s: counted %+v, real %+v", method, counted, real)
			}
			input := int64(4 * stage.MicroBatch * c.Seq * 64)
			if counted.HostActivations < 11*input || counted.HostActivations > 12*input || plain.Activations-counted.Activations < 9*input {
				t.Errorf("%s: the host holds %d bytes of 12 inputs of %d, the device %d less", method, counted.HostActivations, input, plain.Activations-counted.Activations)
			}
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
