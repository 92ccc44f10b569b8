package adapter

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// QuantConfig says how the frozen matrices of the blocks are packed.
type QuantConfig struct {
	// Type is "" (not at all), "nf4" or "int8".
	Type string
	// Double packs the scales of NF4's blocks too.
	Double bool
}

func (q QuantConfig) validate(bad func(key, format string, args ...any)) {
	if q.Type != "" && q.Type != "nf4" && q.Type != "int8" {
		bad("quant.type", "%q is unknown (nf4, int8)", q.Type)
	}
}

// packed stands for a frozen matrix in few bits.
type packed struct{}

func (p *packed) Forward(*nn.Tape, *nn.Linear, nn.Value, nn.Value) nn.Value { return nn.Value{} }
func (p *packed) Params() []*nn.Param                                       { return nil }
func (p *packed) matrix(*nn.Tape) ops.Matrix                                { return ops.Matrix{} }

func (a *Adapters) pack(Model, map[*nn.Param]*nn.Unit) error {
	if a.Config.Quant.Type != "" {
		return schemas.Errorf(schemas.CodeUnsupported, "quant", "is not supported yet")
	}
	return nil
}
