package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
)

// share is the weight of one row of a leaf of rows in a step of leaves: as upstream, the step's loss is the mean over leaves of the mean
// over each leaf's rows.
func share(rows, leaves int) float64 { return 1 / (float64(max(1, rows)) * float64(max(1, leaves))) }

// pairGoal is dpo: pairs of a chosen and a rejected response.
type pairGoal struct {
	once
	s      *session
	loss   objective.PairLoss
	leaves int
}

func (g *pairGoal) metrics() []string {
	names := []string{"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"}
	if g.loss.Name == "orpo" {
		names = append(names, "sft_loss", "odds_ratio_loss")
	}
	return names
}

func (g *pairGoal) report(sums []float64) map[string]float64 {
	out := map[string]float64{}
	for k, name := range g.metrics() {
		out[name] = sums[k]
	}
	return out
}

// measure is the metrics of a leaf's pairs, each pair with weight w.
func (g *pairGoal) measure(r objective.PairResult, w float64) []float64 {
	out := make([]float64, len(g.metrics()))
	for i := 0; i+1 < len(r.Rewards); i += 2 {
		c, j := r.Rewards[i], r.Rewards[i+1]
		won := 0.0
		if c > j {
			won = 1
		}
		lc, lj := r.Policy[i].Sum, r.Policy[i+1].Sum
		if g.loss.Averages() {
			lc, lj = r.Policy[i].Mean(), r.Policy[i+1].Mean()
		}
		for k, v := range []float64{c, j, won, c - j, lc, lj} {
			out[k] += v * w
		}
		if len(out) > 6 {
			out[6] -= lc * w
		}
	}
	if len(out) > 6 {
		out[7] = (r.Sum*w - out[6]) / g.loss.Beta
	}
	return out
}

func (g *pairGoal) begin(_ context.Context, step int64) error {
	g.leaves = g.s.plan.Leaves(step)
	return nil
}

// pairs reads pairs (of the training data when data is nil) and what the reference model says of them.
func (s *session) pairs(ctx context.Context, data Dataset, samples []int32, reference bool) (b *nn.Batch, ref []objective.LogProb, err error) {
	switch {
	case len(samples) == 0:
		b = ghostPairs()
	case data == nil:
		b, err = s.trainLeaf(ctx, group(s.data, samples, -1))
	default:
		b, err = s.leaf(ctx, data, group(data, samples, -1))
	}
	if err != nil {
		return nil, nil, err
	}
	if !reference {
		return b, nil, nil
	}
	ref, err = s.reference.score(ctx, b)
	return b, ref, err
}

func (g *pairGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	b, ref, err := g.s.pairs(ctx, nil, samples, g.loss.NeedsReference())
	if err != nil {
		return leafResult{}, err
	}
	g.s.tape.SetNoise(nil) // no dropout, as upstream (disable_dropout of TRL)
	w := share(len(samples), g.s.plan.Window(g.s.step, leaf))
	r, err := g.loss.Backward(ctx, g.s.tape, g.s.model, b, ref, w)
	if err != nil {
		return leafResult{loss: r.Sum * w, metrics: make([]float64, len(g.metrics()))}, err
	}
	return leafResult{loss: r.Sum * w, tokens: int64(len(b.IDs)), metrics: g.measure(r, share(len(samples), g.leaves))}, nil
}

func (g *pairGoal) eval(ctx context.Context, data Dataset, samples []int32) (evalResult, error) {
	b, ref, err := g.s.pairs(ctx, data, samples, g.loss.NeedsReference())
	if err != nil {
		return evalResult{}, err
	}
	r, err := g.loss.Loss(ctx, g.s.tape, g.s.model, b, ref)
	if err != nil {
		return evalResult{}, err
	}
	return evalResult{sum: r.Sum, weight: float64(len(samples)), labels: float64(len(samples)), metrics: g.measure(r, share(len(samples), 1))}, nil
}

// rewardGoal is rm: pairs whose chosen response is to score higher.
type rewardGoal struct {
	once
	s      *session
	leaves int
}

func (g *rewardGoal) metrics() []string { return []string{"accuracy"} }

func (g *rewardGoal) begin(_ context.Context, step int64) error {
	g.leaves = g.s.plan.Leaves(step)
	return nil
}

func (g *rewardGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	b, _, err := g.s.pairs(ctx, nil, samples, false)
	if err != nil {
		return leafResult{}, err
	}
	w := share(len(samples), g.s.plan.Window(g.s.step, leaf))
	r, err := g.s.head.Reward(ctx, g.s.tape, g.s.model, b, w, true)
	return leafResult{loss: r.Sum * w, metrics: []float64{float64(r.Correct()) * share(len(samples), g.leaves)}, tokens: int64(len(b.IDs))}, err
}

func (g *rewardGoal) eval(ctx context.Context, data Dataset, samples []int32) (evalResult, error) {
	b, _, err := g.s.pairs(ctx, data, samples, false)
	if err != nil {
		return evalResult{}, err
	}
	r, err := g.s.head.Reward(ctx, g.s.tape, g.s.model, b, 1, false)
	return evalResult{sum: r.Sum, weight: float64(len(samples)), labels: float64(len(samples)), accuracy: float64(r.Correct())}, err
}

// ktoGoal is kto: rows that are desirable or not, each with the same prompt and another row's response, from which the policy's
// divergence from the reference is estimated. As upstream one estimate serves the leaves that the nominal world computes at a time.
type ktoGoal struct {
	once
	s      *session
	loss   objective.KTO
	leaves int
	kl     []float64 // of each leaf
}

func (g *ktoGoal) metrics() []string {
	return []string{"kl", "chosen", "rewards/chosen", "logps/chosen", "rejected", "rewards/rejected", "logps/rejected"}
}

// report divides the sums over rows of each kind by their number, as upstream does.
func (g *ktoGoal) report(sums []float64) map[string]float64 {
	out := map[string]float64{"kl": sums[0]}
	for i, kind := range []string{"chosen", "rejected"} {
		if of := sums[1+3*i:]; of[0] > 0 {
			out["rewards/"+kind], out["logps/"+kind] = of[1]/of[0], of[2]/of[0]
		}
	}
	if c, ok := out["rewards/chosen"]; ok {
		if r, ok := out["rewards/rejected"]; ok {
			out["rewards/margins"] = c - r
		}
	}
	return out
}

// measure is the metrics of a leaf's rows.
func (g *ktoGoal) measure(r objective.KTOResult, marks []bool, kl float64) []float64 {
	out := make([]float64, len(g.metrics()))
	out[0] = kl
	for i, v := range r.Rewards {
		of := out[1:]
		if !marks[i] {
			of = out[4:]
		}
		of[0]++
		of[1] += v
		of[2] += r.Policy[i].Sum
	}
	return out
}

// divergence is the mean divergence of the mismatched rows of samples.
func (g *ktoGoal) divergence(ctx context.Context, data Dataset, samples []int32) (float64, error) {
	b := ghost()
	if len(samples) > 0 {
		var err error
		if b, err = g.s.leaf(ctx, data, group(data, samples, 1)); err != nil {
			return 0, err
		}
	}
	ref, err := g.s.reference.score(ctx, b)
	if err != nil {
		return 0, err
	}
	policy, err := objective.Score(ctx, g.s.tape, g.s.model, b)
	return objective.Divergence(policy, ref), err
}

// begin estimates the divergence of every leaf before the first gradient.
func (g *ktoGoal) begin(ctx context.Context, step int64) error {
	s := g.s
	g.leaves = s.plan.Leaves(step)
	rank, world := s.t.Gang.Rank, s.t.Gang.World
	micros := (g.leaves + world - 1) / world
	mine := make([]byte, 0, 8*micros)
	for micro := range micros {
		var samples []int32
		if leaf := micro*world + rank; leaf < g.leaves {
			samples = s.plan.Leaf(step, leaf)
		}
		d, err := g.divergence(ctx, s.data, samples)
		if err != nil {
			return fmt.Errorf("cannot estimate the divergence: %w", err)
		}
		mine = binary.LittleEndian.AppendUint64(mine, math.Float64bits(d))
	}
	all := make([][]byte, world)
	for r := range all {
		all[r] = make([]byte, len(mine))
	}
	if err := s.t.Gang.Collective.AllGather(ctx, mine, all); err != nil {
		return fmt.Errorf("cannot share the divergence: %w", err)
	}
	g.kl = make([]float64, g.leaves)
	nominal := max(1, s.stage.World.Nominal)
	for from := 0; from < g.leaves; from += nominal {
		to := min(from+nominal, g.leaves)
		var sum float64
		for leaf := from; leaf < to; leaf++ {
			sum += math.Float64frombits(binary.LittleEndian.Uint64(all[leaf%world][8*(leaf/world):]))
		}
		for leaf := from; leaf < to; leaf++ {
			g.kl[leaf] = max(0, sum/float64(to-from))
		}
	}
	return nil
}

// rows reads the rows proper (of the training data when data is nil) with their marks and reference values.
func (g *ktoGoal) rows(ctx context.Context, data Dataset, samples []int32) (b *nn.Batch, ref []objective.LogProb, marks []bool, err error) {
	b, marks = ghost(), []bool{true}
	if len(samples) > 0 {
		if data == nil {
			b, err = g.s.trainLeaf(ctx, group(g.s.data, samples, 0))
		} else {
			b, err = g.s.leaf(ctx, data, group(data, samples, 0))
		}
		if err != nil {
			return nil, nil, nil, err
		}
		marks = marks[:0]
		for _, q := range g.s.seqs {
			marks = append(marks, q.Tag != 0)
		}
	}
	ref, err = g.s.reference.score(ctx, b)
	return b, ref, marks, err
}

func (g *ktoGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	b, ref, marks, err := g.rows(ctx, nil, samples)
	if err != nil {
		return leafResult{}, err
	}
	g.s.tape.SetNoise(nil) // no dropout, as upstream (disable_dropout of TRL)
	kl := 0.0
	if len(samples) > 0 {
		kl = g.kl[leaf]
	}
	w := share(len(samples), g.s.plan.Window(g.s.step, leaf))
	r, err := g.loss.Backward(ctx, g.s.tape, g.s.model, b, ref, marks, kl, w)
	if err != nil {
		return leafResult{loss: r.Sum * w, metrics: make([]float64, len(g.metrics()))}, err
	}
	return leafResult{loss: r.Sum * w, tokens: int64(len(b.IDs)), metrics: g.measure(r, marks, kl/float64(g.leaves))}, nil
}

func (g *ktoGoal) eval(ctx context.Context, data Dataset, samples []int32) (evalResult, error) {
	kl, err := g.divergence(ctx, data, samples)
	if err != nil {
		return evalResult{}, err
	}
	b, ref, marks, err := g.rows(ctx, data, samples)
	if err != nil {
		return evalResult{}, err
	}
	r, err := g.loss.Loss(ctx, g.s.tape, g.s.model, b, ref, marks, max(0, kl))
	if err != nil {
		return evalResult{}, err
	}
	return evalResult{sum: r.Sum, weight: float64(len(samples)), labels: float64(len(samples)), metrics: g.measure(r, marks, max(0, kl))}, nil
}
