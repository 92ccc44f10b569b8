package train

import (
	"encoding/json"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// AdapterConfig is the adapter that a train stage's spec describes, nil when its method trains none. resumed, when not nil, is the
// configuration of an existing adapter that training goes on with: it says everything but how the base is stored.
func AdapterConfig(t *schemas.TrainStage, resumed *adapter.Config) (*adapter.Config, error) {
	c := &adapter.Config{}
	switch {
	case resumed != nil:
		*c = *resumed
		if kind := c.Kind; kind != kindOf(t.Method) && (kind != "" || t.Method != "lora") {
			return nil, schemas.Errorf(schemas.CodeInvalid, "adapters", "the existing adapter is of kind %q, the stage's method is %q", kind, t.Method)
		}
	case t.Method == "lora" && t.LoRA != nil:
		l := t.LoRA
		*c = adapter.Config{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, DoRA: l.DoRA, Dropout: l.Dropout, PiSSA: l.PiSSA, PiSSAIter: l.PiSSAIter,
			RankPattern: l.RankPattern, AlphaPattern: l.AlphaPattern, Targets: l.Targets, Spread: l.LlamaPro, Save: l.ModulesToSave}
	case t.Method == "oft" && t.OFT != nil:
		*c = adapter.Config{Kind: adapter.KindOFT, Targets: t.OFT.Targets, Spread: t.OFT.LlamaPro, Save: t.OFT.ModulesToSave,
			OFT: adapter.OFTConfig{Rank: t.OFT.Rank, BlockSize: t.OFT.BlockSize}}
	case t.Method == "bottleneck" && t.Bottleneck != nil:
		b := t.Bottleneck
		place := adapter.Houlsby
		if b.Kind == "pfeiffer" {
			place = adapter.Pfeiffer
		}
		*c = adapter.Config{Kind: adapter.KindBottleneck, Save: b.ModulesToSave, Bottleneck: place(b.Size, b.Activation)}
	default:
		return nil, nil
	}
	if first := t.FreezeLayers; first > 0 && resumed == nil {
		c.Layers = func(block int) bool { return block >= first }
	}
	if t.Init != nil {
		c.Torch = &adapter.TorchDraws{Seed: t.Init.Seed}
	}
	if t.Quant != nil {
		c.Quant = adapter.QuantConfig{Type: t.Quant.Type, Double: t.Quant.Double}
	}
	return c, nil
}

func kindOf(method string) adapter.Kind { return adapter.Kind(method) }

// prepare applies the method to a model: adapters, or frozen parameters, which are held in the compute type. c is what AdapterConfig made
// of the stage.
func prepare(m zoo.Model, t *schemas.TrainStage, c *adapter.Config) (a *adapter.Adapters, err error) {
	switch f := t.Freeze; {
	case c != nil:
		a, err = adapter.Apply(m, *c)
	case f != nil:
		err = adapter.Freeze(m, adapter.FreezeConfig{Layers: f.TrainableLayers, Spread: f.LlamaPro, Modules: f.Modules, Extra: f.Extra})
	default:
		err = adapter.FreezeFirst(m, t.FreezeLayers)
	}
	if err != nil {
		return nil, err
	}
	autograd.StoreFrozen(m.Units(), computeType(t.DType))
	return a, nil
}

// skipMerged leaves out the numbers that torch's generator gives for adapters which are merged before the new one is made: PEFT makes them
// as it makes new ones, and then loads their values. config is the model's.
func skipMerged(config json.RawMessage, k *link) error {
	if k.adapter == nil || k.adapter.Torch == nil {
		return nil
	}
	for _, f := range k.folders {
		m, err := zoo.New(config)
		if err != nil {
			return err
		}
		a, err := adapter.Apply(m, f.config)
		if err != nil {
			return err
		}
		k.adapter.Torch.Skip += a.Draws()
	}
	return nil
}

// folderRefs are the adapter folders that a stage merges into its base, and the one that it goes on with (nil: none).
func folderRefs(t *schemas.TrainStage) (merged []schemas.Ref, resumed *schemas.Ref) {
	n := len(t.Adapters)
	if n == 0 || t.CreateNewAdapter {
		return t.Adapters, nil
	}
	return slices.Clone(t.Adapters[:n-1]), &t.Adapters[n-1]
}
