package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/schemas"
)

// RewardFunc scores completions of prompts, in their order.
type RewardFunc func(ctx context.Context, prompts, completions [][]int32) ([]float64, error)

// rlGoal is grpo and ppo: every step draws completions of its prompts, scores them, and updates the policy from them Epochs times. What is
// drawn depends on the run's seed, the step and the sample only. Parameters are whole on every rank, since ranks draw different numbers of
// tokens.
type rlGoal struct {
	s      *session
	rl     *schemas.RL
	grpo   objective.GRPO
	ppo    objective.PPO
	reward RewardFunc
	// critic is the reward model, nil with a function.
	critic *critic
	stop   []int32

	leaves int
	// own are this rank's leaves of the step by their number.
	own map[int]*rollouts
	// Of the whole step: completion tokens, values, and per leaf what it contributes to the metrics.
	tokens, values int
}

// rollouts are the completions of one leaf.
type rollouts struct {
	rows                *objective.Rows
	completions         []objective.Completion
	ppo                 []objective.Rollout
	advantages, returns [][]float64
	scores              []float64
	length              float64
}

func (s *session) newRLGoal(custom RewardFunc) (*rlGoal, error) {
	r := s.stage.RL
	g := &rlGoal{s: s, rl: r, reward: custom,
		grpo: objective.GRPO{Beta: *r.Beta, ClipLow: r.Clip, ClipHigh: r.ClipHigh, LossType: r.LossType, MaxLen: r.MaxNewTokens},
		ppo:  objective.PPO{Beta: *r.Beta, Clip: r.Clip, ValueClip: r.ValueClip, ValueWeight: r.ValueWeight, Discount: r.Discount, Lambda: r.Lambda, Whiten: r.Whiten}}
	if s.stage.Sharding == zero.Zero3 {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "sharding", "%s needs whole parameters on every rank to generate: none or auto", s.stage.Objective)
	}
	if r.RewardFunction != "" && custom == nil {
		f, err := rewardFunction(r.RewardFunction)
		if err != nil {
			return nil, err
		}
		g.reward = f
	}
	return g, nil
}

// rewardFunction is a built-in reward: "length" counts tokens, "token:<id>" the share of tokens that are this one.
func rewardFunction(name string) (RewardFunc, error) {
	if name == "length" {
		return func(_ context.Context, _, completions [][]int32) ([]float64, error) {
			out := make([]float64, len(completions))
			for i, c := range completions {
				out[i] = float64(len(c))
			}
			return out, nil
		}, nil
	}
	arg, ok := strings.CutPrefix(name, "token:")
	id, err := strconv.Atoi(arg)
	if !ok || err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, "rl.reward_function", "%q is unknown (length, token:<id>)", name)
	}
	return func(_ context.Context, _, completions [][]int32) ([]float64, error) {
		out := make([]float64, len(completions))
		for i, c := range completions {
			for _, t := range c {
				if int(t) == id {
					out[i] += 1 / float64(len(c))
				}
			}
		}
		return out, nil
	}, nil
}

func (g *rlGoal) isPPO() bool { return g.s.stage.Objective == "ppo" }

func (g *rlGoal) group() int {
	if g.isPPO() {
		return 1
	}
	return g.rl.Group
}

func (g *rlGoal) passes() int { return g.rl.Epochs }

func (g *rlGoal) metrics() []string { return []string{"reward", "completion_length"} }

// prompt is what comes before the first label.
func prompt(q Sequence) []int32 {
	n := slices.IndexFunc(q.Labels, func(l int32) bool { return l != nn.IgnoreLabel })
	if n < 0 {
		n = len(q.IDs)
	}
	return q.IDs[:max(1, n)]
}

// eosIDs are the ids that end a text according to a config.json.
func eosIDs(config []byte) []int32 {
	var one struct {
		ID *int32 `json:"eos_token_id"`
	}
	if json.Unmarshal(config, &one) == nil && one.ID != nil {
		return []int32{*one.ID}
	}
	var many struct {
		IDs []int32 `json:"eos_token_id"`
	}
	if json.Unmarshal(config, &many) == nil {
		return many.IDs
	}
	return nil
}

// drawn is what a rank tells the others of one of its leaves.
type drawn struct {
	Leaf    int
	Rewards []float64
	Tokens  int
	Values  int
	Rollout []objective.Rollout `json:",omitempty"`
}

// begin draws and scores the completions of this rank's leaves, and compares those of all ranks.
func (g *rlGoal) begin(ctx context.Context, step int64) error {
	s := g.s
	g.leaves, g.own = s.plan.Leaves(step), map[int]*rollouts{}
	if g.stop == nil {
		g.stop = append(slices.Clone(g.rl.StopIDs), eosIDs(s.model.Info().Config)...)
	}
	var mine []drawn
	for leaf := s.t.Gang.Rank; leaf < g.leaves; leaf += s.t.Gang.World {
		d, err := g.draw(ctx, step, leaf)
		if err != nil {
			return fmt.Errorf("cannot draw completions: %w", err)
		}
		mine = append(mine, d)
	}
	all, err := gatherJSON(ctx, s.t.Gang.Collective, mine)
	if err != nil {
		return fmt.Errorf("cannot share rewards: %w", err)
	}
	byLeaf := make([]drawn, g.leaves)
	for _, raw := range all {
		var ds []drawn
		if err := json.Unmarshal(raw, &ds); err != nil {
			return fmt.Errorf("cannot read a rank's rewards: %w", err)
		}
		for _, d := range ds {
			if d.Leaf < 0 || d.Leaf >= g.leaves {
				return fmt.Errorf("a rank has drawn leaf %d of %d", d.Leaf, g.leaves)
			}
			byLeaf[d.Leaf] = d
		}
	}
	return g.compare(byLeaf)
}

// compare computes advantages over the whole step, in the order of leaves.
func (g *rlGoal) compare(byLeaf []drawn) error {
	g.tokens, g.values = 0, 0
	var rewards []float64
	var rs []objective.Rollout
	for _, d := range byLeaf {
		rewards, rs = append(rewards, d.Rewards...), append(rs, d.Rollout...)
		g.tokens, g.values = g.tokens+d.Tokens, g.values+d.Values
	}
	var adv, ret [][]float64
	var group []float64
	if g.isPPO() {
		adv, ret = g.ppo.Estimates(rs)
	} else {
		var err error
		if group, err = objective.GroupAdvantages(rewards, g.group(), g.rl.ScaleRewards); err != nil {
			return err
		}
	}
	at := 0
	for leaf, d := range byLeaf {
		n := len(d.Rewards)
		if r := g.own[leaf]; r != nil {
			if g.isPPO() {
				r.advantages, r.returns = adv[at:at+n], ret[at:at+n]
			} else {
				for i := range r.completions {
					r.completions[i].Advantage = group[at+i]
				}
			}
		}
		at += n
	}
	return nil
}

// draw makes the completions of one leaf.
func (g *rlGoal) draw(ctx context.Context, step int64, leaf int) (d drawn, err error) {
	s := g.s
	var prompts [][]int32
	var ids []int64
	for _, i := range s.plan.Leaf(step, leaf) {
		q, err := s.data.Sequence(ctx, int(i)*groupOf(s.data))
		if err != nil {
			return d, err
		}
		for c := range g.group() {
			prompts = append(prompts, prompt(q))
			ids = append(ids, int64(i)*int64(g.group())+int64(c))
		}
	}
	for _, p := range prompts {
		if err := (&nn.Batch{Rows: 1, Seq: len(p), IDs: p}).Validate(s.model.Info().Vocab); err != nil {
			return d, schemas.Errorf(schemas.CodeModel, s.t.Stage.Name, "the data does not fit the model: %v", err)
		}
	}
	completions, err := generate.Generate(ctx, s.tape, s.model, prompts, generate.Options{MaxNewTokens: g.rl.MaxNewTokens, Stop: g.stop, Rows: ids,
		Seed: s.t.Spec.Seed ^ autograd.Mix(step), Sampling: generate.Sampling{Temperature: g.rl.Temperature, TopK: g.rl.TopK, TopP: g.rl.TopP}}, nil)
	if err != nil {
		return d, err
	}
	r := &rollouts{rows: objective.NewRows(prompts, completions, g.rl.Temperature)}
	if r.scores, err = g.score(ctx, prompts, completions); err != nil {
		return d, fmt.Errorf("cannot score completions: %w", err)
	}
	if len(r.scores) != len(completions) {
		return d, fmt.Errorf("%d rewards for %d completions", len(r.scores), len(completions))
	}
	var ref [][]float64
	if s.reference != nil {
		if ref, err = s.reference.tokens(ctx, r.rows); err != nil {
			return d, err
		}
	}
	d = drawn{Leaf: leaf, Rewards: r.scores}
	if g.isPPO() {
		lp, values, err := r.rows.ActorCritic(ctx, s.tape, s.model, s.head, g.rl.MaxNewTokens)
		if err != nil {
			return d, err
		}
		for i := range completions {
			r.ppo = append(r.ppo, objective.Rollout{Old: lp[i], Ref: ref[i], Values: values[i], Score: r.scores[i]})
			d.Values += len(values[i])
		}
		d.Rollout = r.ppo
	} else {
		lp, err := r.rows.Tokens(ctx, s.tape, s.model)
		if err != nil {
			return d, err
		}
		for i := range completions {
			c := objective.Completion{Old: lp[i]}
			if ref != nil {
				c.Ref = ref[i]
			}
			r.completions = append(r.completions, c)
		}
	}
	for _, c := range completions {
		d.Tokens += len(c)
	}
	r.length = float64(d.Tokens) / float64(len(completions))
	g.own[leaf] = r
	return d, nil
}

// score is the reward of each completion: the function's, or the reward model's at the last token.
func (g *rlGoal) score(ctx context.Context, prompts, completions [][]int32) ([]float64, error) {
	if g.critic == nil {
		return g.reward(ctx, prompts, completions)
	}
	return g.critic.score(ctx, objective.NewRows(prompts, completions, 0).Batch)
}

func (g *rlGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	s, r := g.s, g.own[leaf]
	out := leafResult{metrics: []float64{0, 0}}
	if len(samples) == 0 || r == nil {
		// Without sharding a pass over any tokens takes part in nothing but the exchange of gradients.
		r = &rollouts{rows: objective.NewRows([][]int32{{0}}, [][]int32{{0}}, 0), completions: []objective.Completion{{Old: []float64{0}, Ref: []float64{0}}},
			ppo: []objective.Rollout{{Old: []float64{0}, Values: []float64{0, 0}}}, advantages: [][]float64{{0}}, returns: [][]float64{{0, 0}}}
		if g.rl.MaxNewTokens == 1 {
			r.ppo[0].Values, r.returns[0] = []float64{0}, []float64{0}
		}
	} else {
		n := float64(len(r.scores)) * float64(g.leaves)
		for _, v := range r.scores {
			out.metrics[0] += v / n
		}
		out.metrics[1] = r.length / float64(g.leaves)
		out.tokens = int64(len(r.rows.Batch.IDs))
	}
	if g.isPPO() {
		err := r.rows.DifferentiateBoth(ctx, s.tape, s.model, s.head, g.rl.MaxNewTokens, func(now, values [][]float64) (dp, dv [][]float64) {
			l := g.ppo.Loss(r.ppo, r.advantages, r.returns, now, values, g.tokens, g.values)
			out.loss = g.ppo.Total(l)
			return l.DPolicy, l.DValue
		})
		return out, err
	}
	err := r.rows.Differentiate(ctx, s.tape, s.model, func(now [][]float64) (grad [][]float64) {
		out.loss, grad = g.grpo.Loss(r.completions, now, g.leaves, g.tokens)
		return grad
	})
	return out, err
}

// eval has no loss of its own: rewards of held-out prompts are what eval stages are for.
func (g *rlGoal) eval(context.Context, Dataset, []int32) (evalResult, error) {
	return evalResult{}, schemas.Errorf(schemas.CodeUnsupported, "eval", "%s has no evaluation loss", g.s.stage.Objective)
}

// critic is a finished reward model, whole on this rank.
type critic struct {
	loaded *Loaded
	tape   *autograd.Tape
}

// openCritic loads the reward model that the spec names.
func (s *session) openCritic(ctx context.Context) error {
	g, ok := s.goal.(*rlGoal)
	if !ok || g.rl.RewardModel == "" {
		return nil
	}
	l, err := LoadModel(ctx, s.t.Objects, s.t.Spec, s.t.Message.Tenant, s.t.Message.Run, g.rl.RewardModel, s.queue, s.t.Dir)
	if err != nil {
		return fmt.Errorf("cannot load the reward model: %w", err)
	}
	g.critic = &critic{loaded: l, tape: autograd.New(s.memory, autograd.Config{})}
	if l.ValueHead == nil {
		return schemas.Errorf(schemas.CodeModel, "rl.reward_model", "%s has no value head: it is no reward model", g.rl.RewardModel)
	}
	if l.Model.Info().Vocab < s.model.Info().Vocab {
		return schemas.Errorf(schemas.CodeModel, "rl.reward_model", "the reward model has a vocabulary of %d, the policy one of %d", l.Model.Info().Vocab, s.model.Info().Vocab)
	}
	return nil
}

func (c *critic) score(ctx context.Context, b *nn.Batch) ([]float64, error) {
	return c.loaded.ValueHead.Scores(ctx, c.tape, c.loaded.Model, b)
}

func (s *session) closeCritic() error {
	if g, ok := s.goal.(*rlGoal); ok && g.critic != nil {
		err := s.queue.Sync()
		g.critic.loaded.Close()
		return errors.Join(err)
	}
	return nil
}
