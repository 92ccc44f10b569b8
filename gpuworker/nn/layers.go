package nn

import (
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// Linear is y = x W^T + b with W of shape [out, in]. An adapter may replace the operation.
type Linear struct {
	Weight *Param `hf:"weight"`
	Bias   *Param `hf:"bias"`
	// Adapter, when not nil, computes the layer in place of the plain product.
	Adapter LinearAdapter
	// Drop, when not nil, acts on the output while training, before the residual is added.
	Drop *Dropout
}

// NewConv1D describes a layer that checkpoints store transposed, [in, out], as GPT-2's Conv1D. In memory it is like any other.
func NewConv1D(in, out int, bias bool, std float64) Linear {
	l := NewLinear(in, out, bias, std)
	l.Weight.Transposed = true
	return l
}

// NewLinear describes a layer with weights drawn from N(0, std) and zero bias.
func NewLinear(in, out int, bias bool, std float64) Linear {
	l := Linear{Weight: &Param{Shape: []int64{int64(out), int64(in)}, Role: autograd.RoleMatrix, Init: autograd.Init{Kind: autograd.InitNormal, Std: std}}}
	if bias {
		l.Bias = &Param{Shape: []int64{int64(out)}, Role: autograd.RoleBias}
	}
	return l
}

// In and Out are the layer's widths.
func (l *Linear) In() int64 { return l.Weight.Shape[1] }

// Out is the number of output features.
func (l *Linear) Out() int64 { return l.Weight.Shape[0] }

// Forward computes x [n, in] to [n, out].
func (l *Linear) Forward(t *Tape, x Value) Value { return l.Add(t, x, Value{}) }

// Add computes residual + Linear(x) in one operation; an absent residual counts as zero.
func (l *Linear) Add(t *Tape, x, residual Value) Value {
	if l.Drop.Acts(t) {
		return l.Drop.Add(t, l.add(t, x, Value{}), residual)
	}
	return l.add(t, x, residual)
}

func (l *Linear) add(t *Tape, x, residual Value) Value {
	if l.Adapter != nil {
		return l.Adapter.Forward(t, l, x, residual)
	}
	return ops.Linear(t, x, t.Param(l.Weight), t.Param(l.Bias), residual)
}

// Norm normalizes rows, or each head of each row.
type Norm struct {
	// Weight [dim], [heads, dim] (one row a head), or nil; Bias [dim], layer norms only, or nil.
	Weight *Param `hf:"weight"`
	Bias   *Param `hf:"bias"`
	ops.NormConfig
}

// NewRMSNorm describes a root-mean-square norm over dim elements with weights of one.
func NewRMSNorm(dim int, eps float64) Norm {
	return Norm{NormConfig: ops.NormConfig{Eps: float32(eps)}, Weight: ones(dim)}.Own()
}

// Own says that the reference's norm is a class of its own, not torch.nn.LayerNorm or one that is made of it; RMS norms are.
func (n Norm) Own() Norm {
	n.Weight.Bare = true
	return n
}

// NewLayerNorm describes a layer norm over dim elements with weights of one and, with bias, biases of zero.
func NewLayerNorm(dim int, eps float64, bias bool) Norm {
	n := Norm{NormConfig: ops.NormConfig{Eps: float32(eps), Layer: true}, Weight: ones(dim)}
	if bias {
		n.Bias = &Param{Shape: []int64{int64(dim)}, Role: autograd.RoleBias}
	}
	return n
}

func ones(dims ...int) *Param {
	p := &Param{Role: autograd.RoleNorm, Init: autograd.Init{Kind: autograd.InitOnes}}
	for _, d := range dims {
		p.Shape = append(p.Shape, int64(d))
	}
	return p
}

// OnePlus makes the norm multiply by 1 + weight (Gemma), with weights of zero at first.
func (n Norm) OnePlus() Norm {
	n.Offset = 1
	n.Weight.Init = autograd.Init{Kind: autograd.InitZeros}
	return n
}

// PerHead makes the norm work on each head of dim elements of a row. With heads > 0 each head has its own weights.
func (n Norm) PerHead(dim, heads int) *Norm {
	n.Dim = dim
	if heads > 0 {
		own := n.Weight.Bare
		n.Weight = ones(heads, dim)
		n.Weight.Bare = own
	}
	return &n
}

// Forward normalizes x [n, d].
func (n *Norm) Forward(t *Tape, x Value) Value {
	return ops.Norm(t, x, []Value{t.Param(n.Weight)}, t.Param(n.Bias), n.NormConfig)
}

// Embedding maps ids to rows of W [vocab, dim].
type Embedding struct {
	Weight *Param `hf:"weight"`
	// Adapter, when not nil, computes the lookup in place of the plain one.
	Adapter EmbeddingAdapter
	// Scale multiplies what is looked up, 0 means 1.
	Scale float32
	// Padding, when not nil, is the row that learns nothing from being looked up: torch's padding_idx. A tied head's gradient still
	// reaches it.
	Padding *int32
}

// NewEmbedding describes a table with rows drawn from N(0, std).
func NewEmbedding(vocab, dim int, std float64) Embedding {
	return Embedding{Weight: &Param{Shape: []int64{int64(vocab), int64(dim)}, Role: autograd.RoleEmbedding, Init: autograd.Init{Kind: autograd.InitNormal, Std: std}}}
}

// Forward looks up ids as [n, dim], times the scale.
func (e *Embedding) Forward(t *Tape, ids []int32) Value {
	scale := e.Scale
	if scale == 0 {
		scale = 1
	}
	rows := t.Ints(ids, int64(len(ids)))
	learn := rows
	if e.Padding != nil && slices.Contains(ids, *e.Padding) {
		masked := slices.Clone(ids)
		for i, id := range masked {
			if id == *e.Padding {
				masked[i] = -1
			}
		}
		learn = t.Ints(masked, int64(len(masked)))
	}
	if e.Adapter == nil {
		return ops.Embedding(t, rows, learn, t.Param(e.Weight), scale)
	}
	y := e.Adapter.Forward(t, e, rows, learn)
	if scale == 1 {
		return y
	}
	z := ops.Add(t, Value{}, y, scale)
	t.Release(y)
	return z
}
