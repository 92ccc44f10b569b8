package train

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/schemas"
)

// RewardFunc scores completions of prompts, in their order.
type RewardFunc func(ctx context.Context, prompts, completions [][]int32) ([]float64, error)

// rlGoal is grpo and ppo: every step draws completions of its prompts, scores them, and updates the policy from them Epochs times. What is
// drawn depends on the run's seed, the step and the sample only. Ranks draw different numbers of tokens: where parameters are sharded, either all
// ranks go on until the last one has ended, or the whole model is gathered for it. A prompt's completions are all on one rank.
type rlGoal struct {
	s      *session
	rl     *schemas.RL
	grpo   objective.GRPO
	ppo    objective.PPO
	reward RewardFunc
	// critic is the reward model, nil with a function.
	critic *critic
	stop   []int32
	// whole is what gathersWhole has decided.
	whole *bool

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
	mine, err := g.draw(ctx, step)
	if err != nil {
		return fmt.Errorf("cannot draw completions: %w", err)
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

func (g *rlGoal) leaf(ctx context.Context, leaf int, samples []int32) (leafResult, error) {
	s, r := g.s, g.own[leaf]
	out := leafResult{metrics: []float64{0, 0}}
	if len(samples) == 0 || r == nil {
		// A pass over any tokens takes part in the gathers and the exchange of gradients.
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
