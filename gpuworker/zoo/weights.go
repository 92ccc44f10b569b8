package zoo

import (
	"os"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// OpenWeights opens the checkpoint of a model folder under the names that the model uses: tensors saved from the base model alone lack
// its prefix ("h.0.ln_1.weight" for "transformer.h.0.ln_1.weight"), as the first files of gpt2 and bloom do.
func OpenWeights(root *os.Root, info Info) (*safetensors.Set, error) {
	set, err := safetensors.OpenModel(root)
	if err != nil {
		return nil, err
	}
	prefix := info.Prefix + "."
	for _, n := range set.Names() {
		if info.Prefix == "" || strings.HasPrefix(n, prefix) {
			return set, nil
		}
	}
	err = set.Rename(func(n string) string {
		if n == info.HeadKey || strings.TrimSuffix(n, ".bias") == strings.TrimSuffix(info.HeadKey, ".weight") {
			return n
		}
		return prefix + n
	})
	if err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

// CheckWeights compares the parameters of a model with a checkpoint both ways: all that is missing, misshapen or unused is one error.
func CheckWeights(info Info, params []*nn.Param, set *safetensors.Set) error {
	return nn.Check(params, set, func(key string) bool { return unused(key) || info.Tied && key == info.HeadKey })
}

// unused reports tensors that older tools wrote and that carry no weights: rotary tables and causal masks.
func unused(key string) bool {
	for _, s := range []string{".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"} {
		if strings.HasSuffix(key, s) {
			return true
		}
	}
	return false
}
