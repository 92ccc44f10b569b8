package ops

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

type permute struct {
	x, y autograd.Value
	r    *Routing
}

// Permute copies the rows of x [n, d] to where their experts find them: [n*k, d], ordered by expert.
func Permute(t *autograd.Tape, x autograd.Value, r *Routing) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &permute{x: x, r: r}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, r.Tokens.Numel(), xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	op.Rematerialize(t, yd)
	t.Check("permutation", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x, r.plan)
	return op.y
}

// Name implements autograd.Op.
func (op *permute) Name() string { return "permutation" }

// Rematerialize implements autograd.Rematerializer.
func (op *permute) Rematerialize(t *autograd.Tape, out autograd.Tensor) {
	t.Queue().GatherRows(kernels.GatherRows{X: t.Data(op.x), IDs: op.r.Tokens, Y: out, Scale: 1})
}

// Backward implements autograd.Op: a token sums the gradients of its choices in their order.
func (op *permute) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().MoECombineFwd(kernels.MoECombineFwd{X: dy, Place: op.r.Place, Y: g, K: int64(op.r.K), Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}

type combine struct {
	x, residual, y autograd.Value
	r              *Routing
}

// Combine computes residual + the weighted sum of each token's experts: x [n*k, d] ordered by expert, result [n, d].
func Combine(t *autograd.Tape, x, residual autograd.Value, r *Routing) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &combine{x: x, residual: residual, r: r}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, r.Place.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	q := t.Queue()
	if residual.Valid() {
		q.Copy(kernels.Copy{X: t.Data(residual), Y: yd})
	}
	q.MoECombineFwd(kernels.MoECombineFwd{X: xd, Place: r.Place, Weights: t.Data(r.Weights), Y: yd, K: int64(r.K), Accumulate: kernels.Flag(residual.Valid())})
	t.Check("combination", xd)
	saved := []autograd.Value{r.Weights, r.plan, {}}
	if t.Needs(r.Weights) {
		saved[2] = x
	}
	op.y = t.Record(op, yd, h, t.Needs(x, residual, r.Weights), saved...)
	return op.y
}

// Name implements autograd.Op.
func (op *combine) Name() string { return "combination" }

// Backward implements autograd.Op.
func (op *combine) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	p := kernels.MoECombineBwd{Place: op.r.Place, Weights: t.Data(op.r.Weights), DY: dy, K: int64(op.r.K)}
	if g, acc, ok := t.GradFor(op.r.Weights); ok {
		p.X, p.DWeights, p.DWeightsAccumulate = t.Data(op.x), g, kernels.Flag(acc)
	}
	if g, acc, ok := t.GradFor(op.x); ok {
		p.DX, p.DXAccumulate = g, kernels.Flag(acc)
	}
	t.Queue().MoECombineBwd(p)
	passResidual(t, op.y, op.residual)
	return t.Queue().Err()
}

type rowGate struct {
	x, gate, residual, y, weights autograd.Value
	ids                           autograd.Tensor
	plan                          autograd.Value
}

// RowGate computes residual + sigmoid(gate) * x with one gate a row: x [n, d], gate [n, 1]. The residual may be absent.
func RowGate(t *autograd.Tape, x, gate, residual autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &rowGate{x: x, gate: gate, residual: residual}
	xd := t.Data(x)
	n := xd.Dim[0]
	ids, plan := ints(t, n)
	sd, sh := t.Out(2, n)
	yd, h := t.OutLike(xd, n, xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	op.ids, op.plan, op.weights = ids[0].Reshape(n, 1), plan, t.Hold(sd, sh)
	gd, gh := single(t, gate)
	if !t.OK() {
		return autograd.Value{}
	}
	q := t.Queue()
	// A router with one expert: its weight is the sigmoid of its logit.
	q.MoERouteFwd(kernels.MoERouteFwd{Logits: gd, Scores: sd.Slice(0, 0, 1).Reshape(n, 1), Weights: sd.Slice(0, 1, 2).Reshape(n, 1), IDs: op.ids,
		K: 1, Score: kernels.RouteSigmoid})
	if residual.Valid() {
		q.Copy(kernels.Copy{X: t.Data(residual), Y: yd})
	}
	q.MoECombineFwd(kernels.MoECombineFwd{X: xd, Weights: sd.Select(0, 1), Y: yd, K: 1, Accumulate: kernels.Flag(residual.Valid())})
	t.Check("row gate", xd, gd)
	t.Free(&gh)
	op.y = t.Record(op, yd, h, t.Needs(x, gate, residual), x, op.weights, op.plan)
	t.Release(op.weights, op.plan)
	return op.y
}

// Name implements autograd.Op.
func (op *rowGate) Name() string { return "row gate" }

// Backward implements autograd.Op.
func (op *rowGate) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	n := dy.Dim[0]
	q := t.Queue()
	w := t.Data(op.weights)
	p := kernels.MoECombineBwd{Weights: w.Select(0, 1), DY: dy, K: 1}
	if g, acc, ok := t.GradFor(op.x); ok {
		p.DX, p.DXAccumulate = g, kernels.Flag(acc)
	}
	var scratch autograd.Handle
	g, acc, ok := t.GradFor(op.gate)
	if ok {
		p.X = t.Data(op.x)
		if p.DWeights, scratch = t.Out(n, 1); !t.OK() {
			return t.Err()
		}
	}
	q.MoECombineBwd(p)
	if ok {
		dl, add, done := singleGrad(t, g, acc)
		if !t.OK() {
			return t.Err()
		}
		q.MoERouteBwd(kernels.MoERouteBwd{Scores: w.Slice(0, 0, 1).Reshape(n, 1), IDs: op.ids, DWeights: p.DWeights, DLogits: dl, K: 1, Score: kernels.RouteSigmoid,
			Accumulate: kernels.Flag(add)})
		done()
	}
	t.Free(&scratch)
	passResidual(t, op.y, op.residual)
	return q.Err()
}

// Stack is one matrix, or one bias, for each expert: a parameter that holds them all ([experts, ...]), or one a expert.
type Stack struct {
	// Whole, or Each.
	Whole autograd.Value
	Each  []autograd.Value
	// Transposed matrices are [in, out] in Whole.
	Transposed bool
}

// Valid reports whether there is something.
func (s Stack) Valid() bool { return s.Whole.Valid() || len(s.Each) > 0 && s.Each[0].Valid() }

// values lists what there is.
func (s Stack) values() []autograd.Value {
	if s.Whole.Valid() {
		return []autograd.Value{s.Whole}
	}
	return s.Each
}

// strided views tensors of one shape as one of rank + 1 where they lie at even distances, and otherwise returns the first and a table
// of distances in elements (absent tensors: -1).
func strided(t *autograd.Tape, xs []autograd.Tensor) (x, at autograd.Tensor) {
	first := -1
	for i := range xs {
		if xs[i].Present() && first < 0 {
			first = i
		}
	}
	if first < 0 {
		return x, at
	}
	dist := make([]int64, len(xs))
	even := true
	for i := range xs {
		dist[i] = -1
		even = even && xs[i].Present()
		if xs[i].Present() {
			// The first that is there is the base; one that lies before it cannot be reached, so the lowest address is.
			if xs[i].Data < xs[first].Data {
				first = i
			}
		}
	}
	for i := range xs {
		if xs[i].Present() {
			dist[i] = int64(xs[i].Data-xs[first].Data) / xs[i].DType.Size()
		}
		even = even && len(xs) > 1 && dist[i] == int64(i)*dist[1]
	}
	x = xs[first]
	if even || len(xs) == 1 {
		x = x.Unsqueeze(0)
		x.Dim[0] = int64(len(xs))
		if len(xs) > 1 {
			x.Stride[0] = dist[1]
		}
		return x, at
	}
	return x, t.Longs(dist, int64(len(dist)))
}

// data views the stack for a kernel, with matrices as [out, in].
func (s Stack) data(t *autograd.Tape) (x, at autograd.Tensor) {
	if s.Whole.Valid() {
		x = t.Data(s.Whole)
		if s.Transposed {
			x = x.Transpose(1, 2)
		}
		return x, at
	}
	xs := make([]autograd.Tensor, len(s.Each))
	for i, v := range s.Each {
		xs[i] = t.Data(v)
	}
	return strided(t, xs)
}

// grads views where the gradients go; ok is false when none is needed. Experts without rows do not count as reached.
func (s Stack) grads(t *autograd.Tape, r *Routing) (x, at autograd.Tensor, acc, ok bool) {
	if s.Whole.Valid() {
		x, acc, ok = t.GradFor(s.Whole)
		return x, at, acc, ok
	}
	xs := make([]autograd.Tensor, len(s.Each))
	var bounds []int
	if slices.ContainsFunc(s.Each, t.OfExpert) {
		if bounds = r.Bounds(t); !t.OK() {
			return x, at, false, false
		}
	}
	for i, v := range s.Each {
		gradFor := t.GradFor
		if bounds != nil && bounds[i] == bounds[i+1] {
			gradFor = t.GradUnreached
		}
		g, a, need := gradFor(v)
		if !need {
			continue
		}
		if ok && a != acc {
			t.Fail("grouped linear", fmt.Errorf("some experts have gradients already and some have not"))
			return x, at, false, false
		}
		xs[i], acc, ok = g, a, true
	}
	if ok {
		x, at = strided(t, xs)
	}
	return x, at, acc, ok && t.OK()
}

type groupedLinear struct {
	x, y autograd.Value
	w, b Stack
	r    *Routing
}

// GroupedLinear computes y[r] = x[r] W_i^T + b_i for the rows r of each expert i: x [n*k, in] ordered by expert, b may be absent.
func GroupedLinear(t *autograd.Tape, x autograd.Value, w, b Stack, r *Routing) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &groupedLinear{x: x, w: w, b: b, r: r}
	xd := t.Data(x)
	wd, at := w.data(t)
	yd, h := t.OutLike(xd, xd.Dim[0], wd.Dim[wd.Rank-2])
	if !t.OK() {
		return autograd.Value{}
	}
	p := kernels.GroupedGemm{A: xd, B: wd.Transpose(int(wd.Rank-2), int(wd.Rank-1)), BAt: at, C: yd, Offsets: r.Offsets, Alpha: 1}
	if b.Valid() {
		bd, uneven := b.data(t)
		if uneven.Present() {
			t.Fail("grouped linear", fmt.Errorf("the experts' biases do not lie at even distances"))
			return autograd.Value{}
		}
		p.Bias = bd
	}
	t.Queue().GroupedGemm(p)
	t.Check("grouped linear", xd, wd)
	var saved autograd.Value
	if t.Needs(w.values()...) {
		saved = x
	}
	op.y = t.Record(op, yd, h, t.Needs(x) || t.Needs(w.values()...) || t.Needs(b.values()...), saved, r.plan)
	return op.y
}

// Name implements autograd.Op.
func (op *groupedLinear) Name() string { return "grouped linear" }

// Backward implements autograd.Op.
func (op *groupedLinear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, at, acc, ok := op.w.grads(t, op.r); ok {
		p := kernels.GroupedGemmDW{A: dy, B: t.Data(op.x), C: g, CAt: at, Offsets: op.r.Offsets, Alpha: 1, Accumulate: kernels.Flag(acc)}
		if op.w.Transposed {
			p.A, p.B = p.B, p.A
		}
		q.GroupedGemmDW(p)
	}
	if op.b.Valid() {
		if g, at, acc, ok := op.b.grads(t, op.r); ok {
			q.GroupedColSum(kernels.GroupedColSum{X: dy, Y: g, YAt: at, Offsets: op.r.Offsets, Accumulate: kernels.Flag(acc)})
		}
	}
	if g, acc, ok := t.GradFor(op.x); ok {
		wd, at := op.w.data(t)
		q.GroupedGemm(kernels.GroupedGemm{A: dy, B: wd, BAt: at, C: g, Offsets: op.r.Offsets, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	if err := t.Err(); err != nil {
		return err
	}
	return q.Err()
}
