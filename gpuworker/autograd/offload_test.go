package autograd_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// chain is a tape for passes through equal blocks.
type chain struct {
	t    *testing.T
	q    *kernels.Queue
	mem  *autograd.Memory
	tape *autograd.Tape
	off  *autograd.Offload
}

func newChain(t *testing.T, dev *kernels.Device, offload bool) *chain {
	t.Helper()
	c := &chain{t: t}
	var err error
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.q, err = dev.NewQueue(kernels.Compute)
	check(err)
	c.mem = autograd.NewMemory(dev, c.q, 0)
	if offload {
		c.off, err = autograd.NewOffload(dev)
		check(err)
	}
	c.tape = autograd.New(c.mem, autograd.Config{Checkpoint: true, Offload: c.off})
	return c
}

func (c *chain) close() {
	c.t.Helper()
	if c.off != nil {
		if err := c.off.Close(); err != nil {
			c.t.Error(err)
		}
	}
	if err := c.mem.Close(); err != nil {
		c.t.Error(err)
	}
	if err := c.q.Close(); err != nil {
		c.t.Error(err)
	}
}

// pass runs n elements through the blocks and back and returns the gradient of the input. It is given up when a block has run stop times,
// forward and again for the backward pass (0: never).
func (c *chain) pass(n, blocks, stop int) ([]float32, error) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	t := c.tape
	t.Reset(ctx, true)
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(rng.NormFloat64())
	}
	leaf := t.Leaf(t.Floats(values, 1, int64(n)))
	x := ops.Act(t, leaf, kernels.SiLU)
	ran := 0
	for range blocks {
		x = t.Block(&autograd.Unit{Name: "block"}, x, func(x autograd.Value) autograd.Value {
			if ran++; ran == stop {
				cancel()
			}
			a := ops.Act(t, x, kernels.SiLU)
			b := ops.Add(t, x, a, 0.5)
			t.Release(a)
			return b
		})
	}
	if !t.OK() {
		return nil, t.Err()
	}
	t.Seed(x, t.Floats(values, 1, int64(n)))
	if err := t.Backward(); err != nil {
		return nil, err
	}
	g, ok := t.GradOf(leaf)
	if !ok {
		c.t.Fatal("the input has no gradient")
	}
	out := make([]float32, n)
	return out, kernels.Download(c.q, out, g)
}

// TestOffloadKeepsBitsAndSavesMemory: on queues that run behind the caller, passes of several lengths whose blocks' inputs go to the host have
// the bits of those whose stay, also after passes that were given up with copies in flight; the device holds two inputs, the host the others.
func TestOffloadKeepsBitsAndSavesMemory(t *testing.T) {
	t.Parallel()
	const blocks, n = 9, 1 << 16
	for name, dev := range map[string]*kernels.Device{"hostile": hostile.Open(t, kernels.Options{Threads: 1}), "cpu": openCPU(t)} {
		stay, away := newChain(t, dev, false), newChain(t, dev, true)
		type pass struct{ n, stop int }
		passes := []pass{{n, 0}, {n / 2, 0}}
		for stop := 1; stop < 2*blocks; stop++ {
			// Small ones, in which the queues' pauses are long beside operations and copies, so that each is behind at times.
			passes = append(passes, pass{n, stop}, pass{1024, 0})
			for range 5 {
				passes = append(passes, pass{1024, stop}, pass{1024, 0})
			}
		}
		for _, p := range append(passes, pass{2 * n, 0}, pass{n, 0}) {
			want, err := stay.pass(p.n, blocks, p.stop)
			if stopped := errors.Is(err, context.Canceled); stopped != (p.stop > 0) || err != nil && !stopped {
				t.Fatalf("%s: a pass given up at %d: %v", name, p.stop, err)
			}
			got, err := away.pass(p.n, blocks, p.stop)
			if stopped := errors.Is(err, context.Canceled); stopped != (p.stop > 0) || err != nil && !stopped {
				t.Fatalf("%s: an offloaded pass given up at %d: %v", name, p.stop, err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: gradients of %d elements differ from those of a pass without offloading", name, p.n)
			}
		}
		const bytes = 4 * 2 * n // of an input of the longest pass
		if saved := stay.mem.Peak() - away.mem.Peak(); saved < (blocks-3)*bytes {
			t.Errorf("%s: the device held %d bytes less, %d inputs have %d each", name, saved, blocks, bytes)
		}
		if got := away.off.HostBytes(); got != blocks*bytes || dev.HostLive() != got {
			t.Errorf("%s: the host holds %d bytes, %d by the device's count, for %d inputs of %d", name, got, dev.HostLive(), blocks, bytes)
		}
		stay.close()
		away.close()
		if dev.HostLive() != 0 {
			t.Errorf("%s: %d bytes of host memory are left", name, dev.HostLive())
		}
	}
}

func openCPU(t *testing.T) *kernels.Device {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}
