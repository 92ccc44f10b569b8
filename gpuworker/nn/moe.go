package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// Router maps tokens to the logits of experts. It is a matrix of its own, not a Linear, so that adapters do not find it; architectures
// whose router is a Linear use that.
type Router struct {
	// Weight [experts, hidden], Bias [experts] or nil.
	Weight *Param `hf:"weight"`
	Bias   *Param `hf:"bias"`
	// Correction [experts], or nil, is added to the scores for the choice only. No gradient reaches it.
	Correction *Param `hf:"e_score_correction_bias"`
}

// NewRouter describes a router.
func NewRouter(hidden, experts int, bias, correction bool, std float64) Router {
	l := NewLinear(hidden, experts, bias, std)
	l.Weight.Bare = true
	r := Router{Weight: l.Weight, Bias: l.Bias}
	if correction {
		r.Correction = &Param{Shape: []int64{int64(experts)}, Role: autograd.RoleBias, Frozen: true}
	}
	return r
}

// Route chooses experts for x [n, hidden].
func (r *Router) Route(t *Tape, x Value, c ops.RouteConfig, aux *ops.RouterLoss) *ops.Routing {
	logits := ops.SingleLinear(t, x, t.Param(r.Weight), t.Param(r.Bias))
	var correction autograd.Tensor
	if r.Correction != nil {
		correction = r.Correction.Data
	}
	out := ops.Route(t, logits, correction, c, aux)
	t.Release(logits)
	return out
}

// RouterLogits computes a router that is a Linear, in f32 unless an adapter computes it.
func RouterLogits(t *Tape, l *Linear, x Value) Value {
	if l.Adapter != nil {
		return l.Forward(t, x)
	}
	return ops.SingleLinear(t, x, t.Param(l.Weight), t.Param(l.Bias))
}

// RouteLinear chooses experts for x [n, hidden] by a router that is a Linear.
func RouteLinear(t *Tape, l *Linear, x Value, c ops.RouteConfig, aux *ops.RouterLoss) *ops.Routing {
	logits := RouterLogits(t, l, x)
	out := ops.Route(t, logits, autograd.Tensor{}, c, aux)
	t.Release(logits)
	return out
}

// MixLinear chooses two experts for x [n, hidden] by a router that is a Linear, as ops.Mix does.
func MixLinear(t *Tape, l *Linear, x Value, c ops.MixerConfig, aux *ops.RouterLoss) *ops.Routing {
	logits := RouterLogits(t, l, x)
	out := ops.Mix(t, logits, c, aux)
	t.Release(logits)
	return out
}

// GatedExperts computes residual + the weighted sum of each token's gated experts down(act(gate(x)) * up(x)), one Linear of each kind an
// expert. x [n, hidden] stays the caller's; the routing is released.
func GatedExperts(t *Tape, x, residual Value, r *ops.Routing, gate, up, down []*Linear, act kernels.Activation) Value {
	if act == 0 {
		act = kernels.SiLU
	}
	xs := ops.Permute(t, x, r)
	g := grouped(t, xs, gate, r)
	u := grouped(t, xs, up, r)
	t.Release(xs)
	a := ops.GLU(t, g, u, act)
	t.Release(g, u)
	d := grouped(t, a, down, r)
	t.Release(a)
	y := ops.Combine(t, d, residual, r)
	t.Release(d)
	r.Release(t)
	return y
}

// SwiGLUExperts is GatedExperts of experts with the usual names.
func SwiGLUExperts(t *Tape, x, residual Value, r *ops.Routing, experts []SwiGLU) Value {
	var gate, up, down []*Linear
	act := kernels.SiLU
	for i := range experts {
		e := &experts[i]
		gate, up, down = append(gate, &e.Gate), append(up, &e.Up), append(down, &e.Down)
		act = e.Act
	}
	return GatedExperts(t, x, residual, r, gate, up, down, act)
}

// grouped computes each expert's Linear on its rows. Where one has an adapter, they run one after another.
func grouped(t *Tape, x Value, ls []*Linear, r *ops.Routing) Value {
	var w, b ops.Stack
	for _, l := range ls {
		if l.Adapter != nil {
			return oneByOne(t, x, ls, r)
		}
		w.Each = append(w.Each, t.Param(l.Weight))
		if l.Bias != nil {
			b.Each = append(b.Each, t.Param(l.Bias))
		}
	}
	return ops.GroupedLinear(t, x, w, b, r)
}

func oneByOne(t *Tape, x Value, ls []*Linear, r *ops.Routing) Value {
	bounds := r.Bounds(t)
	if !t.OK() {
		return Value{}
	}
	parts := make([]Value, len(ls))
	for i, l := range ls {
		if bounds[i] == bounds[i+1] {
			continue
		}
		rows := ops.RowRange(t, x, bounds[i], bounds[i+1])
		parts[i] = l.Forward(t, rows)
		t.Release(rows)
	}
	y := ops.StackRows(t, int64(bounds[len(ls)]), ls[0].Out(), parts...)
	t.Release(parts...)
	return y
}

// GateRows computes residual + sigmoid(gate(x)) * y with one gate a row and releases y: the gate of Qwen2-MoE's shared expert.
func GateRows(t *Tape, y Value, gate *Linear, x, residual Value) Value {
	g := RouterLogits(t, gate, x)
	out := ops.RowGate(t, y, g, residual)
	t.Release(g, y)
	return out
}

// NewStack describes a parameter of any shape with values drawn from N(0, std), zeros where std is 0. Of two dimensions it holds biases.
func NewStack(std float64, dims ...int) *Param {
	p := &Param{Role: autograd.RoleMatrix, Init: autograd.Init{Kind: autograd.InitNormal, Std: std}}
	if std == 0 {
		p.Role, p.Init = autograd.RoleBias, autograd.Init{}
	}
	for _, d := range dims {
		p.Shape = append(p.Shape, int64(d))
	}
	return p
}

// StackedExperts are the matrices of all experts in one parameter each: [experts, out, in], or [experts, in, out] when Transposed.
type StackedExperts struct {
	In, InBias, Out, OutBias *Param
	Transposed               bool
}

// Add computes residual + the weighted sum of each token's experts Out(act(In(x))), and releases the routing. unit computes the gated
// unit of a fused projection.
func (e *StackedExperts) Add(t *Tape, x, residual Value, r *ops.Routing, unit func(t *Tape, x Value) Value) Value {
	stack := func(p *Param, transposed bool) ops.Stack {
		return ops.Stack{Whole: t.Param(p), Transposed: transposed}
	}
	xs := ops.Permute(t, x, r)
	h := ops.GroupedLinear(t, xs, stack(e.In, e.Transposed), stack(e.InBias, false), r)
	t.Release(xs)
	a := unit(t, h)
	t.Release(h)
	d := ops.GroupedLinear(t, a, stack(e.Out, e.Transposed), stack(e.OutBias, false), r)
	t.Release(a)
	y := ops.Combine(t, d, residual, r)
	t.Release(d)
	r.Release(t)
	return y
}
