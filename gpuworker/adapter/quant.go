package adapter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// QuantConfig says how the frozen matrices of the blocks are packed (QLoRA, https://arxiv.org/abs/2305.14314).
type QuantConfig struct {
	// Type is "" (not at all), "nf4" or "int8".
	Type string
	// Double packs the scales of NF4's blocks too.
	Double bool
}

// Types of packed matrices.
const (
	NF4  = "nf4"
	Int8 = "int8"
)

func (q QuantConfig) validate(bad func(key, format string, args ...any)) {
	if q.Type != "" && q.Type != NF4 && q.Type != Int8 {
		bad("quant.type", "%q is unknown (nf4, int8)", q.Type)
	}
}

// quantize packs a whole matrix.
func (q QuantConfig) quantize(v []float32, cols int64) bits {
	if q.Type == Int8 {
		return quantizeInt8(v, int(cols))
	}
	b := quantizeNF4(v)
	if q.Double {
		b = b.double()
	}
	return b
}

// packed stands for the frozen weight of one linear module in few bits. Its parts are parameters whose elements are 32-bit words, so that
// they are stored, sharded and gathered as all others are.
type packed struct {
	layer         *nn.Linear
	codes, scales *nn.Param
	scaleCodes    *nn.Param // nil without double quantization
	kind          kernels.PackedKind
}

// Pack freezes a model and packs the matrices of its blocks, without any adapter. It must be called before storage is allocated; the values of
// what it puts in place of the matrices are Initial's.
func Pack(m Model, q QuantConfig) (*Adapters, error) {
	var errs []error
	q.validate(func(key, format string, args ...any) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, key, format, args...))
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cannot pack the model: %w", err)
	}
	a, owner := newAdapters(m, Config{Quant: q})
	return a, a.pack(m, owner)
}

// pack replaces the weights of all linear modules in blocks.
func (a *Adapters) pack(m Model, owner map[*nn.Param]*nn.Unit) error {
	c := a.Config.Quant
	if c.Type == "" {
		return nil
	}
	adapted := map[*nn.Linear]*nn.LinearAdapter{}
	for _, s := range a.sites {
		switch s := s.(type) {
		case *lora:
			adapted[s.layer] = &s.base
		case *oft:
			adapted[s.layer] = &s.base
		case *bottleneck:
			adapted[s.layer] = &s.base
		}
	}
	shared := &lastQuantized{}
	nn.WalkLinears(m.Root(), func(path string, l *nn.Linear) {
		if l.Weight == nil || a.Config.saved(path) {
			return
		}
		w := l.Weight
		u := owner[w]
		if u == nil || u.Block < 0 || len(w.Shape) != 2 {
			return
		}
		p := a.newPacked(l, shared)
		l.Adapter = p
		if base := adapted[l]; base != nil {
			*base = p
		}
		u.Params = slices.DeleteFunc(u.Params, func(q *nn.Param) bool { return q == w })
		u.Params = append(u.Params, p.Params()...)
		a.packed = append(a.packed, p)
	})
	if len(a.packed) == 0 {
		return schemas.Errorf(schemas.CodeUnsupported, "quant", "the model has no linear modules that could be packed")
	}
	return nil
}

// lastQuantized keeps the matrix that was packed last: its parts are asked for one after another.
type lastQuantized struct {
	w *nn.Param
	b bits
}

func (l *lastQuantized) get(ctx context.Context, w *nn.Param, c QuantConfig, base Reader) (bits, error) {
	if l.w == w {
		return l.b, nil
	}
	v := make([]float32, w.Len())
	if err := base(ctx, w, 0, v); err != nil {
		return bits{}, err
	}
	l.w, l.b = w, c.quantize(v, w.Shape[1])
	return l.b, nil
}

func (a *Adapters) newPacked(l *nn.Linear, shared *lastQuantized) *packed {
	c, w, n := a.Config.Quant, l.Weight, l.Weight.Len()
	part := func(name string, words int64, fill func(b bits, start int64, dst []float32)) *nn.Param {
		p := &nn.Param{Name: w.Name + "." + name, Shape: []int64{words}, Role: autograd.RolePacked, Frozen: true}
		a.fill[p] = func(ctx context.Context, start int64, dst []float32, base Reader) error {
			b, err := shared.get(ctx, w, c, base)
			if err == nil {
				fill(b, start, dst)
			}
			return err
		}
		return p
	}
	ceil := func(n, d int64) int64 { return (n + d - 1) / d }
	codes := func(b bits, start int64, dst []float32) { words(b.codes, start, dst) }
	scales := func(b bits, start int64, dst []float32) { copy(dst, b.scales[start:]) }
	if c.Type == Int8 {
		return &packed{layer: l, kind: kernels.PackedInt8, codes: part("int8", ceil(n, 4), codes), scales: part("absmax", w.Shape[0], scales)}
	}
	p := &packed{layer: l, kind: kernels.PackedNF4, codes: part("nf4", ceil(n, 8), codes)}
	blocks := ceil(n, nf4Block)
	if !c.Double {
		p.scales = part("absmax", blocks, scales)
		return p
	}
	p.scaleCodes = part("absmax", ceil(blocks, 4), func(b bits, start int64, dst []float32) { words(b.scaleCodes, start, dst) })
	p.scales = part("nested_absmax", 256+ceil(blocks, scaleBlock)+1, scales)
	return p
}

// Seen reads the base as the model sees it: what packed matrices expand to.
func (a *Adapters) Seen(base Reader) Reader {
	if len(a.packed) == 0 {
		return base
	}
	shared := &lastQuantized{}
	return func(ctx context.Context, p *nn.Param, start int64, dst []float32) error {
		if !slices.ContainsFunc(a.packed, func(k *packed) bool { return k.layer.Weight == p }) {
			return base(ctx, p, start, dst)
		}
		b, err := shared.get(ctx, p, a.Config.Quant, base)
		if err != nil {
			return err
		}
		if a.Config.Quant.Type == Int8 {
			b.expandInt8(p.Shape[1], start, dst)
		} else {
			b.expandNF4(start, dst)
		}
		return nil
	}
}

// Params implements nn.LinearAdapter.
func (p *packed) Params() []*nn.Param {
	if p.scaleCodes != nil {
		return []*nn.Param{p.codes, p.scaleCodes, p.scales}
	}
	return []*nn.Param{p.codes, p.scales}
}

// Forward implements nn.LinearAdapter.
func (p *packed) Forward(t *nn.Tape, l *nn.Linear, x, residual nn.Value) nn.Value {
	return ops.MatrixLinear(t, x, p.matrix(t), t.Param(l.Bias), residual)
}

func (p *packed) matrix(t *nn.Tape) ops.Matrix {
	return ops.PackedMatrix(ops.Packed{Codes: t.Param(p.codes), Scales: t.Param(p.scales), ScaleCodes: t.Param(p.scaleCodes),
		Rows: p.layer.Out(), Cols: p.layer.In(), Kind: p.kind})
}

// PackedBytes is the memory of packed matrices, and what they would take in bfloat16.
func (a *Adapters) PackedBytes() (packed, bf16 int64) {
	for _, p := range a.packed {
		for _, q := range p.Params() {
			packed += 4 * q.Len()
		}
		bf16 += 2 * p.layer.Weight.Len()
	}
	return packed, bf16
}
