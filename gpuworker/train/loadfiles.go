package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// LoadFiles loads an uploaded base model, with PEFT folders merged into it in order, whole on one device. dir is scratch space.
func LoadFiles(ctx context.Context, objects store.Objects, tenant string, base *schemas.Ref, adapters []schemas.Ref, q *kernels.Queue, dir string) (_ *Loaded, err error) {
	if base == nil || len(base.Files) == 0 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "model", "a base model is given by its files")
	}
	rec := &Recipe{Tenant: tenant, Base: base}
	if len(adapters) > 0 {
		// A stage that merges all adapters and would go on with a new one: what it starts from is what is wanted.
		rec.Next = &schemas.Stage{Name: "model", Kind: schemas.KindTrain, Train: &schemas.TrainStage{Method: "lora", LoRA: &schemas.LoRA{Rank: 1, Alpha: 1}, Adapters: adapters, CreateNewAdapter: true}}
	}
	src, err := openSource(ctx, objects, q, rec, dir, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	out := &Loaded{Recipe: rec}
	if out.Model, err = zoo.New(rec.Config); err != nil {
		return nil, err
	}
	if out.storage, err = nn.NewStorage(q.Device(), q, out.Model.Units(), false); err != nil {
		return nil, err
	}
	f := src.filler(src.readers[len(src.readers)-1], nil, nil)
	for _, p := range nn.Params(out.Model.Root()) {
		if err = f.fill(ctx, p, 0, p.Data.Reshape(p.Len())); err != nil {
			err = fmt.Errorf("cannot load %s: %w", p.Name, err)
			break
		}
	}
	if err = errors.Join(err, q.Sync()); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}
