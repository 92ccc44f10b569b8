package optim

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Norm measures the global gradient norm in a way that does not depend on sharding: the sum of squares of every chunk of 4,096
// elements, counted from each tensor's start, is computed on its own, and the chunks are added in float64 in one global order (units in
// forward order, their trainable parameters in order, chunks ascending).
type Norm struct {
	// Chunks is the number of chunks of all trainable parameters.
	Chunks int64
	// Clip (f32) and Skip (i32) are the device scalars that Finish computes, for Config.Step.
	Clip, Skip kernels.Tensor

	arena               *kernels.Arena
	partials, sum, norm kernels.Tensor
	first               map[*autograd.Param]int64
}

// NewNorm prepares the measurement of the units' trainable parameters.
func NewNorm(dev *kernels.Device, units []*autograd.Unit) (*Norm, error) {
	n := &Norm{first: map[*autograd.Param]int64{}}
	for _, u := range units {
		for _, p := range u.Params {
			if !p.Frozen {
				n.first[p] = n.Chunks
				n.Chunks += (p.Len() + autograd.ChunkLen - 1) / autograd.ChunkLen
			}
		}
	}
	var err error
	if n.arena, err = dev.NewArena("gradient norm", max(1, n.Chunks)*8+5*256); err != nil {
		return nil, fmt.Errorf("cannot allocate gradient norm: %w", err)
	}
	for _, x := range []struct {
		t   *kernels.Tensor
		dt  kernels.DType
		len int64
	}{{&n.partials, kernels.F64, max(1, n.Chunks)}, {&n.sum, kernels.F64, 1}, {&n.norm, kernels.F32, 1}, {&n.Clip, kernels.F32, 1}, {&n.Skip, kernels.I32, 1}} {
		if *x.t, err = n.arena.New(x.dt, x.len); err != nil {
			n.arena.Close()
			return nil, fmt.Errorf("cannot allocate gradient norm: %w", err)
		}
	}
	return n, nil
}

// Close frees the scalars.
func (n *Norm) Close() {
	if n != nil && n.arena != nil {
		n.arena.Close()
		n.arena = nil
	}
}

// Measure computes the partial sums of ranges; together they must cover every trainable parameter before Finish.
func (n *Norm) Measure(q *kernels.Queue, ranges []Range) {
	for _, r := range ranges {
		at := n.first[r.Param] + r.Start/autograd.ChunkLen
		q.SqNorm(kernels.SqNorm{X: r.G, Partials: n.partials.Slice(0, at, at+(r.Len+autograd.ChunkLen-1)/autograd.ChunkLen)})
	}
}

// Finish adds the partial sums in order and computes the clip factor min(1, maxNorm/(norm+1e-6)) of torch.nn.utils.clip_grad_norm_
// (1 when maxNorm <= 0), and the skip flag of a norm that is not finite.
func (n *Norm) Finish(q *kernels.Queue, maxNorm float64) {
	if n.Chunks == 0 {
		q.Fill(kernels.Fill{Y: n.partials})
	}
	q.SumF64(kernels.SumF64{X: n.partials, Total: n.sum})
	q.ClipFactor(kernels.ClipFactor{SumSq: n.sum, Norm: n.norm, Clip: n.Clip, Skip: n.Skip, MaxNorm: float32(maxNorm), InvScale: 1})
}

// Value downloads the norm before clipping.
func (n *Norm) Value(q *kernels.Queue) (float64, error) {
	var v [1]float32
	err := kernels.Download(q, v[:], n.norm)
	return float64(v[0]), err
}
