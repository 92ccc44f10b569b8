package adapter

import (
	"context"
	"math"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// torchValues draws initial values as PEFT 0.18 does. A LoRA module is made of two torch.nn.Linear, A and B, which draw their weights;
// then A is drawn again, and B becomes zero. An embedding's matrices are made by randn, then B is drawn again. Modules follow one another
// in the order of torch's named_modules.
type torchValues struct {
	from  *pyrand.Torch
	sites []site

	once sync.Once
	// at is the generator where a parameter's values begin; after where the last module's end.
	at    map[*nn.Param]*pyrand.Torch
	after *pyrand.Torch
}

// drawAsTorch makes the drawn matrices take torch's values.
func (a *Adapters) drawAsTorch() {
	d := a.Config.Torch
	if d == nil {
		return
	}
	t := &torchValues{from: pyrand.NewTorch(d.Seed), sites: a.torchOrder(), at: map[*nn.Param]*pyrand.Torch{}}
	t.from.SkipUniform(d.Skip)
	a.torch = t
	for _, s := range t.sites {
		switch s := s.(type) {
		case *lora:
			if a.fill[s.a] == nil { // PiSSA computes it
				a.fill[s.a] = t.uniform(s.a, kaiming(s.a.Shape[1]))
			}
		case *embedding:
			a.fill[s.b] = t.normal(s.b)
		}
	}
}

// torchOrder is the order of named_modules: embeddings come where the tree has them, which is before the blocks.
func (a *Adapters) torchOrder() []site {
	var first, rest []site
	for _, s := range a.sites {
		if _, ok := s.(*embedding); ok {
			first = append(first, s)
			continue
		}
		rest = append(rest, s)
	}
	return append(first, rest...)
}

// kaiming is the bound of torch.nn.init.kaiming_uniform_(w, a=sqrt(5)) for a fan in of n.
func kaiming(n int64) float64 {
	a := math.Sqrt(5)
	std := math.Sqrt(2/(1+a*a)) / math.Sqrt(float64(n))
	return math.Sqrt(3) * std
}

// run goes through all modules once, which costs a nanosecond or so a number.
func (t *torchValues) run() {
	t.once.Do(func() {
		g := t.from.Clone()
		for _, s := range t.sites {
			switch s := s.(type) {
			case *lora:
				g.SkipUniform(s.a.Len() + s.b.Len())
				if s.drawn() {
					t.at[s.a] = g.Clone()
					g.SkipUniform(s.a.Len())
				}
			case *embedding:
				g.SkipNormal(s.a.Len())
				g.SkipNormal(s.b.Len())
				t.at[s.b] = g.Clone()
				g.SkipNormal(s.b.Len())
			}
		}
		t.after = g
	})
}

func (t *torchValues) uniform(p *nn.Param, bound float64) filler {
	return func(_ context.Context, start int64, dst []float32, _ Reader) error {
		t.run()
		g := t.at[p].Clone()
		g.SkipUniform(start)
		g.Uniform(dst, -bound, bound)
		return nil
	}
}

func (t *torchValues) normal(p *nn.Param) filler {
	return func(_ context.Context, start int64, dst []float32, _ Reader) error {
		t.run()
		all := make([]float32, p.Len()) // blocks of 16 do not begin where ranges do; the matrix is small
		t.at[p].Clone().Normal(all, 0, 1)
		copy(dst, all[start:])
		return nil
	}
}

// Torch is torch's generator after all adapters were made (Config.Torch), nil without.
func (a *Adapters) Torch() *pyrand.Torch {
	if a == nil || a.torch == nil {
		return nil
	}
	a.torch.run()
	return a.torch.after.Clone()
}

// Draws is the number of 32-bit numbers that making the adapters takes from torch's generator.
func (a *Adapters) Draws() int64 {
	n := int64(0)
	for _, s := range a.sites {
		switch s := s.(type) {
		case *lora:
			n += s.a.Len() + s.b.Len()
			if s.drawn() {
				n += s.a.Len()
			}
		case *embedding:
			n += pyrand.NormalDraws(s.a.Len()) + 2*pyrand.NormalDraws(s.b.Len())
		}
	}
	return n
}
