package optim

import (
	"errors"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Config of AdamW.
type Config struct {
	Beta1, Beta2, Eps, WeightDecay float64
	// SkipDecay exempts biases and norms from weight decay, as transformers' Trainer does.
	SkipDecay bool
	// LoRAPlusRatio multiplies the learning rate of LoRA's B matrices (https://arxiv.org/abs/2402.12354); 0 means 1.
	LoRAPlusRatio float64
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(key string, v float64, want string) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "optim."+key, "%g is not %s", v, want))
	}
	if !(c.Beta1 >= 0 && c.Beta1 < 1) {
		bad("beta1", c.Beta1, "in [0, 1)")
	}
	if !(c.Beta2 >= 0 && c.Beta2 < 1) {
		bad("beta2", c.Beta2, "in [0, 1)")
	}
	if !(c.Eps >= 0) {
		bad("eps", c.Eps, "0 or more")
	}
	if !(c.WeightDecay >= 0) {
		bad("weight_decay", c.WeightDecay, "0 or more")
	}
	if !(c.LoRAPlusRatio >= 0) {
		bad("loraplus_ratio", c.LoRAPlusRatio, "0 or more")
	}
	return errors.Join(errs...)
}

// Range is consecutive elements of one trainable parameter that this rank updates: value, gradient and the two moments, all contiguous
// float32 of the same length. Start is the first element within the parameter, a multiple of autograd.ChunkLen.
type Range struct {
	Param      *autograd.Param
	Start, Len int64
	P, G, M, V kernels.Tensor
}

// Decays reports whether weight decay applies to a parameter.
func (c Config) Decays(p *autograd.Param) bool {
	return !c.SkipDecay || p.Role != autograd.RoleBias && p.Role != autograd.RoleNorm
}

func (c Config) decay(p *autograd.Param) float64 {
	if !c.Decays(p) {
		return 0
	}
	return c.WeightDecay
}

// scale is the factor on a parameter's learning rate.

func (c Config) scale(p *autograd.Param) float64 {
	if p.Role == autograd.RoleLoRAB && c.LoRAPlusRatio > 0 {
		return c.LoRAPlusRatio
	}
	return 1
}

// Step updates every range as torch.optim.AdamW does: step counts from 1. clip (f32) multiplies the gradients and skip (i32, not 0)
// leaves everything as it is; both are device scalars and may be absent.
func (c Config) Step(q *kernels.Queue, ranges []Range, lr float64, step int64, clip, skip kernels.Tensor) error {
	for _, r := range ranges {
		q.AdamW(kernels.AdamW{P: r.P, M: r.M, V: r.V, G: r.G, LR: lr * c.scale(r.Param), Beta1: c.Beta1, Beta2: c.Beta2, Eps: c.Eps,
			WeightDecay: c.decay(r.Param), Step: step, ClipDev: clip.Data, SkipDev: skip.Data})
	}
	if err := q.Err(); err != nil {
		return fmt.Errorf("cannot update parameters: %w", err)
	}
	return nil
}

// State holds the moments of whole parameters (training without sharding).
type State struct {
	Ranges []Range
	arena  *kernels.Arena
}

// NewState makes zero moments for every trainable parameter of the units; values and gradients are those bound now.
func NewState(dev *kernels.Device, q *kernels.Queue, units []*autograd.Unit) (*State, error) {
	s := &State{}
	var total int64
	for _, u := range units {
		total += 2 * u.GradLayout().Len * 4
	}
	if total == 0 {
		return s, nil
	}
	arena, err := dev.NewArena("optimizer state", total+512*int64(len(units)))
	if err != nil {
		return nil, fmt.Errorf("cannot allocate optimizer state: %w", err)
	}
	s.arena = arena
	for _, u := range units {
		l := u.GradLayout()
		if l.Len == 0 {
			continue
		}
		var flat [2]kernels.Tensor
		for i := range flat {
			if flat[i], err = arena.New(kernels.F32, l.Len); err != nil {
				arena.Close()
				return nil, fmt.Errorf("cannot allocate optimizer state: %w", err)
			}
			q.Fill(kernels.Fill{Y: flat[i]})
		}
		for _, slot := range l.Slots {
			n := slot.Param.Len()
			s.Ranges = append(s.Ranges, Range{Param: slot.Param, Len: n, P: slot.Param.Data.Reshape(n), G: slot.Param.Grad.Reshape(n),
				M: flat[0].Slice(0, slot.Offset, slot.Offset+n), V: flat[1].Slice(0, slot.Offset, slot.Offset+n)})
		}
	}
	return s, q.Err()
}

// Close frees the moments.
func (s *State) Close() {
	if s != nil && s.arena != nil {
		s.arena.Close()
		s.arena = nil
	}
}
