package train

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// Precisions in the order in which "auto" prefers them. Checkpoints name them.
const (
	bf16 = "bf16"
	fp16 = "fp16"
	fp32 = "fp32"
)

// dtypeKey is the checkpoint's state that holds the precision which "auto" has become.
const dtypeKey = "dtype"

// computeType is the element type of activations that a precision names; "auto", where it is not resolved (plans), counts as bf16.
func computeType(dtype string) kernels.DType {
	switch dtype {
	case bf16, "auto":
		return kernels.BF16
	case fp16:
		return kernels.F16
	}
	return kernels.F32
}

// Precision is what "auto" becomes on a device, and why: bf16 before fp16 before fp32, whichever the device multiplies by itself.
func Precision(info kernels.Info) (dtype, why string) {
	if info.Backend != "cpu" {
		var cc int
		if _, err := fmt.Sscanf(info.ISA, "sm_%d", &cc); err == nil {
			switch {
			case cc >= 80:
				return bf16, fmt.Sprintf("%s (%s) multiplies bf16", info.Name, info.ISA)
			case cc >= 70:
				return fp16, fmt.Sprintf("%s (%s) multiplies fp16 and has no bf16", info.Name, info.ISA)
			}
			return fp32, fmt.Sprintf("%s (%s) multiplies neither bf16 nor fp16 fast", info.Name, info.ISA)
		}
	}
	if info.MultipliesBF16() {
		return bf16, fmt.Sprintf("%s multiplies bf16 (%s)", info.Name, info.ISA)
	}
	return fp32, fmt.Sprintf("%s (%s) has no products of bf16 or fp16: it would only store and round them, and multiply in fp32", info.Name, info.ISA)
}

// explain says what a precision that a spec names means on a device.
func explain(dtype string, info kernels.Info) string {
	switch {
	case info.Backend == "cpu" && dtype == fp16:
		return "the spec says so; the CPU stores and rounds fp16 and multiplies in fp32"
	case info.Backend == "cpu" && dtype == bf16 && !info.MultipliesBF16():
		return "the spec says so; this CPU stores and rounds bf16 and multiplies in fp32"
	}
	return "the spec says so"
}

// resolvePrecision settles the stage's precision: what a commit of the stage was made with, else what the device does best. All ranks of a
// gang have to agree.
func (s *session) resolvePrecision(ctx context.Context) error {
	info, err := s.dev.Info()
	if err != nil {
		return err
	}
	dtype, why := s.stage.DType, explain(s.stage.DType, info)
	if dtype == "auto" {
		if dtype, why = Precision(info); s.t.Gang.World > 1 {
			if err := s.agree(ctx, dtype); err != nil {
				return err
			}
		}
		if head := s.t.Gang.Head; head != nil && head.Manifest != nil && head.Manifest.Stage == s.t.Message.Stage {
			m, err := checkpoint.ReadManifest(ctx, s.t.Objects, *head.Manifest)
			if err != nil {
				return err
			}
			if was := m.State[dtypeKey]; was != "" {
				dtype, why = was, "the stage began with it"
			}
		}
		resolved := *s.stage
		resolved.DType = dtype
		s.stage = &resolved
	}
	s.t.Logger.Info("precision", "dtype", dtype, "pure", s.stage.PureBF16, "why", why)
	if s.t.Gang.Rank == 0 {
		s.t.Report(schemas.Event{At: time.Now().UTC(), Type: schemas.EventNote, Tenant: s.t.Message.Tenant, Run: s.t.Message.Run, Stage: s.t.Message.Stage,
			Worker: s.t.Worker, Generation: s.t.Gang.Generation, Message: "precision " + dtype + ": " + why})
	}
	return nil
}

// agree makes sure that every rank's device has the same ability.
func (s *session) agree(ctx context.Context, dtype string) error {
	recv := make([][]byte, s.t.Gang.World)
	for i := range recv {
		recv[i] = make([]byte, len(dtype)) // bf16, fp16 and fp32 are equally long
	}
	if err := s.t.Gang.Collective.AllGather(ctx, []byte(dtype), recv); err != nil {
		return fmt.Errorf("cannot agree on a precision: %w", err)
	}
	for r, b := range recv {
		if string(b) != dtype {
			return schemas.Errorf(schemas.CodeConflict, "dtype", "rank %d is best at %s, rank %d at %s", s.t.Gang.Rank, dtype, r, b).
				WithHint("name the precision: bf16, fp16 or fp32")
		}
	}
	return nil
}

// Constants of torch.amp.GradScaler.
const (
	firstScale     = 65536.0
	growthInterval = 2000
	// leastScale is where an overflow is no longer one of the scale: the step is an anomaly then.
	leastScale = 1.0 / 65536
)

// scaler is torch.amp.GradScaler: with fp16 the loss is multiplied by Scale, so that small gradients do not vanish, and gradients are divided
// by it before the update. Scales are powers of two, so that this changes no digit. A step whose gradient is not finite is skipped and halves
// the scale; growthInterval good steps in a row double it. It is part of every checkpoint.
type scaler struct {
	Scale float64 `json:"scale"`
	// Good counts the good steps since the scale changed, Skipped all updates that were skipped.
	Good    int   `json:"good,omitempty"`
	Skipped int64 `json:"skipped,omitempty"`
}

// overflowed reports whether a step is one to skip, and then halves the scale.
func (a *scaler) overflowed(loss, norm float64) bool {
	if a == nil || finite(loss) && finite(norm) || a.Scale <= leastScale {
		return false
	}
	a.Scale, a.Good = a.Scale/2, 0
	a.Skipped++
	return true
}

// stepped notes a good step.
func (a *scaler) stepped() {
	if a == nil {
		return
	}
	if a.Good++; a.Good == growthInterval {
		a.Good = 0
		if s := float32(2 * a.Scale); !math.IsInf(float64(s), 0) {
			a.Scale *= 2
		}
	}
}

// scale is what losses are multiplied by.
func (a *scaler) scale() float64 {
	if a == nil {
		return 1
	}
	return a.Scale
}

// skipped is the number of updates that were not made.
func (a *scaler) skipped() int64 {
	if a == nil {
		return 0
	}
	return a.Skipped
}

// openScaler makes the scaler of a stage in fp16 that begins.
func (s *session) openScaler() {
	if s.stage.DType == fp16 {
		s.watch.Scaler = &scaler{Scale: firstScale}
		if v := s.stage.LossScale; v > 0 {
			s.watch.Scaler.Scale = v
		}
	}
}
