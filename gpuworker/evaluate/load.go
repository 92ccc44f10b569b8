package evaluate

import (
	"context"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// load loads a model, opened by open, in the precision that the stage asks for.
func load(ctx context.Context, t *consume.Task, q *kernels.Queue, open func() (*train.Finished, error)) (_ *train.Loaded, err error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := q.Device().Info()
	if err != nil {
		return nil, err
	}
	dtype, why := f.Precision(t.Stage.Eval.DType, info)
	t.Logger.Info("precision", "dtype", dtype, "why", why)
	return f.Load(ctx, q, dtype)
}

// loadStage loads the finished model of a train stage.
func loadStage(ctx context.Context, t *consume.Task, q *kernels.Queue, from string) (*train.Loaded, error) {
	return load(ctx, t, q, func() (*train.Finished, error) {
		return train.OpenFinished(ctx, t.Objects, t.Spec, t.Message.Tenant, t.Message.Run, from, q, t.Dir)
	})
}

// loadPredicted loads the model that answers: a finished stage's, or files with adapters merged into them.
func loadPredicted(ctx context.Context, t *consume.Task, q *kernels.Queue, m *schemas.ModelSpec, adapters []schemas.Ref) (*train.Loaded, error) {
	if m.From != "" {
		return loadStage(ctx, t, q, m.From)
	}
	return load(ctx, t, q, func() (*train.Finished, error) {
		return train.OpenFiles(ctx, t.Objects, t.Message.Tenant, m.Base, adapters, q, t.Dir)
	})
}

// answering opens the task's device and runs f with the model that answers there, and with a tape for its passes. Both are gone afterwards.
func answering(ctx context.Context, t *consume.Task, m *schemas.ModelSpec, adapters []schemas.Ref, f func(*train.Loaded, *autograd.Tape) error) (err error) {
	dev, err := kernels.Open(kernels.Options{Backend: t.Backend, Threads: t.Threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	loaded, err := loadPredicted(ctx, t, q, m, adapters)
	if err != nil {
		return err
	}
	defer loaded.Close()
	mem := autograd.NewMemory(dev, q, 0)
	defer func() { err = errors.Join(err, mem.Close()) }()
	return f(loaded, autograd.New(mem, autograd.Config{Compute: loaded.Compute}))
}
