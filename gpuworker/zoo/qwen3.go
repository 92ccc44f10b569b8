package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

func qwen3Entries() []entry {
	c := qwenDefaults()
	c.HeadDim = some(128)
	return []entry{define("Qwen3ForCausalLM", "qwen3", c, nil, describeQwen3)}
}

// describeQwen3 is llama with a norm on each query and key head (modeling_qwen3.py).
func describeQwen3(c QwenConfig) description {
	d := newDecoder(c.Sizes, nn.NewRMSNorm(c.Hidden, c.Eps), func(i int) llamaBlock {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		a := nn.NewAttention(c.Hidden, h, c.AttentionBias, c.AttentionBias, c.InitRange)
		a.QNorm, a.KNorm = nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0), nn.NewRMSNorm(c.headDim(), c.Eps).PerHead(c.headDim(), 0)
		return newLlamaBlock(c.Sizes, c.Eps, a, false)
	})
	d.ropes = []nn.Rope{c.rope(c.headDim(), c.MaxPositions)}
	return d
}
