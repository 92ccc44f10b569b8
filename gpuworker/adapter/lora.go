package adapter

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Model is what adapters are applied to; every zoo.Model is one.
type Model interface {
	Root() any
	Units() []*nn.Unit
}

// peftPrefix stands before every module path in PEFT's tensor names.
const peftPrefix = "base_model.model."

// Adapters are the LoRA modules of one model.
type Adapters struct {
	Config  Config
	modules []*lora
	blocks  int
}

// lora is the adapter of one linear module: y = x W^T + b + scale * (x A^T) B^T.
type lora struct {
	path  string
	block int
	layer *nn.Linear
	unit  *nn.Unit
	a, b  *nn.Param
	scale float32
}

// Forward implements nn.LinearAdapter.
func (l *lora) Forward(t *nn.Tape, layer *nn.Linear, x, residual nn.Value) nn.Value {
	return ops.LoRALinear(t, x, t.Param(layer.Weight), t.Param(layer.Bias), residual, ops.LoRA{A: t.Param(l.a), B: t.Param(l.b), Scale: l.scale})
}

// Params implements nn.LinearAdapter.
func (l *lora) Params() []*nn.Param { return []*nn.Param{l.a, l.b} }

// Apply freezes the model and gives every targeted linear module a LoRA adapter, whose parameters join the module's unit. It must be
// called before storage is allocated. A is drawn as PEFT does (Kaiming uniform with a = sqrt(5): the bound is 1/sqrt(in)), B is zero.
func Apply(m Model, c Config) (*Adapters, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("cannot apply LoRA: %w", err)
	}
	owner := map[*nn.Param]*nn.Unit{}
	a := &Adapters{Config: c}
	for _, u := range m.Units() {
		for _, p := range u.Params {
			p.Frozen = true
			owner[p] = u
		}
		a.blocks = max(a.blocks, u.Block+1)
	}
	var names []string
	nn.WalkLinears(m.Root(), func(path string, l *nn.Linear) {
		if l.Weight == nil {
			return
		}
		names = append(names, path)
		u := owner[l.Weight]
		if u == nil || !c.matches(path, u.Block < 0) || u.Block >= 0 && c.Layers != nil && !c.Layers(u.Block) {
			return
		}
		mod := &lora{path: path, block: u.Block, layer: l, unit: u, scale: float32(c.Scale())}
		mod.a = &nn.Param{Name: peftPrefix + path + ".lora_A.weight", Shape: []int64{int64(c.Rank), l.In()}, Role: autograd.RoleLoRAA,
			Init: autograd.Init{Kind: autograd.InitUniform, Std: 1 / math.Sqrt(float64(l.In()))}}
		mod.b = &nn.Param{Name: peftPrefix + path + ".lora_B.weight", Shape: []int64{l.Out(), int64(c.Rank)}, Role: autograd.RoleLoRAB}
		l.Adapter = mod
		u.Params = append(u.Params, mod.a, mod.b)
		a.modules = append(a.modules, mod)
	})
	if len(a.modules) == 0 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "lora.targets", "no linear module matches %v", c.Targets).WithHint("modules end in %s", strings.Join(suffixes(names), ", "))
	}
	return a, nil
}

// Params lists the adapters' parameters.
func (a *Adapters) Params() []*nn.Param {
	var out []*nn.Param
	for _, m := range a.modules {
		out = append(out, m.a, m.b)
	}
	return out
}

// Targets lists the distinct last names of the adapted modules; Layers the adapted blocks, nil when all are.
func (a *Adapters) Targets() []string {
	var paths []string
	for _, m := range a.modules {
		paths = append(paths, m.path)
	}
	return suffixes(paths)
}

// Layers lists the adapted blocks in order, or nil when every block is.
func (a *Adapters) Layers() []int {
	var out []int
	for _, m := range a.modules {
		if m.block >= 0 && !slices.Contains(out, m.block) {
			out = append(out, m.block)
		}
	}
	slices.Sort(out)
	if len(out) == a.blocks {
		return nil
	}
	return out
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

// Merge adds every update to its base weight (bound whole on this device), W += scale * B A, and takes the adapters off the model. The
// adapters' parameters leave their units; their storage stays the caller's.
func (a *Adapters) Merge(q *kernels.Queue) error {
	for _, m := range a.modules {
		q.Gemm(kernels.Gemm{A: m.b.Data, B: m.a.Data, C: m.layer.Weight.Data, Alpha: m.scale, Accumulate: 1})
		if err := q.Err(); err != nil {
			return fmt.Errorf("cannot merge %s: %w", m.path, err)
		}
	}
	a.Detach()
	return nil
}

// Detach takes the adapters off the model without merging.
func (a *Adapters) Detach() {
	for _, m := range a.modules {
		m.layer.Adapter = nil
		m.unit.Params = slices.DeleteFunc(m.unit.Params, func(p *nn.Param) bool { return p == m.a || p == m.b })
	}
}
