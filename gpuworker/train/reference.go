package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// reference is the model that preference losses compare with.
type reference struct {
	// own is the trained model itself, asked with its adapters off; nil when the reference is a model of its own.
	own  *session
	tape *autograd.Tape
	// model and engine are the second, frozen model.
	model  zoo.Model
	engine *zero.Engine
}

// score computes the reference's log-probabilities of a batch's sequences.
func (r *reference) score(ctx context.Context, b *nn.Batch) ([]objective.LogProb, error) {
	if r.own == nil {
		return objective.Score(ctx, r.tape, r.model, b)
	}
	r.own.adapters.Enable(false)
	defer r.own.adapters.Enable(true)
	return objective.Score(ctx, r.own.tape, r.own.model, b)
}

// tokens computes the reference's log-probabilities of completions, token by token.
func (r *reference) tokens(ctx context.Context, rows *objective.Rows) ([][]float64, error) {
	if r.own == nil {
		return rows.Tokens(ctx, r.tape, r.model)
	}
	r.own.adapters.Enable(false)
	defer r.own.adapters.Enable(true)
	return rows.Tokens(ctx, r.own.tape, r.own.model)
}

// sharded reports whether asking the reference takes all ranks.
func (r *reference) sharded() bool {
	if r.own == nil {
		return r.engine.Sharded()
	}
	return r.own.engine.Sharded()
}

func (r *reference) close() error {
	if r == nil || r.engine == nil {
		return nil
	}
	r.engine.Reset()
	return r.engine.Close()
}

// needsReference reports whether the stage's loss compares with a reference model.
func needsReference(t *schemas.TrainStage) bool {
	switch t.Objective {
	case "dpo":
		return objective.PairLossOf(t.Pref).NeedsReference()
	case "kto":
		return true
	case "ppo":
		return true
	case "grpo":
		return *t.RL.Beta > 0
	}
	return false
}

// openReference makes the reference: the model that the spec names, the base without its adapters, or a frozen copy of where the stage
// starts. src holds the stage's own start, of which k is the last link.
func (s *session) openReference(ctx context.Context, rec *Recipe, src *source) (err error) {
	if !needsReference(s.stage) {
		return nil
	}
	var named *schemas.ModelSpec
	var merged []schemas.Ref
	if s.stage.Pref != nil {
		named, merged = s.stage.Pref.Reference, s.stage.Pref.ReferenceAdapters
	}
	if named == nil && s.adapters != nil {
		s.reference = &reference{own: s}
		return nil
	}
	if named != nil {
		stage, train := *s.t.Stage, schemas.TrainStage{Objective: "sft", Method: "full", Model: *named, Adapters: merged, CreateNewAdapter: true}
		stage.Train = &train
		if rec, err = newResolver(s.t.Objects, s.t.Spec).start(ctx, s.t.Spec, &stage, 0); err != nil {
			return fmt.Errorf("cannot find the reference model: %w", err)
		}
		if len(merged) > 0 {
			rec.Next = &stage
		}
		if src, err = openSource(ctx, s.t.Objects, s.queue, rec, s.t.Dir, nil); err != nil {
			return fmt.Errorf("cannot open the reference model: %w", err)
		}
		defer func() { err = errors.Join(err, src.Close()) }()
	}
	r := &reference{}
	if r.model, err = zoo.New(rec.Config); err != nil {
		return fmt.Errorf("cannot make the reference model: %w", err)
	}
	if r.model.Info().Vocab < s.model.Info().Vocab {
		return schemas.Errorf(schemas.CodeModel, "pref.reference", "the reference model has a vocabulary of %d, the trained one of %d", r.model.Info().Vocab, s.model.Info().Vocab)
	}
	for _, p := range nn.Params(r.model.Root()) {
		p.Frozen = true
	}
	autograd.StoreFrozen(r.model.Units(), computeType(s.stage.DType))
	sharding, _ := resolveSharding(s.stage.Sharding, r.model.Units(), s.t.Gang.World)
	if r.engine, err = zero.New(s.queue, r.model.Units(), s.t.Gang.Collective, zero.Config{Sharding: sharding, Devices: s.devices(), Hosts: s.hosts()}); err != nil {
		return err
	}
	s.reference = r
	fill := src.filler(src.readers[len(src.readers)-1], nil, nil)
	err = r.engine.Load(ctx, fill.fill)
	r.tape = autograd.New(s.memory, autograd.Config{Hooks: r.engine, Compute: computeType(s.stage.DType)})
	return err
}
