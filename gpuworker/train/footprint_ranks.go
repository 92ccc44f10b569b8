package train

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
)

// MeasureRanks runs one real step of a stage on c.World ranks, goroutines of this process with a CPU device of one thread each, and tells
// what each took. With Measure beside it, it shows how well that predicts.
func MeasureRanks(ctx context.Context, c MeasureConfig) ([]Footprint, error) {
	ranks := collective.NewLocal(max(1, c.World))
	out, errs := make([]Footprint, len(ranks)), make([]error, len(ranks))
	var wg sync.WaitGroup
	for r, comm := range ranks {
		wg.Go(func() {
			out[r], errs[r] = onOwnDevice(ctx, c, comm)
			if errs[r] != nil {
				errs[r] = errors.Join(fmt.Errorf("rank %d: %w", r, errs[r]), comm.Close())
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func onOwnDevice(ctx context.Context, c MeasureConfig, comm *collective.Local) (f Footprint, err error) {
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return measureRank(ctx, dev, c, comm)
}
