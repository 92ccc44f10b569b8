package train

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/schemas"
)

// sampled are the prompts and completions of one leaf; without, of no leaf: what a rank that has none passes through the model.
type sampled struct {
	leaf                 int
	has                  bool
	prompts, completions [][]int32
	ids                  []int64 // what the draws of each depend on
}

// noLeaf is the least that a pass can be made of.
func noLeaf() sampled {
	return sampled{prompts: [][]int32{{0}}, completions: [][]int32{{0}}, ids: []int64{0}}
}

func (x *sampled) rows(temperature float64) *objective.Rows {
	return objective.NewRows(x.prompts, x.completions, temperature)
}

// prompts reads those of a leaf of this rank, each as often as it has completions.
func (g *rlGoal) prompts(ctx context.Context, step int64, leaf int) (x sampled, err error) {
	s := g.s
	x = sampled{leaf: leaf, has: true}
	for _, i := range s.plan.Leaf(step, leaf) {
		q, err := s.data.Sequence(ctx, int(i)*groupOf(s.data))
		if err != nil {
			return x, err
		}
		p := prompt(q)
		if err := (&nn.Batch{Rows: 1, Seq: len(p), IDs: p}).Validate(s.model.Info().Vocab); err != nil {
			return x, schemas.Errorf(schemas.CodeModel, s.t.Stage.Name, "the data does not fit the model: %v", err)
		}
		for c := range g.group() {
			x.prompts = append(x.prompts, p)
			x.ids = append(x.ids, int64(i)*int64(g.group())+int64(c))
		}
	}
	return x, nil
}

// sample draws the completions of this rank's leaves, one entry a round of the ranks: a rank that has no leaf in the last one gets noLeaf.
func (g *rlGoal) sample(ctx context.Context, step int64) (out []sampled, err error) {
	s := g.s
	world, sharded := s.t.Gang.World, s.engine.Sharded()
	for round := range (g.leaves + world - 1) / world {
		x := noLeaf()
		if leaf := round*world + s.t.Gang.Rank; leaf < g.leaves {
			if x, err = g.prompts(ctx, step, leaf); err != nil {
				return nil, err
			}
		}
		out = append(out, x)
	}
	if sharded {
		whole, err := g.gathersWhole(ctx)
		if err != nil {
			return nil, err
		}
		if sharded = !whole; whole {
			if err := s.engine.Hold(ctx); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, s.engine.Release()) }()
		}
	}
	o := generate.Options{MaxNewTokens: g.rl.MaxNewTokens, Stop: g.stop, Seed: s.t.Spec.Seed ^ autograd.Mix(step),
		Sampling: generate.Sampling{Temperature: g.rl.Temperature, TopK: g.rl.TopK, TopP: g.rl.TopP}}
	for i := range out {
		x := &out[i]
		if !x.has && !sharded {
			continue
		}
		o.Rows = x.ids
		if sharded {
			o.Going = func(ctx context.Context, live bool) (bool, error) {
				done, err := everyRank(ctx, s.t.Gang.Collective, !live || !x.has)
				return !done, err
			}
		}
		drawn, err := generate.Generate(ctx, s.tape, s.model, x.prompts, o, nil)
		if err != nil {
			return nil, err
		}
		if x.has {
			x.completions = drawn
		}
	}
	return out, nil
}

// How a sharded model's parameters are gathered while it generates.
const (
	gatherAuto  = "auto"
	gatherModel = "model"
	gatherBlock = "block"
)

// gatherShare is the most of a device's free memory that gatherAuto takes for the whole model: the rest is for what generation holds.
const gatherShare = 0.5

// gathersWhole decides, alike on all ranks, whether the whole model is gathered once for all completions of a step, or each block at every
// token.
func (g *rlGoal) gathersWhole(ctx context.Context) (bool, error) {
	s := g.s
	switch g.rl.Gather {
	case gatherModel:
		return true, nil
	case gatherBlock:
		return false, nil
	}
	if g.whole == nil {
		need, fits, free := s.engine.HoldBytes(), false, int64(0)
		if info, err := s.dev.Info(); err == nil {
			free = info.MemoryFree
			fits = free > 0 && float64(need) <= gatherShare*float64(free)
		}
		whole, err := everyRank(ctx, s.t.Gang.Collective, fits)
		if err != nil {
			return false, fmt.Errorf("cannot agree on how to gather: %w", err)
		}
		g.whole = &whole
		s.t.Logger.Info("generation", "gathers_model", whole, "need_bytes", need, "free_bytes", free)
	}
	return *g.whole, nil
}

// draw makes and measures the completions of this rank's leaves.
func (g *rlGoal) draw(ctx context.Context, step int64) ([]drawn, error) {
	all, err := g.sample(ctx, step)
	if err != nil {
		return nil, err
	}
	var out []drawn
	for i := range all {
		d, r, err := g.measure(ctx, &all[i])
		if err != nil {
			return nil, err
		}
		if all[i].has {
			out, g.own[all[i].leaf] = append(out, d), r
		}
	}
	return out, nil
}

// measure scores completions and computes their log-probabilities (and values) before the step, under the policy and the reference. Without
// a leaf it makes the passes through what is sharded only.
func (g *rlGoal) measure(ctx context.Context, x *sampled) (d drawn, r *rollouts, err error) {
	s := g.s
	d, r = drawn{Leaf: x.leaf}, &rollouts{rows: x.rows(g.rl.Temperature)}
	if r.scores, err = g.score(ctx, x); err != nil {
		return d, r, fmt.Errorf("cannot score completions: %w", err)
	}
	if len(r.scores) != len(x.completions) {
		return d, r, fmt.Errorf("%d rewards for %d completions", len(r.scores), len(x.completions))
	}
	d.Rewards = slices.Clone(r.scores)
	ref := make([][]float64, len(x.completions))
	if s.reference != nil && (x.has || s.reference.sharded()) {
		if ref, err = s.reference.tokens(ctx, r.rows); err != nil {
			return d, r, err
		}
	}
	for _, c := range x.completions {
		d.Tokens += len(c)
	}
	r.length = float64(d.Tokens) / float64(len(x.completions))
	if !x.has && !s.engine.Sharded() {
		return d, r, nil
	}
	if !g.isPPO() {
		lp, err := r.rows.Tokens(ctx, s.tape, s.model)
		for i := range lp {
			r.completions = append(r.completions, objective.Completion{Old: lp[i], Ref: ref[i]})
		}
		return d, r, err
	}
	lp, values, err := r.rows.ActorCritic(ctx, s.tape, s.model, s.head, g.rl.MaxNewTokens)
	if err != nil {
		return d, r, err
	}
	for i := range lp {
		r.ppo = append(r.ppo, objective.Rollout{Old: lp[i], Ref: ref[i], Values: values[i], Score: r.scores[i]})
		d.Values += len(values[i])
	}
	d.Rollout = r.ppo
	return d, r, nil
}

// score is the reward of each completion: the function's, or the reward model's at the last token.
func (g *rlGoal) score(ctx context.Context, x *sampled) ([]float64, error) {
	switch {
	case g.critic != nil && (x.has || g.critic.engine.Sharded()):
		return g.critic.score(ctx, x.rows(0).Batch)
	case !x.has:
		return make([]float64, len(x.completions)), nil
	}
	return g.reward(ctx, x.prompts, x.completions)
}
