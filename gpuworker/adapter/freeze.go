package adapter

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// FreezeFirst freezes the first n blocks; embedding, other blocks, final norm and head keep training.
func FreezeFirst(m Model, n int) error {
	return freeze(m, n, func(u *nn.Unit, blocks int) bool { return u.Block >= 0 && u.Block < n })
}

// TrainLast freezes everything but the last n blocks (LLaMA-Factory's freeze method).
func TrainLast(m Model, n int) error {
	return freeze(m, n, func(u *nn.Unit, blocks int) bool { return u.Block < blocks-n })
}

func freeze(m Model, n int, frozen func(u *nn.Unit, blocks int) bool) error {
	blocks := 0
	for _, u := range m.Units() {
		blocks = max(blocks, u.Block+1)
	}
	if n < 0 || n > blocks {
		return schemas.Errorf(schemas.CodeInvalid, "freeze_layers", "%d is not between 0 and the model's %d blocks", n, blocks)
	}
	for _, u := range m.Units() {
		if frozen(u, blocks) {
			for _, p := range u.Params {
				p.Frozen = true
			}
		}
	}
	return nil
}
