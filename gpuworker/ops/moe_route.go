package ops

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// RouteConfig says how a router chooses experts; see tf_moe_route_fwd of tunefleet.h.
type RouteConfig struct {
	// Experts there are, K of them for each token.
	Experts, K int
	Score      kernels.RouteScore
	// Groups, when more than 1, limit the choice to the TopKGroups groups with the greatest sum of their GroupTop greatest choices.
	Groups, TopKGroups, GroupTop int
	// Normalize divides the weights by max(their sum + NormEps, NormMin); Scale multiplies them (0: 1).
	Normalize               bool
	NormEps, NormMin, Scale float32
	// AuxOfScores computes the load-balancing loss of the scores in place of the logits: transformers' gpt-oss hands its scores out
	// under the name of logits.
	AuxOfScores bool
}

// Validate reports the first thing that cannot be.
func (c RouteConfig) Validate() error {
	switch {
	case c.Experts < 1 || c.K < 1 || c.K > c.Experts:
		return fmt.Errorf("%d of %d experts", c.K, c.Experts)
	case c.Groups > 1 && (c.Experts%c.Groups != 0 || c.TopKGroups < 1 || c.TopKGroups > c.Groups || c.GroupTop > c.Experts/c.Groups):
		return fmt.Errorf("%d of %d groups of %d experts by their %d greatest", c.TopKGroups, c.Groups, c.Experts, c.GroupTop)
	}
	return nil
}

// Routing is where the tokens of a batch go.
type Routing struct {
	Experts, K int
	// Weights f32 [n, k] of the choices.
	Weights autograd.Value
	// Offsets i32 [experts+1] bound the rows of each expert among the n*k rows ordered by expert; Place i32 [n, k] is the row of each
	// choice, Tokens i32 [n*k] the token of each row.
	Offsets, Place, Tokens autograd.Tensor

	ids, order autograd.Tensor
	// plan holds the memory of all these.
	plan   autograd.Value
	bounds []int
}

// Release gives the routing's memory back as soon as the backward pass does not need it any more.
func (r *Routing) Release(t *autograd.Tape) { t.Release(r.Weights, r.plan) }

// ints allocates i32 tensors of those sizes in one piece.
func ints(t *autograd.Tape, sizes ...int64) ([]autograd.Tensor, autograd.Value) {
	var n int64
	for _, s := range sizes {
		n += (s + 15) &^ 15
	}
	x, h := t.Out(n)
	if !t.OK() {
		return make([]autograd.Tensor, len(sizes)), autograd.Value{}
	}
	out, at := make([]autograd.Tensor, len(sizes)), x.Data
	for i, s := range sizes {
		out[i] = kernels.NewTensor(at, kernels.I32, s)
		at += kernels.Addr(4 * ((s + 15) &^ 15))
	}
	return out, t.Hold(x, h)
}

type route struct {
	logits, scores autograd.Value
	r              *Routing
	cfg            RouteConfig
	aux            *RouterLoss
}

// Route chooses experts for the logits [n, experts] of a router. bias (f32 [experts], may be absent) is added to the scores for the
// choice only. aux, when not nil, collects the load-balancing loss of this layer and adds its gradient to that of the logits.
func Route(t *autograd.Tape, logits autograd.Value, bias autograd.Tensor, c RouteConfig, aux *RouterLoss) *Routing {
	r := &Routing{Experts: c.Experts, K: c.K}
	if !t.OK() {
		return r
	}
	ld, lh := single(t, logits)
	n, e, k := ld.Dim[0], int64(c.Experts), int64(c.K)
	plan, held := ints(t, n*k, e+1, n*k, n*k, n*k)
	sd, sh := t.Out(n, e)
	wd, wh := t.Out(n, k)
	if !t.OK() {
		return r
	}
	r.plan, r.ids, r.Offsets, r.order, r.Place, r.Tokens = held, plan[0].Reshape(n, k), plan[1], plan[2], plan[3].Reshape(n, k), plan[4]
	op := &route{logits: logits, r: r, cfg: c, aux: aux}
	q := t.Queue()
	q.MoERouteFwd(kernels.MoERouteFwd{Logits: ld, Bias: bias, Scores: sd, IDs: r.ids, Weights: wd, K: k, Groups: int64(c.Groups), TopKGroups: int64(c.TopKGroups),
		GroupTop: int64(c.GroupTop), NormEps: c.NormEps, NormMin: c.NormMin, Scale: c.Scale, Score: c.Score, Normalize: kernels.Flag(c.Normalize)})
	q.MoESort(kernels.MoESort{IDs: r.ids, Offsets: r.Offsets, Order: r.order, Place: plan[3], Tokens: r.Tokens, Experts: e})
	op.scores = t.Hold(sd, sh)
	if aux != nil {
		in := ld
		if c.AuxOfScores {
			in = sd
		}
		aux.collect(t, in, k)
	}
	t.Check("routing", ld)
	t.Free(&lh)
	saved := []autograd.Value{op.scores, r.plan, {}}
	if aux != nil && !c.AuxOfScores {
		saved[2] = logits
	}
	r.Weights = t.Record(op, wd, wh, t.Needs(logits), saved...)
	t.Release(op.scores)
	return r
}

// single is a value's data as f32: itself, or a copy that the caller frees. Choices and weights of experts are computed in f32.
func single(t *autograd.Tape, v autograd.Value) (autograd.Tensor, autograd.Handle) {
	x := t.Data(v)
	if x.DType == kernels.F32 {
		return x, autograd.Handle{}
	}
	y, h := t.Out(x.Shape()...)
	if t.OK() {
		t.Queue().Copy(kernels.Copy{X: x, Y: y})
	}
	return y, h
}

// singleGrad is where to put the f32 gradient of a value: its gradient itself, or fresh memory that done brings into it.
func singleGrad(t *autograd.Tape, g autograd.Tensor, acc bool) (x autograd.Tensor, add bool, done func()) {
	if g.DType == kernels.F32 {
		return g, acc, func() {}
	}
	x, h := t.Out(g.Shape()...)
	return x, false, func() {
		if !t.OK() {
			return
		}
		if !acc {
			t.Queue().Copy(kernels.Copy{X: x, Y: g})
		} else if y, yh := t.OutLike(g, g.Shape()...); t.OK() {
			t.Queue().Copy(kernels.Copy{X: x, Y: y})
			t.Queue().Add(kernels.Add{A: y, Y: g, Alpha: 1, Accumulate: 1})
			t.Free(&yh)
		}
		t.Free(&h)
	}
}

// Name implements autograd.Op.
func (op *route) Name() string { return "routing" }

// Backward implements autograd.Op.
func (op *route) Backward(t *autograd.Tape) error {
	dw, _ := t.Grad(op.r.Weights)
	g, acc, ok := t.GradFor(op.logits)
	if !ok {
		return t.Err()
	}
	c, q := op.cfg, t.Queue()
	g, acc, done := singleGrad(t, g, acc)
	if !t.OK() {
		return t.Err()
	}
	p := kernels.MoERouteBwd{Scores: t.Data(op.scores), IDs: op.r.ids, DWeights: dw, DLogits: g, K: int64(c.K), NormEps: c.NormEps, NormMin: c.NormMin,
		Scale: c.Scale, Score: c.Score, Normalize: kernels.Flag(c.Normalize), Accumulate: kernels.Flag(acc)}
	var scratch autograd.Handle
	if op.aux != nil && c.AuxOfScores {
		if p.DScores, scratch = t.Out(g.Shape()...); !t.OK() {
			return t.Err()
		}
		op.aux.gradient(t, p.Scores, p.DScores, false)
	}
	q.MoERouteBwd(p)
	if op.aux != nil && !c.AuxOfScores {
		ld, lh := single(t, op.logits)
		if !t.OK() {
			return t.Err()
		}
		op.aux.gradient(t, ld, g, true)
		t.Free(&lh)
	}
	done()
	t.Free(&scratch)
	return q.Err()
}

// RouterLoss is the load-balancing loss of a model's routers over one batch, as load_balancing_loss_func of transformers 4.57 defines
// it: with f the share of choices and p the mean probability of each expert over the tokens of all layers, experts * sum f * p; padding
// does not count. The model fills it in the forward pass; Backward then also differentiates Scale times the loss.
type RouterLoss struct {
	// Scale is the weight of the loss in what Backward differentiates; 0 measures only.
	Scale float64

	mask          autograd.Tensor
	counts, probs autograd.Tensor
	experts       int64
	tokens        int64 // that count, in one layer
	layers        int64
}

// Begin makes ready for a forward pass of n tokens through layers of that many experts; mask, when not nil, is 0 for padding.
func (l *RouterLoss) Begin(t *autograd.Tape, experts, n int, mask []uint8) {
	e := int64(experts)
	*l = RouterLoss{Scale: l.Scale, tokens: int64(n), experts: e}
	if mask != nil {
		l.mask, l.tokens = t.Bytes(mask, int64(len(mask))), 0
		for _, m := range mask {
			if m != 0 {
				l.tokens++
			}
		}
	}
	// The tape frees this with the pass.
	mem, _ := t.Out(4 * e)
	if !t.OK() {
		return
	}
	l.counts, l.probs = kernels.NewTensor(mem.Data, kernels.F64, e), kernels.NewTensor(mem.Data+kernels.Addr(8*e), kernels.F64, e)
	t.Queue().Fill(kernels.Fill{Y: mem})
}

// collect adds the statistics of one layer. A block that is computed again in the backward pass has been counted already.
func (l *RouterLoss) collect(t *autograd.Tape, x autograd.Tensor, k int64) {
	if t.Replaying() {
		return
	}
	t.Queue().MoEAuxFwd(kernels.MoEAuxFwd{X: x, Mask: l.mask, Counts: l.counts, Probs: l.probs, K: k, Accumulate: 1})
	l.layers++
}

func (l *RouterLoss) gradient(t *autograd.Tape, x, dx autograd.Tensor, add bool) {
	total := float64(max(1, l.layers*l.tokens))
	scale := l.Scale * float64(t.LossScale()) * float64(l.experts) / (total * total)
	t.Queue().MoEAuxBwd(kernels.MoEAuxBwd{X: x, Mask: l.mask, Counts: l.counts, DX: dx, Scale: scale, Accumulate: kernels.Flag(add)})
}

// Value is the loss after the forward pass; it waits for the queue. A model without experts, or without tokens that count, gives 0.
func (l *RouterLoss) Value(t *autograd.Tape) (float64, error) {
	if l.layers == 0 || l.tokens == 0 {
		return 0, t.Err()
	}
	stats := make([]float64, 2*l.experts)
	for i, x := range []autograd.Tensor{l.counts, l.probs} {
		if err := kernels.Download(t.Queue(), stats[int64(i)*l.experts:int64(i+1)*l.experts], x); err != nil {
			return 0, err
		}
	}
	var sum float64
	for i := range l.experts {
		sum += stats[i] * stats[l.experts+i]
	}
	total := float64(l.layers * l.tokens)
	return float64(l.experts) * sum / (total * total), nil
}

// Bounds are the offsets on the host, after waiting for the queue: expert i has the rows bounds[i] to bounds[i+1]. On a counting device,
// which computes nothing, the rows are spread evenly.
func (r *Routing) Bounds(t *autograd.Tape) []int {
	if !t.OK() {
		return nil
	}
	if r.bounds != nil {
		return r.bounds
	}
	off := make([]int32, r.Experts+1)
	if err := kernels.Download(t.Queue(), off, r.Offsets); err != nil {
		t.Fail("routing", err)
		return nil
	}
	rows := int(r.Tokens.Numel())
	r.bounds = make([]int, len(off))
	for i, o := range off {
		r.bounds[i] = int(o)
		if int(off[r.Experts]) != rows {
			r.bounds[i] = rows * i / r.Experts
		}
	}
	return r.bounds
}
