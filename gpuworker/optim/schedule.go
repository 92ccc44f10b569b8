// Package optim holds the optimizer over flat shards, gradient clipping and learning-rate schedules.
package optim

import (
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/schemas"
)

// Schedule gives the factor on the learning rate at a step, exactly as the LambdaLR schedules of transformers do: step 0 of a warmup
// has the factor 0.
type Schedule struct {
	// Name is "constant", "constant_with_warmup", "linear" or "cosine".
	Name string
	// Warmup is the number of warmup steps; "constant" with warmup is "constant_with_warmup".
	Warmup int64
	// Total is the number of optimizer steps of the whole training.
	Total int64
}

// Validate reports an unknown name or negative counts.
func (s Schedule) Validate() error {
	switch s.Name {
	case "constant", "constant_with_warmup", "linear", "cosine":
	default:
		return schemas.Errorf(schemas.CodeUnsupported, "schedule", "unknown learning-rate schedule %q (constant, linear, cosine are supported)", s.Name)
	}
	if s.Warmup < 0 || s.Total < 0 {
		return fmt.Errorf("schedule: warmup %d and total %d must not be negative", s.Warmup, s.Total)
	}
	return nil
}

// Factor is the multiplier of the base learning rate at a step counted from 0.
func (s Schedule) Factor(step int64) float64 {
	if step < s.Warmup {
		return float64(step) / float64(max(1, s.Warmup))
	}
	span := float64(max(1, s.Total-s.Warmup))
	switch s.Name {
	case "linear":
		return max(0, float64(s.Total-step)/span)
	case "cosine":
		progress := float64(step-s.Warmup) / span
		return max(0, 0.5*(1+math.Cos(math.Pi*0.5*2*progress)))
	}
	return 1
}
