package adapter

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// dropout is one module's.
type dropout struct {
	p      float64
	stream uint64
}

func (a *Adapters) dropout(path string) dropout {
	return dropout{p: a.Config.Dropout, stream: nn.Stream(path + ".lora_dropout")}
}

// apply is x after dropout; ok is false, and the value absent, where nothing is dropped: in evaluation, or with p = 0.
func (d dropout) apply(t *nn.Tape, x nn.Value) (y nn.Value, ok bool) {
	if d.p <= 0 {
		return nn.Value{}, false
	}
	n, ok := t.Noise()
	if !ok {
		return nn.Value{}, false
	}
	return ops.Dropout(t, x, ops.DropoutConfig{P: float32(d.p), Seed: n.Seed, Stream: d.stream ^ autograd.Mix(n.Step), Rows: n.Rows}), true
}
