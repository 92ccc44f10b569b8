package objective

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// Footprint is what one rank without sharding needs of a device, in bytes.
type Footprint struct {
	// Weights of all parameters; Gradients and Optimizer (two moments) of the trainable ones.
	Weights, Gradients, Optimizer int64
	// Activations, their gradients and scratch at the worst moment of a leaf; Workspace of the kernels beside.
	Activations, Workspace int64
}

// Measure runs one leaf of rows x seq tokens on a device without memory and tells what it would take. backend is empty for the CPU.
// prepare, when not nil, applies adapters or freezing first. The same code runs as in training, so the figures are exact.
func Measure(ctx context.Context, backend string, config []byte, rows, seq int, cfg autograd.Config, prepare func(zoo.Model) error) (f Footprint, err error) {
	m, err := zoo.New(config)
	if err != nil {
		return f, err
	}
	if prepare != nil {
		if err := prepare(m); err != nil {
			return f, err
		}
	}
	dev, err := kernels.Open(kernels.Options{Backend: backend, Counting: true})
	if err != nil {
		return f, err
	}
	defer func() {
		if cerr := dev.Close(); err == nil {
			err = cerr
		}
	}()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return f, err
	}
	store, err := nn.NewStorage(dev, q, m.Units(), true)
	if err != nil {
		return f, err
	}
	defer store.Close()
	for _, u := range m.Units() {
		f.Weights += 4 * u.DataLayout().Len
		f.Gradients += 4 * u.GradLayout().Len
	}
	f.Optimizer = 2 * f.Gradients
	mem := autograd.NewMemory(dev, q, 0)
	defer func() {
		if cerr := mem.Close(); err == nil {
			err = cerr
		}
	}()
	b := &nn.Batch{Rows: rows, Seq: seq, IDs: make([]int32, rows*seq), Labels: make([]int32, rows*seq)}
	if _, err := Backward(ctx, autograd.New(mem, cfg), m, b, b.LabelTokens()); err != nil {
		return f, fmt.Errorf("cannot measure: %w", err)
	}
	f.Activations, f.Workspace = mem.Peak(), q.Workspace()
	return f, nil
}
