package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// stepper runs optimizer steps of one leaf each.
type stepper interface {
	// backward computes loss and gradients, and returns the gradient norm before clipping.
	backward(ctx context.Context, b *nn.Batch, tokens int64) (objective.Result, float64, error)
	// update clips and applies the optimizer; step counts from 1.
	update(ctx context.Context, lr float64, step int64) error
	close() error
}

// sharded trains through the engine that training stages use, as its only rank.
type sharded struct {
	engine *zero.Engine
	tape   *autograd.Tape
	model  zoo.Model
	clip   float64
	norm   float64
}

// newSharded makes the engine; fill gives it the initial values.
func newSharded(ctx context.Context, q *kernels.Queue, mem *autograd.Memory, m zoo.Model, c optim.Config, clip float64, checkpoint bool,
	fill func(ctx context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error) (*sharded, error) {
	e, err := zero.New(q, m.Units(), collective.NewLocal(1)[0], zero.Config{Sharding: zero.None, Optim: c, Scratch: mem})
	if err != nil {
		return nil, err
	}
	if err := e.Load(ctx, fill); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return &sharded{engine: e, model: m, clip: clip, tape: autograd.New(mem, autograd.Config{Hooks: e, Checkpoint: checkpoint})}, nil
}

func (s *sharded) backward(ctx context.Context, b *nn.Batch, tokens int64) (objective.Result, float64, error) {
	if err := s.engine.BeginLeaf(0, 1); err != nil {
		return objective.Result{}, 0, err
	}
	res, err := objective.Backward(ctx, s.tape, s.model, b, tokens)
	if err != nil {
		return res, 0, err
	}
	if err := s.engine.EndLeaf(ctx); err != nil {
		return res, 0, err
	}
	sumsq, _, err := s.engine.Finish(ctx, nil)
	s.norm = zero.Norm(sumsq)
	return res, s.norm, err
}

func (s *sharded) update(ctx context.Context, lr float64, step int64) error {
	return s.engine.Update(ctx, lr, step, zero.ClipFactor(s.norm, s.clip))
}

func (s *sharded) close() error { return s.engine.Close() }

// stepper of a session: the engine of training stages.
func (s *session) stepper(ctx context.Context, c optim.Config, clip float64, o Options) (stepper, error) {
	// The engine binds memory of its own; the values loaded so far move there.
	from := map[*autograd.Param]kernels.Tensor{}
	for _, u := range s.model.Units() {
		for _, p := range u.Params {
			from[p] = p.Data
		}
	}
	return newSharded(ctx, s.queue, s.mem, s.model, c, clip, o.Checkpoint, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		n := dst.Numel()
		s.queue.Copy(kernels.Copy{X: from[p].Reshape(p.Len()).Slice(0, start, start+n), Y: dst.Reshape(n)})
		if err := s.queue.Err(); err != nil {
			return fmt.Errorf("cannot move %s: %w", p.Name, err)
		}
		return nil
	})
}
