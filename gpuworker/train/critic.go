package train

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// critic is a finished reward model, laid out over the ranks as the trained model is.
type critic struct {
	model  zoo.Model
	head   *objective.ValueHead
	engine *zero.Engine
	tape   *autograd.Tape
}

// openCritic loads the reward model that the spec names.
func (s *session) openCritic(ctx context.Context) (err error) {
	g, ok := s.goal.(*rlGoal)
	if !ok || g.rl.RewardModel == "" && g.rl.RewardFiles == nil {
		return nil
	}
	var f *Finished
	if r := g.rl.RewardFiles; r != nil {
		f, err = openReward(ctx, s.t.Objects, s.t.Message.Tenant, r, s.queue, s.t.Dir)
	} else {
		f, err = OpenFinished(ctx, s.t.Objects, s.t.Spec, s.t.Message.Tenant, s.t.Message.Run, g.rl.RewardModel, s.queue, s.t.Dir)
	}
	if err != nil {
		return fmt.Errorf("cannot load the reward model: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := &critic{model: f.Model, head: f.ValueHead}
	if c.head == nil {
		return schemas.Errorf(schemas.CodeModel, "rl.reward_model", "%s has no value head: it is no reward model", g.rl.RewardModel)
	}
	if c.model.Info().Vocab < s.model.Info().Vocab {
		return schemas.Errorf(schemas.CodeModel, "rl.reward_model", "the reward model has a vocabulary of %d, the policy one of %d", c.model.Info().Vocab, s.model.Info().Vocab)
	}
	compute := computeType(s.stage.DType)
	for _, p := range f.base {
		p.Frozen = true
	}
	autograd.StoreFrozen(c.model.Units(), compute) // what adapters hold stays in fp32, as it was trained
	units := append(slices.Clone(c.model.Units()), c.head.Unit())
	for _, u := range units {
		for _, p := range u.Params {
			p.Frozen = true
		}
	}
	sharding, why := resolveSharding(s.stage.Sharding, units, s.t.Gang.World)
	s.t.Logger.Info("reward model is laid out", "sharding", sharding, "why", why)
	if c.engine, err = zero.New(s.queue, units, s.t.Gang.Collective, zero.Config{Sharding: sharding, Devices: s.devices(), Hosts: s.hosts()}); err != nil {
		return err
	}
	g.critic = c
	c.tape = autograd.New(s.memory, autograd.Config{Hooks: c.engine, Compute: compute})
	return c.engine.Load(ctx, f.fill)
}

// score is the head's value at the last token of each row.
func (c *critic) score(ctx context.Context, b *nn.Batch) ([]float64, error) {
	return c.head.Scores(ctx, c.tape, c.model, b)
}

func (s *session) closeCritic() error {
	g, ok := s.goal.(*rlGoal)
	if !ok || g.critic == nil {
		return nil
	}
	g.critic.engine.Reset()
	return g.critic.engine.Close()
}
