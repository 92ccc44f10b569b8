package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Loaded is a finished model, whole on one device.
type Loaded struct {
	Model zoo.Model
	// Adapters are those of the stage itself, applied and not merged; nil when it trained none. Adapters of earlier stages are merged.
	Adapters *adapter.Adapters
	// Recipe says how the weights came about.
	Recipe *Recipe
	// ValueHead is that of a reward model, nil for others.
	ValueHead *objective.ValueHead
	// Compute is the element type that the model is meant to be computed in: matrices of its base are held in it.
	Compute kernels.DType

	storage, headStorage *nn.Storage
}

// Close frees the parameters. The queue must have been synchronized.
func (l *Loaded) Close() {
	l.storage.Close()
	l.headStorage.Close()
}

// LoadModel loads the finished model of a train stage in float32: from is "stage:<name>" within the run, or "run:<tenant>/<id>/<stage>" of the
// same tenant. spec, when not nil, is the run's spec (otherwise it is read from the store). dir is scratch space.
func LoadModel(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, tenant, run, from string, q *kernels.Queue, dir string) (_ *Loaded, err error) {
	f, err := OpenFinished(ctx, objects, spec, tenant, run, from, q, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := f.Load(ctx, q, fp32)
	if err != nil {
		return nil, fmt.Errorf("cannot load model %s: %w", from, err)
	}
	return l, nil
}

// Load gives all parameters memory and values: matrices of the base in the type of a precision (fp32, bf16 or fp16), vectors and what adapters
// and value heads hold in float32. The Finished can be closed afterwards.
func (f *Finished) Load(ctx context.Context, q *kernels.Queue, dtype string) (_ *Loaded, err error) {
	l := &Loaded{Recipe: f.Recipe, Model: f.Model, Adapters: f.Adapters, ValueHead: f.ValueHead, Compute: computeType(dtype)}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.Sync())
			l.Close()
		}
	}()
	for _, p := range f.base {
		p.Frozen = true
	}
	autograd.StoreFrozen(l.Model.Units(), l.Compute)
	if l.storage, err = nn.NewStorage(q.Device(), q, l.Model.Units(), false); err != nil {
		return nil, err
	}
	var params []*nn.Param // without what packed matrices stand for
	for _, u := range l.Model.Units() {
		params = append(params, u.Params...)
	}
	if l.ValueHead != nil {
		if l.headStorage, err = nn.NewStorage(q.Device(), q, []*nn.Unit{l.ValueHead.Unit()}, false); err != nil {
			return nil, err
		}
		params = append(params, l.ValueHead.Unit().Params...)
	}
	for _, p := range params {
		if err := f.fill(ctx, p, 0, p.Data.Reshape(p.Len())); err != nil {
			return nil, fmt.Errorf("cannot load %s: %w", p.Name, err)
		}
	}
	return l, q.Sync()
}

// weights finds the weight of a module by its path.
func weights(params []*nn.Param) func(path string) *nn.Param {
	byName := map[string]*nn.Param{}
	for _, p := range params {
		byName[p.Name] = p
	}
	return func(path string) *nn.Param { return byName[path+".weight"] }
}
