package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Loaded is the finished model of a train stage, whole on one device.
type Loaded struct {
	Model zoo.Model
	// Adapters are those of the stage itself, applied and not merged; nil when it trained none. Adapters of earlier stages are merged.
	Adapters *adapter.Adapters
	// Recipe says how the weights came about.
	Recipe *Recipe

	storage *nn.Storage
}

// Close frees the parameters. The queue must have been synchronized.
func (l *Loaded) Close() { l.storage.Close() }

// Merge adds the adapters to the base weights and takes them off the model.
func (l *Loaded) Merge(ctx context.Context, q *kernels.Queue) error {
	if l.Adapters == nil {
		return nil
	}
	err := l.Adapters.Merge(ctx, q)
	l.Adapters = nil
	return err
}

// LoadModel loads the finished model of a train stage: from is "stage:<name>" within the run, or "run:<tenant>/<id>/<stage>" of the same
// tenant. spec, when not nil, is the run's spec (otherwise it is read from the store). dir is scratch space.
func LoadModel(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, tenant, run, from string, q *kernels.Queue, dir string) (_ *Loaded, err error) {
	var known []*schemas.RunSpec
	if spec != nil {
		known = append(known, spec)
	}
	rec, err := newResolver(objects, known...).finished(ctx, from, tenant, run, 0)
	if err != nil {
		return nil, err
	}
	src, err := openSource(ctx, objects, rec, dir, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot load model %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	model, err := zoo.New(rec.Config)
	if err != nil {
		return nil, fmt.Errorf("cannot load model %s: %w", from, err)
	}
	base := nn.Params(model.Root())
	if err := src.check(base, model.Info().Tied); err != nil {
		return nil, err
	}
	out := &Loaded{Model: model, Recipe: rec}
	last := len(rec.Layers) - 1
	upto := last + 1
	if c := rec.Layers[last].LoRA; c != nil {
		if out.Adapters, err = adapter.Apply(model, *c); err != nil {
			return nil, fmt.Errorf("cannot load model %s: %w", from, err)
		}
		upto = last
	}
	if out.storage, err = nn.NewStorage(q.Device(), q, model.Units(), false); err != nil {
		return nil, err
	}
	fill := func(params []*nn.Param, upto int) error {
		for _, p := range params {
			if err := src.fill(ctx, q, p, 0, p.Data.Reshape(p.Len()), upto); err != nil {
				return fmt.Errorf("cannot load %s of model %s: %w", p.Name, from, err)
			}
		}
		return nil
	}
	err = fill(base, upto)
	if err == nil && out.Adapters != nil {
		err = fill(out.Adapters.Params(), last+1)
	}
	if err == nil {
		err = q.Sync()
	}
	if err != nil {
		err = errors.Join(err, q.Sync())
		out.Close()
		return nil, err
	}
	return out, nil
}
