package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
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
	// Head is, after Merge, the weight of an output head that was tied to an embedding which is trained apart now, nil where there is none.
	// HeadName is its key in a checkpoint.
	Head     *nn.Param
	HeadName string
	// ValueHead is that of a reward model, nil for others.
	ValueHead *objective.ValueHead

	storage, headStorage *nn.Storage
}

// Close frees the parameters. The queue must have been synchronized.
func (l *Loaded) Close() {
	l.storage.Close()
	l.headStorage.Close()
}

// openHead loads the value head that a stage trained beside its model.
func (l *Loaded) openHead(ctx context.Context, q *kernels.Queue, k *link) (err error) {
	if k.ckpt == nil || !k.ckpt.Has(zero.ParamPrefix+headPrefix+"summary.weight") {
		return nil
	}
	l.ValueHead = objective.NewValueHead(l.Model.Info().Hidden)
	if l.headStorage, err = nn.NewStorage(q.Device(), q, []*nn.Unit{l.ValueHead.Unit()}, false); err != nil {
		return err
	}
	for _, p := range l.ValueHead.Unit().Params {
		v := make([]float32, p.Len())
		if err := k.ckpt.ReadAt(ctx, zero.ParamPrefix+p.Name, 0, v); err != nil {
			return fmt.Errorf("cannot read the value head: %w", err)
		}
		if err := kernels.Upload(q, p.Data, v); err != nil {
			return err
		}
	}
	return nil
}

// Merge adds the adapters to the base weights and takes them off the model.
func (l *Loaded) Merge(ctx context.Context, q *kernels.Queue) error {
	if l.Adapters == nil {
		return nil
	}
	err := l.Adapters.Merge(ctx, q)
	l.Head = l.Adapters.Untied()
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
	src, err := openSource(ctx, objects, q, rec, dir, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot load model %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	last := len(rec.Layers) - 1
	k, read := src.links[last], src.readers[last]
	if k.adapter == nil {
		read = src.readers[last+1]
	}
	rec.Config = k.before
	out := &Loaded{Recipe: rec}
	for name := range k.untied {
		out.HeadName = name
	}
	if out.Model, err = zoo.New(rec.Config); err != nil {
		return nil, fmt.Errorf("cannot load model %s: %w", from, err)
	}
	base := nn.Params(out.Model.Root())
	var own adapter.Stored
	if k.adapter != nil {
		c := *k.adapter
		c.Quant = adapter.QuantConfig{} // adapters that were trained over a packed base serve the base as it is
		c, own = adapter.Plain(c, k.stored(), read, weights(base))
		if out.Adapters, err = adapter.Apply(out.Model, c); err != nil {
			return nil, fmt.Errorf("cannot load model %s: %w", from, err)
		}
	}
	if out.storage, err = nn.NewStorage(q.Device(), q, out.Model.Units(), false); err != nil {
		return nil, err
	}
	f := src.filler(read, out.Adapters, own)
	params := base
	if out.Adapters != nil {
		params = append(params, out.Adapters.Params()...)
	}
	for _, p := range params {
		if err = f.fill(ctx, p, 0, p.Data.Reshape(p.Len())); err != nil {
			err = fmt.Errorf("cannot load %s of model %s: %w", p.Name, from, err)
			break
		}
	}
	if err == nil {
		err = errors.Join(out.openHead(ctx, q, k), q.Sync())
	}
	if err != nil {
		err = errors.Join(err, q.Sync())
		out.Close()
		return nil, err
	}
	return out, nil
}

// weights finds the weight of a module by its path.
func weights(params []*nn.Param) func(path string) *nn.Param {
	byName := map[string]*nn.Param{}
	for _, p := range params {
		byName[p.Name] = p
	}
	return func(path string) *nn.Param { return byName[path+".weight"] }
}
