package adapter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Model is what adapters are applied to; every zoo.Model is one.
type Model interface {
	Root() any
	Units() []*nn.Unit
	TiedHead() (path string, head *nn.Linear)
}

// Prefix stands before every module path in PEFT's tensor names.
const Prefix = "base_model.model."

// Reader gives elements [start, start+len(dst)) of a base parameter.
type Reader func(ctx context.Context, p *nn.Param, start int64, dst []float32) error

// filler computes elements of a parameter's initial value from the base.
type filler func(ctx context.Context, start int64, dst []float32, base Reader) error

// site is one adapted place of the module tree.
type site interface {
	// where is the module's path and the unit that its parameters belong to.
	where() (path string, u *nn.Unit)
	// params are the adapter's own parameters.
	params() []*nn.Param
	// attach puts the adapter into the tree, or takes it out.
	attach(on bool)
}

// Adapters are the adapters of one model.
type Adapters struct {
	Config Config

	sites  []site
	blocks int
	base   map[string]*nn.Param // parameters of the base by name
	fixed  map[*nn.Param]bool   // parameters of the base that no method trains
	// modules are the paths of all modules of the base.
	modules []string
	// tied is the weight that embedding and head of the base share, nil where each has its own.
	tied  *nn.Param
	fill  map[*nn.Param]filler
	torch *torchValues // nil unless Config.Torch is set
	// packed are matrices of the base that packed ones stand for.
	packed []*packed
}

// Apply freezes the model and gives every targeted module an adapter, whose parameters join the module's unit. It must be called before
// storage is allocated. LoRA's A is drawn as PEFT does (Kaiming uniform with a = sqrt(5): the bound is 1/sqrt(in)), B is zero; what is
// computed from the base instead, or drawn as torch does (see Initial) is left to the caller to fill in.
func Apply(m Model, c Config) (*Adapters, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("cannot apply adapters: %w", err)
	}
	a, owner := newAdapters(m, c)
	names, err := a.adapt(m, owner)
	if err != nil {
		return nil, err
	}
	a.drawAsTorch()
	adapted := len(a.sites)
	if err := a.save(m, owner); err != nil {
		return nil, err
	}
	if adapted == 0 && (len(a.sites) == 0 || !c.all()) {
		return nil, schemas.Errorf(schemas.CodeInvalid, c.key()+".targets", "no module matches %v", c.Targets).WithHint("modules end in %s", strings.Join(suffixes(names), ", "))
	}
	if err := a.pack(m, owner); err != nil {
		return nil, err
	}
	for _, s := range a.sites {
		s.attach(true)
		_, u := s.where()
		u.Params = append(u.Params, s.params()...)
		if of, ok := s.(interface{ weight() *nn.Param }); ok {
			for _, p := range s.params() {
				p.Expert = of.weight().Expert
			}
		}
	}
	return a, nil
}

// newAdapters freezes the model and lists what it has; owner are the units of its parameters.
func newAdapters(m Model, c Config) (a *Adapters, owner map[*nn.Param]*nn.Unit) {
	a = &Adapters{Config: c, base: map[string]*nn.Param{}, fixed: map[*nn.Param]bool{}, fill: map[*nn.Param]filler{}}
	owner = map[*nn.Param]*nn.Unit{}
	for _, u := range m.Units() {
		for _, p := range u.Params {
			a.fixed[p] = p.Frozen
			p.Frozen = true
			owner[p] = u
			a.base[p.Name] = p
		}
		a.blocks = max(a.blocks, u.Block+1)
	}
	nn.WalkModules(m.Root(), func(path string) { a.modules = append(a.modules, path) })
	if _, head := m.TiedHead(); head != nil {
		a.tied = head.Weight
	}
	return a, owner
}

func (c Config) key() string {
	if c.Kind == "" {
		return string(KindLoRA)
	}
	return string(c.Kind)
}

// adapt makes the sites of targeted modules and returns the names of all that could have been targets.
func (a *Adapters) adapt(m Model, owner map[*nn.Param]*nn.Unit) (names []string, err error) {
	c := a.Config
	spread, err := c.spreadOver(a.blocks)
	if err != nil {
		return nil, err
	}
	wanted := func(path string, w *nn.Param, linear bool) (*nn.Unit, bool) {
		names = append(names, path)
		u := owner[w]
		return u, u != nil && (spread == nil && c.matches(path, linear) || spread != nil && spread(path, linear)) && (u.Block < 0 || c.Layers == nil || c.Layers(u.Block))
	}
	linear := func(path string, l *nn.Linear) {
		if l.Weight == nil || err != nil {
			return
		}
		u, ok := wanted(path, l.Weight, true)
		if c.Kind == KindBottleneck {
			ok = ok && !c.all() || u != nil && u.Block >= 0 && c.Bottleneck.after(path) && (c.Layers == nil || c.Layers(u.Block))
		}
		if !ok {
			return
		}
		var s site
		switch c.Kind {
		case KindOFT:
			s, err = a.newOFT(path, l, u)
		case KindBottleneck:
			s = a.newBottleneck(path, l, u)
		default:
			if c.PiSSA && l.Weight == a.tied {
				err = schemas.Errorf(schemas.CodeUnsupported, "lora.targets", "PiSSA is not supported for %s, which shares its weight with the embedding", path).
					WithHint("leave it out of the targets")
			}
			s = a.newLoRA(path, l, u)
		}
		a.sites = append(a.sites, s)
	}
	nn.WalkLinears(m.Root(), linear)
	if path, head := m.TiedHead(); head != nil {
		linear(path, head)
	}
	nn.WalkEmbeddings(m.Root(), func(path string, e *nn.Embedding) {
		if e.Weight == nil || err != nil || c.Kind != "" && c.Kind != KindLoRA {
			return
		}
		if u, ok := wanted(path, e.Weight, false); ok {
			s, e2 := a.newEmbedding(path, e, u)
			a.sites, err = append(a.sites, s), e2
		}
	})
	return names, err
}

// Params lists the adapters' parameters.
func (a *Adapters) Params() []*nn.Param {
	var out []*nn.Param
	for _, s := range a.sites {
		out = append(out, s.params()...)
	}
	return out
}

// Initial computes elements [start, start+len(dst)) of a parameter whose initial value comes from the base: copies of modules that are
// trained whole, DoRA's magnitudes, PiSSA's factors and residuals, packed matrices. ok is false when the parameter is none of those: it
// is the base's own, or drawn (nn.InitRange). base reads the base as it was before.
func (a *Adapters) Initial(ctx context.Context, p *nn.Param, start int64, dst []float32, base Reader) (ok bool, err error) {
	f, ok := a.fill[p]
	if !ok {
		return false, nil
	}
	if p.Role != autograd.RolePacked {
		base = a.Seen(base)
	}
	if err := f(ctx, start, dst, base); err != nil {
		return true, fmt.Errorf("cannot compute the initial value of %s: %w", p.Name, err)
	}
	return true, nil
}

// Derived reports whether Initial computes a parameter.
func (a *Adapters) Derived(p *nn.Param) bool { return a != nil && a.fill[p] != nil }

// Adapted lists the base parameters that the adapters change.
func (a *Adapters) Adapted() []*nn.Param {
	var out []*nn.Param
	for _, s := range a.sites {
		if p, ok := s.(*savedParam); ok && p.original == a.tied {
			continue
		}
		out = append(out, a.merged(s)...)
	}
	return out
}

// Targets lists the distinct last names of the adapted modules.
func (a *Adapters) Targets() []string {
	return suffixes(a.paths())
}

// Layers lists the adapted blocks in order, or nil when every block is.
func (a *Adapters) Layers() []int {
	var out []int
	for _, s := range a.sites {
		_, u := s.where()
		if _, ok := s.(*savedParam); !ok && u.Block >= 0 && !slices.Contains(out, u.Block) {
			out = append(out, u.Block)
		}
	}
	slices.Sort(out)
	if len(out) == a.blocks {
		return nil
	}
	return out
}

// paths lists the adapted modules.
func (a *Adapters) paths() []string {
	var out []string
	for _, s := range a.sites {
		if _, ok := s.(*savedParam); !ok {
			path, _ := s.where()
			out = append(out, path)
		}
	}
	return out
}

// outside reports whether a module outside of the blocks is adapted.
func (a *Adapters) outside() bool {
	return slices.ContainsFunc(a.sites, func(s site) bool {
		_, u := s.where()
		_, saved := s.(*savedParam)
		return !saved && u.Block < 0
	})
}

func suffixes(paths []string) []string {
	var out []string
	for _, p := range paths {
		s := p[strings.LastIndexByte(p, '.')+1:]
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// Enable switches all adapters, and the modules that are trained beside them, on or off: off, the model computes what its base does.
// Storage and units stay as they are.
func (a *Adapters) Enable(on bool) {
	for _, s := range a.sites {
		s.attach(on)
	}
}

// Detach takes the adapters off the model without merging.
func (a *Adapters) Detach() {
	gone := map[*nn.Param]bool{}
	for _, s := range a.sites {
		s.attach(false)
		for _, p := range s.params() {
			gone[p] = true
		}
	}
	for _, s := range a.sites {
		_, u := s.where()
		u.Params = slices.DeleteFunc(u.Params, func(p *nn.Param) bool { return gone[p] })
	}
}

// Untied is the weight that the base's embedding and head share where adapters change what only one of them computes, else nil. Merged, the
// model has a head of its own, which the caller of a Merger writes beside: it begins with this weight.
func (a *Adapters) Untied() *nn.Param {
	for _, s := range a.sites {
		if slices.Contains(a.merged(s), a.tied) {
			return a.tied
		}
	}
	return nil
}

// Merge makes every adapter part of its base weight (bound whole on this device) and takes the adapters off the model. The adapters'
// parameters leave their units; their storage stays the caller's. Where Untied is not nil, the embedding or the head keeps its trained copy;
// for another adapter of their weight there is no memory.
func (a *Adapters) Merge(ctx context.Context, q *kernels.Queue) error {
	if len(a.packed) > 0 {
		return schemas.Errorf(schemas.CodeUnsupported, "quant", "adapters cannot be merged into a packed base: merge them into the base as it was before")
	}
	c := a.Config
	c.PiSSA = false // the base on the device is the residual
	m := NewMerger(c, onDevice{q, a.byName()})
	read := deviceReader(q)
	var apart []*savedParam
	for _, s := range a.sites {
		if slices.Contains(a.merged(s), a.tied) {
			p, ok := s.(*savedParam)
			if !ok {
				path, _ := s.where()
				return schemas.Errorf(schemas.CodeUnsupported, path, "shares its weight: its adapter cannot be merged on the device, only into files")
			}
			apart = append(apart, p)
			continue
		}
		for _, w := range a.merged(s) {
			buf := make([]float32, w.Len())
			if err := m.Merge(ctx, w, 0, buf, read); err != nil {
				return err
			}
			if err := kernels.UploadFloats(q, w.Data.Reshape(w.Len()), buf); err != nil {
				return fmt.Errorf("cannot merge %s: %w", w.Name, err)
			}
		}
	}
	a.Detach()
	for _, p := range apart {
		p.attach(true)
		p.copy.Name = strings.TrimPrefix(p.copy.Name, Prefix)
		p.unit.Params = append(p.unit.Params, p.copy)
	}
	return nil
}

// byName lists the adapters' parameters by name.
func (a *Adapters) byName() map[string]*nn.Param {
	out := map[string]*nn.Param{}
	for _, p := range a.Params() {
		out[p.Name] = p
	}
	return out
}

// merged are the base parameters that a site changes.
func (a *Adapters) merged(s site) []*nn.Param {
	switch s := s.(type) {
	case *savedParam:
		return []*nn.Param{s.original}
	case *embedding:
		return []*nn.Param{s.layer.Weight}
	case interface{ weight() *nn.Param }:
		return []*nn.Param{s.weight()}
	}
	return nil
}
