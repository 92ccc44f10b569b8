package zero

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// BestPrefix stands before a parameter's name in a checkpoint for its best evaluated value.
const BestPrefix = "best/"

// stretch is consecutive values of a parameter on the host.
type stretch struct {
	start int64
	data  []float32
}

// KeepBest copies the values that this rank holds to the host; they are part of every snapshot from now on.
func (e *Engine) KeepBest() error {
	best := map[*autograd.Param]stretch{}
	for _, b := range e.plan.buckets {
		for _, g := range b.kept {
			v := make([]float32, g.Len)
			if err := kernels.DownloadFloats(e.q, v, b.mem.p.Slice(0, g.Offset, g.Offset+g.Len)); err != nil {
				return fmt.Errorf("cannot keep %s: %w", g.Param.Name, err)
			}
			best[g.Param] = stretch{g.Start, v}
		}
	}
	e.best = best // snapshots on their way keep the old ones
	return nil
}

// UseBest puts the kept values back. The optimizer's state stays as it is.
func (e *Engine) UseBest() error {
	e.copies.settleAll()
	for _, b := range e.plan.buckets {
		for _, g := range b.kept {
			v, ok := e.best[g.Param]
			if !ok || v.start != g.Start || int64(len(v.data)) != g.Len {
				return fmt.Errorf("cannot use the best value of %s: none is kept", g.Param.Name)
			}
			if err := kernels.UploadFloats(e.q, b.mem.p.Slice(0, g.Offset, g.Offset+g.Len), v.data); err != nil {
				return fmt.Errorf("cannot use the best value of %s: %w", g.Param.Name, err)
			}
		}
	}
	return e.q.Err()
}

// RestoreBest reads the kept values of a checkpoint of any world.
func (e *Engine) RestoreBest(ctx context.Context, read func(ctx context.Context, tensor string, from int64, dst []float32) error) error {
	e.best = map[*autograd.Param]stretch{}
	for _, b := range e.plan.buckets {
		for _, g := range b.kept {
			v := make([]float32, g.Len)
			if err := read(ctx, BestPrefix+g.Param.Name, g.Start, v); err != nil {
				return fmt.Errorf("cannot restore the best value of %s: %w", g.Param.Name, err)
			}
			e.best[g.Param] = stretch{g.Start, v}
		}
	}
	return nil
}

// bestPieces lists what this rank stores of the kept values.
func (e *Engine) bestPieces() []piece {
	if e.best == nil {
		return nil
	}
	var out []piece
	for _, b := range e.plan.buckets {
		for _, g := range b.mine {
			v := e.best[g.Param]
			at := g.Start - v.start
			out = append(out, piece{tensor: BestPrefix + g.Param.Name, shape: g.Param.Shape, from: g.Start, data: v.data[at : at+g.Len]})
		}
	}
	return out
}
