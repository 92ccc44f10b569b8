package verify

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
)

// policyRun is the run whose final weights pref and generate take as policy.
const policyRun = "full_adamw"

// openPolicy opens the base model with the weights after full_adamw: those of the folder, or where it has none (or other ones than the
// model needs), those that this build trained.
func (t *train) openPolicy(ctx context.Context) (*session, error) {
	s, err := openSession(ctx, t.base, t.o, nil)
	if err != nil {
		return nil, err
	}
	if err := t.loadPolicy(ctx, s); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (t *train) loadPolicy(ctx context.Context, s *session) error {
	// What no training changes, such as the corrections of routers, is the base's; the folder need not have it.
	var params []*nn.Param
	fixed := map[string]bool{}
	for _, p := range nn.Params(s.model.Root()) {
		if fixed[p.Name] = p.Frozen; !p.Frozen {
			params = append(params, p)
		}
	}
	set, err := safetensors.OpenSet(t.root, policyName)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		defer set.Close()
		if nn.Check(params, set, func(key string) bool { return fixed[key] }) == nil {
			return nn.Load(ctx, s.queue, params, set)
		}
		// The comparison of the run itself names the tensor that does not fit.
	}
	if t.trained == nil {
		if err := t.trainPolicy(ctx); err != nil {
			return fmt.Errorf("cannot train the policy: %w", err)
		}
	}
	for _, p := range params {
		if err := kernels.Upload(s.queue, p.Data, t.trained[p.Name]); err != nil {
			return err
		}
	}
	return nil
}

// keepPolicy notes the weights that a session has trained.
func (t *train) keepPolicy(s *session) error {
	t.trained = map[string][]float32{}
	for _, p := range s.trainable() {
		v, err := nn.Read(s.queue, p.Data)
		if err != nil {
			return err
		}
		t.trained[p.Name] = v
	}
	return nil
}

// trainPolicy trains the policy where its run was not among those verified.
func (t *train) trainPolicy(ctx context.Context) error {
	s, err := t.open(ctx, policyRun, method{})
	if err != nil {
		return err
	}
	defer s.close()
	bs, err := t.batches(s.model.Info().Vocab)
	if err != nil {
		return err
	}
	if _, err := t.train(ctx, s, method{}, 0, bs); err != nil {
		return err
	}
	return t.keepPolicy(s)
}
