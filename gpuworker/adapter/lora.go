package adapter

import (
	"context"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// lora is the adapter of one linear module: y = x W^T + b + scale * (x A^T) B^T, with DoRA scaled by rows to the magnitudes m.
type lora struct {
	path  string
	layer *nn.Linear
	unit  *nn.Unit
	a, b  *nn.Param
	m     *nn.Param // nil without DoRA
	scale float32
	base  nn.LinearAdapter // what computes the base when it is packed
	drop  dropout
	pissa bool
}

// drawn reports whether A is drawn after the module was made; PiSSA computes it instead.
func (l *lora) drawn() bool { return !l.pissa }

func (a *Adapters) newLoRA(path string, l *nn.Linear, u *nn.Unit) *lora {
	rank, s := a.Config.of(path)
	mod := &lora{path: path, layer: l, unit: u, scale: float32(s), drop: a.dropout(path), pissa: a.Config.PiSSA}
	mod.a = &nn.Param{Name: Prefix + path + ".lora_A.weight", Shape: []int64{int64(rank), l.In()}, Role: autograd.RoleLoRAA,
		Init: autograd.Init{Kind: autograd.InitUniform, Std: 1 / math.Sqrt(float64(l.In()))}}
	mod.b = &nn.Param{Name: Prefix + path + ".lora_B.weight", Shape: []int64{l.Out(), int64(rank)}, Role: autograd.RoleLoRAB}
	if a.Config.PiSSA {
		a.pissa(mod, rank, s)
	}
	if a.Config.DoRA {
		mod.m = &nn.Param{Name: Prefix + path + ".lora_magnitude_vector", Shape: []int64{l.Out()}, Role: autograd.RoleMagnitude}
		w := l.Weight
		a.fill[mod.m] = func(ctx context.Context, start int64, dst []float32, base Reader) error {
			return rowNorms(ctx, w, start, dst, base)
		}
	}
	return mod
}

// rowNorms computes the L2 norms of rows [start, start+len(dst)) of a weight in float64.
func rowNorms(ctx context.Context, w *nn.Param, start int64, dst []float32, base Reader) error {
	row := make([]float32, w.Shape[1])
	for i := range dst {
		if err := base(ctx, w, (start+int64(i))*w.Shape[1], row); err != nil {
			return err
		}
		var s float64
		for _, v := range row {
			s += float64(float64(v) * float64(v))
		}
		dst[i] = float32(math.Sqrt(s))
	}
	return nil
}

func (l *lora) where() (string, *nn.Unit) { return l.path, l.unit }

func (l *lora) params() []*nn.Param {
	if l.m != nil {
		return []*nn.Param{l.a, l.b, l.m}
	}
	return []*nn.Param{l.a, l.b}
}

func (l *lora) weight() *nn.Param { return l.layer.Weight }

func (l *lora) attach(on bool) { attach(l.layer, l, l.base, on) }

// attach gives a layer its adapter, or leaves it with what computes its base.
func attach(layer *nn.Linear, with, base nn.LinearAdapter, on bool) {
	layer.Adapter = base
	if on {
		layer.Adapter = with
	}
}

// Params implements nn.LinearAdapter.
func (l *lora) Params() []*nn.Param { return l.params() }

// matrix is a layer's base weight as operations use it.
func matrix(t *nn.Tape, l *nn.Linear, base nn.LinearAdapter) ops.Matrix {
	if p, ok := base.(*packed); ok {
		return p.matrix(t)
	}
	return ops.Dense(t.Param(l.Weight))
}

// Forward implements nn.LinearAdapter.
func (l *lora) Forward(t *nn.Tape, layer *nn.Linear, x, residual nn.Value) nn.Value {
	up := ops.LoRA{A: t.Param(l.a), B: t.Param(l.b), Scale: l.scale}
	w, bias := matrix(t, layer, l.base), t.Param(layer.Bias)
	dropped, ok := l.drop.apply(t, x)
	if l.m == nil {
		up.X = dropped
		y := ops.LoRALinear(t, x, w, bias, residual, up)
		t.Release(dropped)
		return y
	}
	m := t.Param(l.m)
	if !ok {
		return ops.DoRALinear(t, x, w, bias, residual, up, m)
	}
	// With dropout the base sees x and the rest its dropped twin x': W x + (m/n - 1) W x' + m/n * scale * B A x'.
	y := ops.MatrixLinear(t, x, w, bias, residual)
	z := ops.DoRALinear(t, dropped, w, nn.Value{}, y, up, m)
	t.Release(y)
	v := ops.MatrixLinear(t, dropped, w, nn.Value{}, nn.Value{})
	out := ops.Add(t, z, v, -1)
	t.Release(z, v, dropped)
	return out
}

// Operands implements nn.HeadAdapter: [x, scale * x A^T] and [W, B], whose rows DoRA scales.
func (l *lora) Operands(t *nn.Tape, layer *nn.Linear, x nn.Value) (x2, w2 nn.Value) {
	in, w := x, t.Param(layer.Weight)
	d, dropped := l.drop.apply(t, x)
	if dropped {
		in = d
	}
	h := ops.Linear(t, in, t.Param(l.a), nn.Value{}, nn.Value{})
	if l.m == nil {
		x2 = ops.Concat(t, x, h, 1, l.scale)
		t.Release(h)
		return x2, ops.Concat(t, w, t.Param(l.b), 1, 1)
	}
	x2 = ops.Concat(t, in, h, 1, l.scale)
	t.Release(h)
	w2 = ops.DoRARows(t, w, ops.LoRA{A: t.Param(l.a), B: t.Param(l.b), Scale: l.scale}, t.Param(l.m))
	if dropped {
		// As in Forward: the adapted head sees x', the base what x has more.
		rest := ops.Add(t, x, d, -1)
		y, v := ops.Concat(t, x2, rest, 1, 1), ops.Concat(t, w2, w, 1, 1)
		t.Release(rest, x2, w2)
		x2, w2 = y, v
	}
	return x2, w2
}
