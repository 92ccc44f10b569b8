package optim

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Schedule gives the factor on the learning rate at a step, exactly as the schedules of transformers.get_scheduler do: step 0 of a warmup
// has the factor 0 (but for cosine_warmup_with_min_lr).
type Schedule struct {
	// Name is one of Schedules.
	Name string
	// Warmup is the number of warmup steps; "constant" with warmup is "constant_with_warmup".
	Warmup int64
	// Total is the number of optimizer steps of the whole training.
	Total int64
	// LR is the base rate; schedules with an absolute end (lr_end, min_lr) need it.
	LR float64
	// Args are lr_scheduler_kwargs by their names in transformers.
	Args schemas.ScheduleArgs
}

// Schedules lists the names.
func Schedules() []string { return schemas.Schedules() }

// Validate reports an unknown name, negative counts and arguments that do not fit.
func (s Schedule) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "schedule", format, args...))
	}
	if !slices.Contains(Schedules(), s.Name) {
		return schemas.Errorf(schemas.CodeUnsupported, "schedule", "unknown learning-rate schedule %q (%s)", s.Name, strings.Join(Schedules(), ", "))
	}
	if s.Warmup < 0 || s.Total < 0 {
		bad("warmup %d and total %d must not be negative", s.Warmup, s.Total)
	}
	if err := s.Args.Validate(s.Name); err != nil {
		errs = append(errs, err)
	}
	if s.Name == "polynomial" && !(s.LR > s.lrEnd()) {
		bad("lr_end (%g) must be smaller than the learning rate (%g)", s.lrEnd(), s.LR)
	}
	return errors.Join(errs...)
}

func or(p *float64, v float64) float64 {
	if p != nil {
		return *p
	}
	return v
}

func (s Schedule) lrEnd() float64 { return or(s.Args.LREnd, 1e-7) }

// minRate is the least factor of the schedules that have one.
func (s Schedule) minRate() float64 {
	if m := s.Args.MinLR; m != nil {
		return *m / s.LR
	}
	return or(s.Args.MinLRRate, 0)
}

// Factor is the multiplier of the base learning rate at a step counted from 0. Factor times LR is the rate of that step.
func (s Schedule) Factor(step int64) float64 {
	switch s.Name {
	case "cosine_warmup_with_min_lr":
		return s.cosineWarmup(float64(step))
	case "warmup_stable_decay":
		return s.stableDecay(step)
	}
	if step < s.Warmup {
		return float64(step) / float64(max(1, s.Warmup))
	}
	span := float64(max(1, s.Total-s.Warmup))
	progress := float64(step-s.Warmup) / span
	switch s.Name {
	case "linear":
		return max(0, float64(s.Total-step)/span)
	case "cosine":
		return max(0, 0.5*(1+math.Cos(math.Pi*or(s.Args.NumCycles, 0.5)*2*progress)))
	case "cosine_with_restarts":
		if progress >= 1 {
			return 0
		}
		return max(0, 0.5*(1+math.Cos(math.Pi*math.Mod(or(s.Args.NumCycles, 1)*progress, 1))))
	case "cosine_with_min_lr":
		least := s.minRate()
		return max(0, float64(0.5*(1+math.Cos(math.Pi*or(s.Args.NumCycles, 0.5)*2*progress))*(1-least))+least)
	case "polynomial":
		if step > s.Total {
			return s.lrEnd() / s.LR
		}
		rest := 1 - float64(step-s.Warmup)/float64(s.Total-s.Warmup)
		if s.Total == s.Warmup {
			rest = 0
		}
		return (float64((s.LR-s.lrEnd())*math.Pow(rest, or(s.Args.Power, 1))) + s.lrEnd()) / s.LR
	case "inverse_sqrt":
		scale := float64(s.Warmup)
		if scale == 0 {
			scale = 10_000
		}
		// get_scheduler drops the argument timescale; so does this.
		return 1 / math.Sqrt((float64(step)+scale-float64(s.Warmup))/scale)
	}
	return 1
}

// cosineWarmup counts steps from 1, in warmup and after it.
func (s Schedule) cosineWarmup(step float64) float64 {
	warm, least := float64(s.Warmup), s.minRate()
	if step < warm {
		if r := s.Args.WarmupLRRate; r != nil {
			return *r + float64((1-*r)*step)/max(1, warm-1)
		}
		return (step + 1) / max(1, warm)
	}
	progress := (step - warm + 1) / max(1, float64(s.Total)-warm)
	return max(0, float64(0.5*(1+math.Cos(math.Pi*or(s.Args.NumCycles, 0.5)*2*progress))*(1-least))+least)
}

// stableDecay is warmup, plateau and decay.
func (s Schedule) stableDecay(step int64) float64 {
	least := or(s.Args.MinLRRatio, 0)
	shape := func(kind string, progress float64, down bool) float64 {
		f := progress
		switch kind {
		case "cosine":
			if down {
				f = 0.5 * (1 + math.Cos(math.Pi*or(s.Args.NumCycles, 0.5)*2*progress))
			} else {
				f = 0.5 * (1 - math.Cos(math.Pi*progress))
			}
		case "1-sqrt":
			if down {
				f = 1 - math.Sqrt(progress)
			} else {
				f = 1 - math.Sqrt(1-progress)
			}
		default:
			if down {
				f = 1 - progress
			}
		}
		return max(0, float64(f*(1-least))+least)
	}
	decay := int64(or(s.Args.NumDecaySteps, 0))
	stable := int64(or(s.Args.NumStableSteps, float64(s.Total-s.Warmup-decay)))
	if s.Args.Thirds {
		left := max(0, s.Total-s.Warmup)
		stable = int64(or(s.Args.NumStableSteps, float64(left/3)))
		decay = int64(or(s.Args.NumDecaySteps, float64(left-left/3)))
	}
	up, down := s.Args.WarmupType, s.Args.DecayType
	if down == "" {
		down = "cosine"
	}
	switch {
	case step < s.Warmup:
		return shape(up, float64(step)/float64(max(1, s.Warmup)), false)
	case step < s.Warmup+stable:
		return 1
	case step < s.Warmup+stable+decay:
		return shape(down, float64(step-s.Warmup-stable)/float64(max(1, decay)), true)
	}
	return least
}

// WarmupSteps is transformers' number of warmup steps: steps when positive, else ceil(total * ratio).
func WarmupSteps(steps int64, ratio float64, total int64) int64 {
	if steps > 0 {
		return steps
	}
	return int64(math.Ceil(float64(total) * ratio))
}
