package optim

import (
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// GradNorm is the L2 norm of the gradients bound to the units' trainable parameters, whole on this device. As in sharded training the sum
// of squares of every chunk of 4,096 elements, counted from each tensor's start, is computed on its own, and the chunks are added in
// float64 in the order of units, parameters and elements.
func GradNorm(q *kernels.Queue, units []*autograd.Unit) (float64, error) {
	var chunks int64
	each := func(f func(p *autograd.Param, n int64)) {
		for _, u := range units {
			for _, p := range u.Params {
				if !p.Frozen {
					f(p, (p.Len()+autograd.ChunkLen-1)/autograd.ChunkLen)
				}
			}
		}
	}
	each(func(_ *autograd.Param, n int64) { chunks += n })
	if chunks == 0 {
		return 0, nil
	}
	arena, err := q.Device().NewArena("gradient norm", 8*chunks+256)
	if err != nil {
		return 0, fmt.Errorf("cannot compute the gradient norm: %w", err)
	}
	defer arena.Close()
	partials, err := arena.New(kernels.F64, chunks)
	if err != nil {
		return 0, fmt.Errorf("cannot compute the gradient norm: %w", err)
	}
	at := int64(0)
	each(func(p *autograd.Param, n int64) {
		q.SqNorm(kernels.SqNorm{X: p.Grad.Reshape(p.Len()), Partials: partials.Slice(0, at, at+n)})
		at += n
	})
	sums := make([]float64, chunks)
	if err := kernels.Download(q, sums, partials); err != nil {
		return 0, fmt.Errorf("cannot compute the gradient norm: %w", err)
	}
	var total float64
	for _, s := range sums {
		total += s
	}
	return math.Sqrt(total), nil
}
