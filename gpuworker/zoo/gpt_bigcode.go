package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

func bigcodeEntries() []entry {
	c := gpt2Defaults()
	c.Act, c.MultiQuery = "gelu_pytorch_tanh", true
	return []entry{define("GPTBigCodeForCausalLM", "gpt_bigcode", c, gpt2Names(), describeBigCode)}
}

// describeBigCode is gpt2 with ordinary linear layers and one key and value head, or a key and value beside each query
// (modeling_gpt_bigcode.py).
func describeBigCode(c GPT2Config) description {
	layout := ops.FusedHeads
	if c.MultiQuery {
		layout = ops.FusedParts
	}
	return c.describe(layout, func(in, out int) nn.Linear { return nn.NewLinear(in, out, true, c.InitRange) })
}
