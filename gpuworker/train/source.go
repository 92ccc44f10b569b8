package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// source gives the values of a recipe's parameters by ranges: the base, and above it what every train stage makes of it.
type source struct {
	recipe *Recipe
	q      *kernels.Queue
	root   *os.Root
	// borrowed says that root is a folder of the user's, not scratch space.
	borrowed bool
	set      *safetensors.Set
	file     *nn.Reader
	// vocab, when not nil, gives the base rows for more tokens.
	vocab *vocabulary
	// drawn, when not nil, are the values of a model from scratch as torch draws them.
	drawn *torchValues
	links []*link
	// readers[i] reads what is below the training of link i; the last one is the top.
	readers []adapter.Reader
	plain   bool // the base's own values are what is read

	scratch     *kernels.Arena
	scratchData kernels.Tensor
	host        []float32
}

// link is what one train stage makes of the weights below it.
type link struct {
	stage *schemas.Stage
	// before is the model's configuration that the stage trains.
	before  json.RawMessage
	expand  *adapter.Expansion
	folders []*folder
	resumed *folder
	// adapter is what the stage trains, nil for the methods without.
	adapter *adapter.Config
	// ckpt holds what the stage trained; nil for the stage that is being started.
	ckpt *checkpoint.Reader
	// untied are the heads that this stage's training gave weights of their own.
	untied untied
}

// folder is a PEFT folder.
type folder struct {
	root *os.Root
	// borrowed says that root is a folder of the user's, not scratch space.
	borrowed bool
	file     *adapter.Folder
	config   adapter.Config
	// untied are the heads that merging gives weights of their own.
	untied untied
}

func (f *folder) close() error {
	if f == nil {
		return nil
	}
	var errs []error
	if f.file != nil {
		errs = append(errs, f.file.Close())
	}
	name := f.root.Name()
	if errs = append(errs, f.root.Close()); !f.borrowed {
		errs = append(errs, os.RemoveAll(name))
	}
	return errors.Join(errs...)
}

// openSource fetches the base's files and opens checkpoints and adapter folders below dir. It fills the recipe's Config with that of the
// weights at the top.
func openSource(ctx context.Context, objects store.Objects, q *kernels.Queue, r *Recipe, dir string, progress func(done, total int64)) (s *source, err error) {
	s = &source{recipe: r, q: q, plain: true}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if r.Base != nil {
		if err := s.openBase(ctx, objects, dir, progress); err != nil {
			return s, err
		}
	}
	if r.Base == nil && r.Init != nil {
		if s.drawn, err = drawModel(r.Config, r.Init.Seed); err != nil {
			return s, err
		}
	}
	read := s.base
	for _, l := range r.Layers {
		k, err := s.openLink(ctx, objects, l.Stage, dir)
		if err != nil {
			return s, err
		}
		s.links = append(s.links, k)
		if k.ckpt, err = checkpoint.Open(ctx, objects, l.Manifest, dir); err != nil {
			return s, fmt.Errorf("cannot open the weights of stage %s: %w", l.Stage.Name, err)
		}
		read = k.under(read)
		s.readers = append(s.readers, read)
		if read, err = k.over(read); err != nil {
			return s, err
		}
		s.plain = false
		if r.Config, err = k.after(); err != nil {
			return s, err
		}
	}
	if r.Next != nil {
		k, err := s.openLink(ctx, objects, r.Next, dir)
		if err != nil {
			return s, err
		}
		s.links = append(s.links, k)
		read = k.under(read)
		s.plain = s.plain && k.expand == nil && len(k.folders) == 0
	}
	s.readers = append(s.readers, read)
	return s, nil
}

// next is the link of the stage that is being started, nil without one.
func (s *source) next() *link {
	if s.recipe.Next == nil {
		return nil
	}
	return s.links[len(s.links)-1]
}

func (s *source) openBase(ctx context.Context, objects store.Objects, dir string, progress func(done, total int64)) (err error) {
	r := s.recipe
	if s.root, err = fetchFiles(ctx, objects, r.Tenant, r.Base.Files, dir, progress); err != nil {
		return fmt.Errorf("cannot fetch the base model: %w", err)
	}
	return s.openRoot()
}

// openRoot opens the base model of the source's folder.
func (s *source) openRoot() (err error) {
	r := s.recipe
	f, err := s.root.Open("config.json")
	if err != nil {
		return schemas.Errorf(schemas.CodeModel, "config.json", "the base model's folder has none: %v", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err = errors.Join(err, f.Close()); err != nil || len(raw) > maxConfigBytes {
		return schemas.Errorf(schemas.CodeModel, "config.json", "cannot read the base model's configuration (at most %d bytes): %v", maxConfigBytes, err)
	}
	if raw, err = r.adjust(raw); err != nil {
		return err
	}
	r.Config = raw
	m, err := zoo.New(raw)
	if err != nil {
		return err
	}
	if s.set, err = zoo.OpenWeights(s.root, m.Info()); err != nil {
		return fmt.Errorf("cannot open the base model's weights: %w", err)
	}
	if err := zoo.CheckWeights(m.Info(), nn.Params(m.Root()), s.set); err != nil {
		return fmt.Errorf("the base model's weights do not fit its configuration: %w", err)
	}
	s.file = nn.NewReader(s.set)
	if r.Vocab > 0 {
		if s.vocab, m, err = growVocabulary(m, r.Vocab); err != nil {
			return fmt.Errorf("cannot resize the base model's vocabulary: %w", err)
		}
		r.Config = m.Info().Config
		if r.Init != nil {
			s.vocab.torchDraws = s.vocab.noise(r.Init.Seed)
		}
	}
	return nil
}

// adjust changes the base's configuration as the stage wants it.
func (r *Recipe) adjust(raw []byte) (_ []byte, err error) {
	if x := r.Stretch; x != nil {
		if raw, err = zoo.Stretch(raw, x.Type, x.Length); err != nil {
			return nil, fmt.Errorf("cannot stretch the base model's positions: %w", err)
		}
	}
	if r.ShortAttention {
		if raw, err = zoo.ShortAttention(raw); err != nil {
			return nil, fmt.Errorf("cannot give the base model shifted short attention: %w", err)
		}
	}
	if r.RouterAux > 0 {
		if raw, err = zoo.BalanceExperts(raw, r.RouterAux); err != nil {
			return nil, fmt.Errorf("cannot balance the base model's experts: %w", err)
		}
	}
	return raw, nil
}

// openLink opens what a stage puts between the weights below and its training. It moves the recipe's Config on.
func (s *source) openLink(ctx context.Context, objects store.Objects, stage *schemas.Stage, dir string) (k *link, err error) {
	k = &link{stage: stage}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot prepare the weights of stage %s: %w", stage.Name, err), k.close())
		}
	}()
	t := stage.Train
	if t.ExpandBlocks > 0 {
		if k.expand, err = adapter.NewExpansion(s.recipe.Config, t.ExpandBlocks); err != nil {
			return k, err
		}
		if s.recipe.Config, err = k.expand.Config(s.recipe.Config); err != nil {
			return k, err
		}
	}
	merged, resumed := folderRefs(t)
	for i := range merged {
		f, err := openFolder(ctx, objects, s.recipe.Tenant, &merged[i], dir)
		if err != nil {
			return k, err
		}
		k.folders = append(k.folders, f)
		if s.recipe.Config, f.untied, err = untie(s.recipe.Config, f.config); err != nil {
			return k, err
		}
	}
	k.before = s.recipe.Config
	var c *adapter.Config
	if resumed != nil {
		if k.resumed, err = openFolder(ctx, objects, s.recipe.Tenant, resumed, dir); err != nil {
			return k, err
		}
		c = &k.resumed.config
	}
	if k.adapter, err = AdapterConfig(t, c); err != nil {
		return k, err
	}
	if first := len(s.links) == 0; first && s.vocab != nil && k.adapter != nil && k.resumed == nil && len(k.adapter.Save) == 0 {
		k.adapter.Save = s.vocab.modules()
	}
	if len(s.links) == 0 && s.vocab != nil && k.adapter != nil && k.adapter.Torch != nil {
		k.adapter.Torch.Skip += s.vocab.torchDraws
	}
	return k, nil
}

// openFolder fetches an uploaded PEFT folder.
func openFolder(ctx context.Context, objects store.Objects, tenant string, ref *schemas.Ref, dir string) (f *folder, err error) {
	if len(ref.Files) == 0 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "adapters", "an adapter is given by its files")
	}
	root, err := fetchFiles(ctx, objects, tenant, ref.Files, dir, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the adapter: %w", err)
	}
	return (&folder{root: root}).open()
}

// open reads the folder's configuration and opens its tensors; on failure the folder is closed.
func (f *folder) open() (_ *folder, err error) {
	if f.config, err = adapter.ReadConfig(f.root); err == nil {
		f.file, err = adapter.OpenFolder(f.root)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (k *link) close() error {
	var errs []error
	for _, f := range k.folders {
		errs = append(errs, f.close())
	}
	errs = append(errs, k.resumed.close())
	if k.ckpt != nil {
		errs = append(errs, k.ckpt.Close())
	}
	return errors.Join(errs...)
}

// under puts the stage's expansion and the adapters that it merges over a reader.
func (k *link) under(below adapter.Reader) adapter.Reader {
	if e := k.expand; e != nil {
		b := below
		below = func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
			from, zero := e.Source(p.Name)
			if zero {
				clear(dst)
				return nil
			}
			old := *p
			old.Name = from
			return b(ctx, &old, start, dst)
		}
	}
	for _, f := range k.folders {
		m, b := adapter.NewMerger(f.config, f.file), f.untied.over(below)
		below = func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
			return m.Merge(ctx, p, start, dst, b)
		}
	}
	return below
}

// over puts what the stage trained over a reader.
func (k *link) over(below adapter.Reader) (adapter.Reader, error) {
	if k.adapter == nil {
		return func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
			if k.ckpt.Has(zero.ParamPrefix + p.Name) {
				return k.ckpt.ReadAt(ctx, zero.ParamPrefix+p.Name, start, dst)
			}
			return below(ctx, p, start, dst)
		}, nil
	}
	var err error
	if _, k.untied, err = untie(k.before, *k.adapter); err != nil {
		return nil, err
	}
	m, base := adapter.NewMerger(*k.adapter, k.stored()), k.untied.over(below)
	return func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
		return m.Merge(ctx, p, start, dst, base)
	}, nil
}

// stored is the adapter that the stage trained.
func (k *link) stored() adapter.Stored { return ckptStored{k.ckpt} }

type ckptStored struct{ r *checkpoint.Reader }

// Has implements adapter.Stored.
func (c ckptStored) Has(name string) bool { return c.r.Has(zero.ParamPrefix + name) }

// Read implements adapter.Stored.
func (c ckptStored) Read(ctx context.Context, name string, start int64, dst []float32) error {
	return c.r.ReadAt(ctx, zero.ParamPrefix+name, start, dst)
}

// untied names, by the head that adapters untied from its embedding, the embedding's weight, which is what it began with.
type untied map[string]string

// over reads such a head's weight as that of the embedding below.
func (u untied) over(below adapter.Reader) adapter.Reader {
	return func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
		if from, ok := u[p.Name]; ok {
			old := *p
			old.Name = from
			p = &old
		}
		return below(ctx, p, start, dst)
	}
}

// untie finds the head that merging adapters gives a weight of its own, because they change only what it computes or only what is looked up,
// and the configuration of the merged model. Models whose head is its own, or stays tied, keep theirs.
func untie(config json.RawMessage, c adapter.Config) (json.RawMessage, untied, error) {
	m, err := zoo.New(config)
	if err != nil || !m.Info().Tied {
		return config, nil, err
	}
	a, err := adapter.Apply(m, c)
	if err != nil || a.Untied() == nil {
		return config, nil, err
	}
	if config, err = Untie(config); err != nil {
		return nil, nil, err
	}
	return config, untied{m.Info().HeadKey: a.Untied().Name}, nil
}

// Untie makes a configuration's output head one of its own.
func Untie(config json.RawMessage) (json.RawMessage, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	doc["tie_word_embeddings"] = json.RawMessage("false")
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot encode: %v", err)
	}
	return b, nil
}

// after is the configuration of the weights that the stage leaves.
func (k *link) after() (json.RawMessage, error) {
	if len(k.untied) == 0 {
		return k.before, nil
	}
	return Untie(k.before)
}

// Close frees files and scratch space.
func (s *source) Close() error {
	var errs []error
	for _, k := range s.links {
		errs = append(errs, k.close())
	}
	if s.set != nil {
		errs = append(errs, s.set.Close())
	}
	if s.root != nil {
		name := s.root.Name()
		errs = append(errs, s.root.Close())
		if !s.borrowed {
			errs = append(errs, os.RemoveAll(name))
		}
	}
	if s.scratch != nil {
		errs = append(errs, s.q.Sync())
		s.scratch.Close()
	}
	return errors.Join(errs...)
}

// drawStep is the number of elements that are drawn or read at a time.
const drawStep = 1 << 20

// base reads the base's own values: its files', or drawn ones.
func (s *source) base(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.vocab != nil && s.vocab.old[p.Name] != nil {
		return s.vocab.read(ctx, s, p, start, dst)
	}
	if s.set != nil {
		return s.file.Read(p, start, dst)
	}
	if s.drawn.read(p, start, dst) {
		return nil
	}
	return s.draw(ctx, p, start, dst)
}

// draw draws values of a parameter from the recipe's seed.
func (s *source) draw(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.scratch == nil {
		var err error
		if s.scratch, err = s.q.Device().NewArena("drawn values", 4*drawStep); err != nil {
			return err
		}
		if s.scratchData, err = s.scratch.New(kernels.F32, drawStep); err != nil {
			return err
		}
	}
	for len(dst) > 0 {
		skip := start % 4 // values are drawn four at a time
		n := min(drawStep-skip, int64(len(dst)))
		nn.InitRange(s.q, p, s.scratchData.Slice(0, 0, skip+n), start-skip, s.recipe.Seed)
		if err := kernels.Download(s.q, dst[:n], s.scratchData.Slice(0, skip, skip+n)); err != nil {
			return err
		}
		start, dst = start+n, dst[n:]
	}
	return nil
}

// filler fills the parameters of one model from a source.
type filler struct {
	s *source
	// read gives the values of the model that adapters are applied to.
	read adapter.Reader
	a    *adapter.Adapters
	// own are the values of adapters that exist already; nil: they are drawn, or computed from the base.
	own adapter.Stored
	// params are the adapters' parameters.
	params map[*nn.Param]bool
}

func (s *source) filler(read adapter.Reader, a *adapter.Adapters, own adapter.Stored) *filler {
	f := &filler{s: s, read: read, a: a, own: own, params: map[*nn.Param]bool{}}
	if a != nil {
		for _, p := range a.Params() {
			f.params[p] = true
		}
	}
	return f
}

// fill writes elements [start, start+dst.Numel()) of a parameter to dst on the device, in its type.
func (f *filler) fill(ctx context.Context, p *nn.Param, start int64, dst kernels.Tensor) error {
	s := f.s
	drawn := s.set == nil && s.plain
	if f.params[p] {
		drawn = f.own == nil
	}
	if !f.params[p] && s.drawn != nil {
		drawn = false
	}
	if drawn && !f.a.Derived(p) && dst.DType == kernels.F32 {
		nn.InitRange(s.q, p, dst, start, s.recipe.Seed)
		return s.q.Err()
	}
	total := dst.Numel()
	if s.host == nil {
		s.host = make([]float32, drawStep)
	}
	for at := int64(0); at < total; at += drawStep {
		host := s.host[:min(drawStep, total-at)]
		if err := f.values(ctx, p, start+at, host); err != nil {
			return err
		}
		if err := kernels.UploadFloats(s.q, dst.Slice(0, at, at+int64(len(host))), host); err != nil {
			return err
		}
	}
	return s.q.Err()
}

// values computes elements of a parameter on the host.
func (f *filler) values(ctx context.Context, p *nn.Param, start int64, host []float32) error {
	switch {
	case f.params[p] && f.own != nil:
		return f.own.Read(ctx, p.Name, start, host)
	case f.a.Derived(p):
		_, err := f.a.Initial(ctx, p, start, host, f.read)
		return err
	case f.params[p]:
		return f.s.draw(ctx, p, start, host)
	}
	return f.read(ctx, p, start, host)
}
