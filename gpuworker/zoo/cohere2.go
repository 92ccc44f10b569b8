package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

func cohere2Entries() []entry {
	c := cohereDefaults()
	c.Window = some(4096)
	return []entry{define("Cohere2ForCausalLM", "cohere2", c, nil, describeCohere2)}
}

// describeCohere2 is cohere with windows on most layers and no rotation on the others (modeling_cohere2.py).
func describeCohere2(c CohereConfig) description {
	c.QKNorm = false
	return c.describe(func(i int) nn.Heads {
		h := c.geometry()
		h.Window = windowOf(c.LayerTypes[i], c.Window)
		h.NoRope = h.Window == 0
		return h
	})
}
