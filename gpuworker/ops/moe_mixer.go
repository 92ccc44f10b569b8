package ops

import (
	"math"
	"math/rand/v2"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// MixerConfig says how SparseMixer (https://arxiv.org/abs/2409.12136) chooses two experts for each token.
type MixerConfig struct {
	Experts int
	// Eps bounds the experts that share a weight: those whose logits are within 2*Eps of the greatest, relative to the greater magnitude.
	Eps float32
	// Stream tells the random choices of one layer from those of others.
	Stream uint64
}

// mixed is the choice of one expert of a token.
type mixed struct {
	id     int
	weight float32
}

// choose takes one expert for the logits x of a token, other than skip (-1: any), and fills s with the softmax over those near the greatest, 0
// elsewhere. Without random numbers it is the greatest one's, and s of it the weight. With them it is drawn from s; one that is not the greatest
// counts a third in three of four cases, which makes the gradient estimate one of Heun's third order.
func (c MixerConfig) choose(x, s []float32, skip int, random *rand.Rand) mixed {
	best := -1
	for j, v := range x {
		if j != skip && (best < 0 || v > x[best]) {
			best = j
		}
	}
	if best < 0 {
		return mixed{}
	}
	greatest, sum := x[best], 0.0
	p := make([]float64, len(x))
	for j, v := range x {
		if far := (greatest - v) / max(float32(math.Abs(float64(v))), greatest); j == skip || far > 2*c.Eps {
			continue
		}
		p[j] = math.Exp(float64(v) - float64(greatest))
		sum += p[j]
	}
	for j := range s {
		s[j] = float32(p[j] / sum)
	}
	if random == nil {
		return mixed{best, s[best]}
	}
	at, id := random.Float64()*sum, best
	for j, v := range p {
		if v == 0 {
			continue
		}
		id = j
		if at -= v; at < 0 {
			break
		}
	}
	if id == best || random.Float64() > 0.75 {
		return mixed{id, s[id]}
	}
	return mixed{id, 0.3333 * s[id]}
}

type mixer struct {
	logits, scores autograd.Value
	r              *Routing
	// ids are the first and the second choices.
	ids [2]autograd.Tensor
	aux *RouterLoss
}

// Mix chooses two experts for the logits [n, experts] of a router as transformers' phimoe does: the second among those that are left. In
// training passes with noise the choices are drawn. They are made on the host, for which it waits: the logits are few. aux is as for Route.
func Mix(t *autograd.Tape, logits autograd.Value, c MixerConfig, aux *RouterLoss) *Routing {
	r := &Routing{Experts: c.Experts, K: 2}
	if !t.OK() {
		return r
	}
	ld, lh := single(t, logits)
	n, e := ld.Dim[0], int64(c.Experts)
	plan, held := ints(t, 2*n, e+1, 2*n, 2*n, 2*n, n, n)
	sd, sh := t.Out(2, n, e)
	wd, wh := t.Out(n, 2)
	if !t.OK() {
		return r
	}
	r.plan, r.ids, r.Offsets, r.order, r.Place, r.Tokens = held, plan[0].Reshape(n, 2), plan[1], plan[2], plan[3].Reshape(n, 2), plan[4]
	op := &mixer{logits: logits, r: r, ids: [2]autograd.Tensor{plan[5].Reshape(n, 1), plan[6].Reshape(n, 1)}, aux: aux}
	if err := op.fill(t, c, ld, sd, wd); err != nil {
		t.Fail(op.Name(), err)
		return r
	}
	q := t.Queue()
	q.MoESort(kernels.MoESort{IDs: r.ids, Offsets: r.Offsets, Order: r.order, Place: plan[3], Tokens: r.Tokens, Experts: e})
	op.scores = t.Hold(sd, sh)
	if aux != nil {
		aux.collect(t, ld, 2)
	}
	t.Check(op.Name(), ld)
	t.Free(&lh)
	saved := []autograd.Value{op.scores, r.plan, {}}
	if aux != nil {
		saved[2] = logits
	}
	r.Weights = t.Record(op, wd, wh, t.Needs(logits), saved...)
	t.Release(op.scores)
	return r
}

// fill makes the choices: scores [2, n, experts] of the first and of the second, weights [n, 2], and the ids.
func (op *mixer) fill(t *autograd.Tape, c MixerConfig, logits, scores, weights autograd.Tensor) error {
	n, e, q := int(logits.Dim[0]), c.Experts, t.Queue()
	x := make([]float32, n*e)
	if err := kernels.Download(q, x, logits); err != nil {
		return err
	}
	s, w := make([]float32, 2*n*e), make([]float32, 2*n)
	all, one := make([]int32, 2*n), [2][]int32{make([]int32, n), make([]int32, n)}
	noise, drawn := t.Noise()
	for i := range n {
		var random *rand.Rand
		if drawn {
			random = rand.New(rand.NewPCG(noise.Seed^c.Stream^autograd.Mix(noise.Step), autograd.Mix(noise.IDs[i])))
		}
		skip := -1
		for k := range 2 {
			m := c.choose(x[i*e:(i+1)*e], s[(k*n+i)*e:(k*n+i+1)*e], skip, random)
			w[2*i+k], all[2*i+k], one[k][i] = m.weight, int32(m.id), int32(m.id) //nolint:gosec // there are at most 1024
			skip = m.id
		}
	}
	if err := kernels.Upload(q, scores, s); err != nil {
		return err
	}
	if err := kernels.Upload(q, weights, w); err != nil {
		return err
	}
	for k, ids := range one {
		if err := kernels.Upload(q, op.ids[k], ids); err != nil {
			return err
		}
	}
	return kernels.Upload(q, op.r.ids, all)
}

// Name implements autograd.Op.
func (op *mixer) Name() string { return "mixed routing" }

// Backward implements autograd.Op: each weight is a softmax over the experts near the choice; what a drawn one was scaled by has no part in it.
func (op *mixer) Backward(t *autograd.Tape) error {
	dw, _ := t.Grad(op.r.Weights)
	g, acc, ok := t.GradFor(op.logits)
	if !ok {
		return t.Err()
	}
	q, scores := t.Queue(), t.Data(op.scores)
	g, acc, done := singleGrad(t, g, acc)
	part, h := t.Out(g.Dim[0], 1)
	if !t.OK() {
		return t.Err()
	}
	for k := range int64(2) {
		q.Copy(kernels.Copy{X: dw.Slice(1, k, k+1), Y: part})
		q.MoERouteBwd(kernels.MoERouteBwd{Scores: scores.Select(0, k), IDs: op.ids[k], DWeights: part, DLogits: g, K: 1, Score: kernels.RouteSoftmax,
			Accumulate: kernels.Flag(acc || k > 0)})
	}
	t.Free(&h)
	if op.aux != nil {
		ld, lh := single(t, op.logits)
		if !t.OK() {
			return t.Err()
		}
		op.aux.gradient(t, ld, g, true)
		t.Free(&lh)
	}
	done()
	return q.Err()
}
