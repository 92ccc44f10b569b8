package adapter

import (
	"context"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// savedParam is one parameter of a module that is trained whole: a copy that takes the original's place in the tree. An embedding and a head
// that share the original each get a copy of their own, or keep the original, as with PEFT's ensure_weight_tying=False.
type savedParam struct {
	path           string
	unit           *nn.Unit
	field          **nn.Param
	original, copy *nn.Param
}

// save makes copies of the parameters that Config.Save names.
func (a *Adapters) save(m Model, owner map[*nn.Param]*nn.Unit) error {
	if len(a.Config.Save) == 0 {
		return nil
	}
	var modules []string
	n := len(a.sites)
	visit := func(key string, field **nn.Param, role autograd.Role) {
		module := key[:max(0, strings.LastIndexByte(key, '.'))]
		modules = append(modules, module)
		p := *field
		u := owner[p]
		if u == nil || !a.Config.saved(module) {
			return
		}
		s := &savedParam{path: module, unit: u, field: field, original: p,
			copy: &nn.Param{Name: Prefix + key, Shape: p.Shape, Role: role, Init: p.Init, Frozen: a.fixed[p], Expert: p.Expert}}
		a.fill[s.copy] = func(ctx context.Context, start int64, dst []float32, base Reader) error {
			return base(ctx, p, start, dst)
		}
		a.sites = append(a.sites, s)
	}
	nn.WalkFields(m.Root(), func(key string, field **nn.Param) { visit(key, field, (*field).Role) })
	if path, head := m.TiedHead(); head != nil {
		visit(path+".weight", &head.Weight, autograd.RoleMatrix)
	}
	if len(a.sites) == n {
		return schemas.Errorf(schemas.CodeInvalid, a.Config.key()+".modules_to_save", "no module's path ends in one of %v", a.Config.Save).
			WithHint("modules end in %s", strings.Join(suffixes(modules), ", "))
	}
	return nil
}

func (s *savedParam) where() (string, *nn.Unit) { return s.path, s.unit }

func (s *savedParam) params() []*nn.Param { return []*nn.Param{s.copy} }

func (s *savedParam) attach(on bool) {
	*s.field = s.original
	if on {
		*s.field = s.copy
	}
}
