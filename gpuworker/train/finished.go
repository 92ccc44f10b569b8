package train

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Finished is a finished model whose values lie in files and checkpoints: parameters have no memory until they are loaded. Adapters of the
// last stage are apart, those of earlier ones are merged.
type Finished struct {
	// Recipe says how the weights came about; its Config is that of the model that the last stage trained.
	Recipe *Recipe
	Model  zoo.Model
	// Adapters are those of the last stage, nil when it trained none; ValueHead is a reward model's.
	Adapters  *adapter.Adapters
	ValueHead *objective.ValueHead

	src *source
	// link is the last stage, nil for files.
	link *link
	// base are the model's own parameters, without the adapters'; read reads them, and merged with the adapters as part of them.
	base         []*nn.Param
	read, merged adapter.Reader
	values       *filler
	// head are a value head's values where it is a file.
	head map[string][]float32
}

// OpenFinished opens the finished model of a train stage: from is "stage:<name>" within the run, or "run:<tenant>/<id>/<stage>" of the same
// tenant. spec, when not nil, is the run's spec (otherwise it is read from the store). q is used to draw values, dir is scratch space.
func OpenFinished(ctx context.Context, objects store.Objects, spec *schemas.RunSpec, tenant, run, from string, q *kernels.Queue, dir string) (f *Finished, err error) {
	var known []*schemas.RunSpec
	if spec != nil {
		known = append(known, spec)
	}
	rec, err := newResolver(objects, known...).finished(ctx, from, tenant, run, 0)
	if err != nil {
		return nil, err
	}
	f = &Finished{Recipe: rec}
	if f.src, err = openSource(ctx, objects, q, rec, dir, nil); err != nil {
		return nil, fmt.Errorf("cannot open model %s: %w", from, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot open model %s: %w", from, err), f.Close())
			f = nil
		}
	}()
	last := len(rec.Layers) - 1
	f.link = f.src.links[last]
	f.read = f.src.readers[last]
	if f.link.adapter == nil {
		f.read = f.src.readers[last+1]
	}
	f.merged = f.read
	rec.Config = f.link.before
	if f.Model, err = zoo.New(rec.Config); err != nil {
		return f, err
	}
	f.base = nn.Params(f.Model.Root())
	var own adapter.Stored
	if f.link.adapter != nil {
		c := *f.link.adapter
		c.Quant = adapter.QuantConfig{} // adapters that were trained over a packed base serve the base as it is
		c, own = adapter.Plain(c, f.link.stored(), f.read, weights(f.base))
		if f.Adapters, err = adapter.Apply(f.Model, c); err != nil {
			return f, err
		}
		m, base := adapter.NewMerger(c, own), f.link.untied.over(f.read)
		f.merged = func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
			return m.Merge(ctx, p, start, dst, base)
		}
	}
	if k := f.link; k.ckpt != nil && k.ckpt.Has(zero.ParamPrefix+headPrefix+"summary.weight") {
		f.ValueHead = objective.NewValueHead(f.Model.Info().Hidden)
	}
	f.values = f.src.filler(f.read, f.Adapters, own)
	return f, nil
}

// OpenFiles opens an uploaded base model, with PEFT folders merged into it in order. q and dir are as OpenFinished has them.
func OpenFiles(ctx context.Context, objects store.Objects, tenant string, base *schemas.Ref, adapters []schemas.Ref, q *kernels.Queue, dir string) (f *Finished, err error) {
	if base == nil || len(base.Files) == 0 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "model", "a base model is given by its files")
	}
	rec := &Recipe{Tenant: tenant, Base: base}
	if len(adapters) > 0 {
		// A stage that merges all adapters and would go on with a new one: what it starts from is what is wanted.
		rec.Next = &schemas.Stage{Name: "model", Kind: schemas.KindTrain, Train: &schemas.TrainStage{Method: "lora", LoRA: &schemas.LoRA{Rank: 1, Alpha: 1}, Adapters: adapters, CreateNewAdapter: true}}
	}
	f = &Finished{Recipe: rec}
	if f.src, err = openSource(ctx, objects, q, rec, dir, nil); err != nil {
		return nil, err
	}
	if f.Model, err = zoo.New(rec.Config); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.base, f.read = nn.Params(f.Model.Root()), f.src.readers[len(f.src.readers)-1]
	f.merged, f.values = f.read, f.src.filler(f.read, nil, nil)
	return f, nil
}

// openReward opens a reward model of files. q and dir are as OpenFinished has them.
func openReward(ctx context.Context, objects store.Objects, tenant string, r *schemas.RewardFiles, q *kernels.Queue, dir string) (*Finished, error) {
	f, err := OpenFiles(ctx, objects, tenant, &r.Base, r.Adapters, q, dir)
	if err != nil {
		return nil, err
	}
	f.ValueHead = objective.NewValueHead(f.Model.Info().Hidden)
	if f.head, err = fetchHead(ctx, objects, tenant, &r.Head, dir, f.ValueHead); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close frees files and scratch space.
func (f *Finished) Close() error { return f.src.Close() }

// DType is the precision that the last stage was trained in, as its final commit says; "" for files.
func (f *Finished) DType() string {
	if f.link == nil || f.link.ckpt == nil {
		return ""
	}
	if d := f.link.ckpt.Manifest().State[dtypeKey]; d != "" {
		return d
	}
	return f.link.stage.Train.DType
}

// fill writes a range of a parameter, the value head's included, to dst.
func (f *Finished) fill(ctx context.Context, p *nn.Param, start int64, dst kernels.Tensor) error {
	if !isHead(p) {
		return f.values.fill(ctx, p, start, dst)
	}
	v := make([]float32, dst.Numel())
	if err := f.headValues(ctx, p, start, v); err != nil {
		return err
	}
	return kernels.UploadFloats(f.src.q, dst, v)
}

func (f *Finished) headValues(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
	if v, ok := f.head[p.Name]; ok {
		copy(dst, v[start:])
		return nil
	}
	if err := f.link.ckpt.ReadAt(ctx, zero.ParamPrefix+p.Name, start, dst); err != nil {
		return fmt.Errorf("cannot read the value head: %w", err)
	}
	return nil
}

// LoadAdapters gives the adapters' parameters memory and values; the base's get none. The storage is the caller's to close, after the queue
// was synchronized.
func (f *Finished) LoadAdapters(ctx context.Context, q *kernels.Queue) (*nn.Storage, error) {
	u := &nn.Unit{Name: "adapters", Block: -1, Params: f.Adapters.Params()}
	s, err := nn.NewStorage(q.Device(), q, []*nn.Unit{u}, false)
	if err != nil {
		return nil, err
	}
	for _, p := range u.Params {
		if err = f.fill(ctx, p, 0, p.Data.Reshape(p.Len())); err != nil {
			err = fmt.Errorf("cannot load %s: %w", p.Name, err)
			break
		}
	}
	if err = errors.Join(err, q.Sync()); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Tensors are a model folder's tensors, computed one piece at a time while they are written, and its configuration. merged makes the adapters
// part of the weights; without it they are the base's, and what was trained whole beside it is left out. dtype is what all tensors are
// written in; "" keeps what the base's files hold (tensors of a base without files are float32).
func (f *Finished) Tensors(ctx context.Context, merged bool, dtype safetensors.DType) ([]safetensors.Entry, json.RawMessage, error) {
	config, params, read := f.Recipe.Config, f.base, f.read
	if merged {
		read = f.merged
	}
	if merged && f.link != nil && len(f.link.untied) > 0 {
		// A head that was tied to an embedding which was trained apart is a tensor of its own.
		var err error
		if config, err = f.link.after(); err != nil {
			return nil, nil, err
		}
		m, err := zoo.New(config)
		if err != nil {
			return nil, nil, err
		}
		params = nn.Params(m.Root())
	}
	usual := f.usualDType()
	out := make([]safetensors.Entry, 0, len(params))
	for _, p := range params {
		dt := dtype
		if dt == "" {
			dt = f.storedDType(p.Name, usual)
		}
		out = append(out, nn.ReadEntry(p, dt, func(start int64, dst []float32) error { return read(ctx, p, start, dst) }))
	}
	return out, config, nil
}

// HeadTensors are the value head's tensors.
func (f *Finished) HeadTensors(ctx context.Context) []safetensors.Entry {
	var out []safetensors.Entry
	for _, p := range f.ValueHead.Unit().Params {
		out = append(out, nn.ReadEntry(p, safetensors.F32, func(start int64, dst []float32) error { return f.headValues(ctx, p, start, dst) }))
	}
	return out
}

// storedDType is the element type of a tensor in the base's files, or what most of them have.
func (f *Finished) storedDType(name string, usual safetensors.DType) safetensors.DType {
	if f.src.set == nil {
		return usual
	}
	i, ok := f.src.set.Info(name)
	if !ok || !writable(i.DType) {
		return usual
	}
	return i.DType
}

func writable(d safetensors.DType) bool {
	return d == safetensors.F32 || d == safetensors.BF16 || d == safetensors.F16
}

// usualDType is what most elements of the base's files are held in.
func (f *Finished) usualDType() safetensors.DType {
	best, n := safetensors.F32, map[safetensors.DType]int64{}
	if f.src.set == nil {
		return best
	}
	for _, name := range f.src.set.Names() {
		i, _ := f.src.set.Info(name)
		if !writable(i.DType) {
			continue
		}
		if n[i.DType] += i.Len(); n[i.DType] > n[best] {
			best = i.DType
		}
	}
	return best
}

// Precision is what the model is computed in on a device, and why: the named one; "" or "auto" is what its last stage was trained in, for files
// what their configuration (torch_dtype), else the files themselves hold, as far as the device multiplies it.
func (f *Finished) Precision(named string, info kernels.Info) (dtype, why string) {
	if named != "" && named != "auto" {
		return named, explain(named, info)
	}
	if d := f.DType(); d != "" && d != "auto" {
		return d, "it was trained in it"
	}
	var c struct {
		Torch string `json:"torch_dtype"`
		DType string `json:"dtype"`
	}
	held := ""
	if json.Unmarshal(f.Recipe.Config, &c) == nil {
		held = cmp.Or(c.DType, c.Torch)
	}
	if held == "" {
		held = map[safetensors.DType]string{safetensors.BF16: "bfloat16", safetensors.F16: "float16"}[f.usualDType()]
	}
	best, ability := Precision(info)
	switch {
	case held != "bfloat16" && held != "float16":
		return fp32, "the model is held in float32"
	case best == fp32:
		return fp32, "the model is held in " + held + "; " + ability
	case held == "float16" && info.Backend != "cpu":
		return fp16, "the model is held in float16"
	case held == "float16":
		return fp32, "the model is held in float16, which the CPU would only round"
	}
	return best, "the model is held in bfloat16; " + ability
}
