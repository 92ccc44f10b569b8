package zoo

import "github.com/tunefleet/tunefleet/gpuworker/nn"

func gemma3Entries() []entry {
	c := gemma2Defaults()
	c.Vocab, c.MaxPositions, c.RopeTheta, c.Pattern = 262208, 131072, 1e6, 6
	c.FinalSoftcap, c.AttnSoftcap = maybe[float64]{}, maybe[float64]{}
	return []entry{define("Gemma3ForCausalLM", "gemma3_text", c, map[string]string{"_sliding_window_pattern": "sliding_window_pattern"}, describeGemma3)}
}

// describeGemma3 is gemma 2 with a norm on each query and key head and, in layers with a window, a rotary table of its own; scores have
// no softcap (modeling_gemma3.py).
func describeGemma3(c Gemma2Config) description {
	d := c.describe(func(i int) nn.Heads {
		h := c.heads(i)
		if h.Window > 0 {
			h.Rope = 1
		}
		return h
	}, func(a *nn.Attention) {
		a.QNorm = nn.NewRMSNorm(c.headDim(), c.Eps).OnePlus().PerHead(c.headDim(), 0)
		a.KNorm = nn.NewRMSNorm(c.headDim(), c.Eps).OnePlus().PerHead(c.headDim(), 0)
	})
	d.ropes = append(d.ropes, nn.Rope{Dim: c.headDim(), Theta: c.LocalTheta, MaxPos: c.MaxPositions})
	return d
}
