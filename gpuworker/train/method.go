package train

import (
	"errors"

	"github.com/tunefleet/tunefleet/schemas"
)

// unsupported refuses what the spec can say but this build cannot train yet.
func unsupported(t *schemas.TrainStage) error {
	var errs []error
	no := func(yes bool, key string) {
		if yes {
			errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, key, "is not supported yet"))
		}
	}
	if l := t.LoRA; l != nil {
		no(l.Dropout > 0, "lora.dropout")
		no(l.RSLoRA, "lora.rslora")
		no(l.DoRA, "lora.dora")
		no(l.PiSSA, "lora.pissa")
		no(len(l.ModulesToSave) > 0, "lora.modules_to_save")
		no(len(l.RankPattern)+len(l.AlphaPattern) > 0, "lora.rank_pattern")
	}
	no(t.Objective != "pt" && t.Objective != "sft", "objective: "+t.Objective)
	no(t.Features != nil, "features")
	no(t.OFT != nil, "oft")
	no(t.Bottleneck != nil, "bottleneck")
	no(t.Freeze != nil, "freeze")
	no(t.Quant != nil, "quant")
	no(len(t.Adapters) > 0, "adapters")
	no(t.ExpandBlocks > 0, "expand_blocks")
	return errors.Join(errs...)
}
