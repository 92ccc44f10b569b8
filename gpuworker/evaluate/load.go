package evaluate

import (
	"context"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/kernels"
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

// loadPredicted loads the model that answers: a finished stage's, or files.
func loadPredicted(ctx context.Context, t *consume.Task, q *kernels.Queue) (*train.Loaded, error) {
	p := t.Stage.Eval.Predict
	if p.Model.From != "" {
		return loadStage(ctx, t, q, p.Model.From)
	}
	return load(ctx, t, q, func() (*train.Finished, error) {
		return train.OpenFiles(ctx, t.Objects, t.Message.Tenant, p.Model.Base, p.Adapters, q, t.Dir)
	})
}
