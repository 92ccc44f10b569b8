package verifydata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
)

// rateTolerance is how far learning rates may be from transformers': rates are small numbers, so that a score's tolerance would hide wrong ones.
const rateTolerance = 1e-14

// scheduleRates computes learning rates with the optimizer's own schedules.
func scheduleRates(_ context.Context, _ *Env, f *File) ([]Case, error) {
	order := []string{"name", "base_lr", "num_warmup_steps", "num_training_steps", "kwargs", "lr"}
	const tail = 6 // entries past the end
	return rebuildWithin(f, rateTolerance, order, []string{"lr"}, func(o *pyjson.Object) ([]Field, error) {
		name, err := text(o, "name")
		if err != nil {
			return nil, err
		}
		base, ok := number(o.Value("base_lr"))
		warmup, ok2 := o.Value("num_warmup_steps").(int64)
		total, ok3 := o.Value("num_training_steps").(int64)
		if !ok || !ok2 || !ok3 {
			return nil, errors.New("base_lr, num_warmup_steps and num_training_steps must be numbers")
		}
		s := optim.Schedule{Name: name, Warmup: warmup, Total: total, LR: base}
		if name == "constant" {
			s.Warmup = 0 // transformers' constant schedule has no warmup; that of a run spec has the one it asks for
		}
		if kwargs, ok := o.Value("kwargs").(*pyjson.Object); ok {
			dec := json.NewDecoder(strings.NewReader(pyjson.Dumps(kwargs)))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&s.Args); err != nil {
				return nil, fmt.Errorf("cannot read kwargs of schedule %s: %w", name, err)
			}
		}
		if err := s.Validate(); err != nil {
			return nil, err
		}
		n := int(total) + tail
		if want, ok := o.Value("lr").([]any); ok {
			n = len(want)
		}
		lr := make([]any, n)
		for i := range lr {
			lr[i] = base * s.Factor(int64(i))
		}
		return []Field{{Key: "lr", Value: lr}}, nil
	})
}

// warmupSteps are the share of the steps, rounded up.
func warmupSteps(_ context.Context, _ *Env, f *File) ([]Case, error) {
	return rebuild(f, []string{"warmup_ratio", "num_training_steps", "warmup_steps"}, []string{"warmup_steps"}, func(o *pyjson.Object) ([]Field, error) {
		ratio, ok := number(o.Value("warmup_ratio"))
		total, ok2 := number(o.Value("num_training_steps"))
		if !ok || !ok2 {
			return nil, fmt.Errorf("warmup_ratio and num_training_steps must be numbers")
		}
		return []Field{{Key: "warmup_steps", Value: int64(math.Ceil(total * ratio))}}, nil
	})
}
