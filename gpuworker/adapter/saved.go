package adapter

import (
	"context"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// savedParam is one parameter of a module that is trained whole: a copy that takes the original's place in the tree. A head that is tied
// to the embedding keeps the original, as with PEFT's ensure_weight_tying=False.
type savedParam struct {
	path           string
	unit           *nn.Unit
	field          **nn.Param
	original, copy *nn.Param
	tied           *nn.Embedding // the embedding that a head shares, else nil
}

// save makes copies of the parameters that Config.Save names.
func (a *Adapters) save(m Model, owner map[*nn.Param]*nn.Unit) error {
	if len(a.Config.Save) == 0 {
		return nil
	}
	tokens, tied := tiedEmbedding(m, owner)
	var modules []string
	n := len(a.sites)
	nn.WalkFields(m.Root(), func(key string, field **nn.Param) {
		module := key[:max(0, strings.LastIndexByte(key, '.'))]
		modules = append(modules, module)
		p := *field
		u := owner[p]
		if u == nil || !a.Config.saved(module) {
			return
		}
		s := &savedParam{path: module, unit: u, field: field, original: p,
			copy: &nn.Param{Name: Prefix + p.Name, Shape: p.Shape, Role: p.Role, Init: p.Init, Frozen: a.fixed[p], Expert: p.Expert}}
		if tokens != nil && tokens.Weight == p && tied {
			s.tied = tokens
		}
		a.fill[s.copy] = func(ctx context.Context, start int64, dst []float32, base Reader) error {
			return base(ctx, p, start, dst)
		}
		a.sites = append(a.sites, s)
	})
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
	if s.tied != nil {
		s.tied.Tied = s.original
	}
}

// untied reports whether a head keeps the original.
func (s *savedParam) untied() bool { return s.tied != nil }

// tiedEmbedding is the model's table of tokens, the first embedding, and whether the output head shares it: no linear module outside of
// the blocks has its shape.
func tiedEmbedding(m Model, owner map[*nn.Param]*nn.Unit) (tokens *nn.Embedding, tied bool) {
	nn.WalkEmbeddings(m.Root(), func(_ string, e *nn.Embedding) {
		if tokens == nil && e.Weight != nil {
			tokens = e
		}
	})
	if tokens == nil {
		return nil, false
	}
	tied = true
	nn.WalkLinears(m.Root(), func(_ string, l *nn.Linear) {
		if l.Weight != nil && owner[l.Weight] != nil && owner[l.Weight].Block < 0 && slices.Equal(l.Weight.Shape, tokens.Weight.Shape) {
			tied = false
		}
	})
	return tokens, tied
}
