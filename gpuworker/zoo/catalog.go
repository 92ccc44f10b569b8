package zoo

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// Listing is what there is to know about an architecture without a checkpoint.
type Listing struct {
	Architecture string   `json:"architecture"`
	ModelTypes   []string `json:"model_types"`
	// Parameters are the checkpoint keys that are mapped, with N for the index of a layer, a head or an expert.
	Parameters []string `json:"parameters"`
	// Dropout are the keys of config.json by which training drops at random, as transformers does it.
	Dropout []string `json:"dropout"`
	// Modules are the last names of linear layers within blocks, which adapters can target.
	Modules []string `json:"modules"`
}

var index = regexp.MustCompile(`\.\d+\.`)

// Catalog lists every architecture by name, as its default options make it.
func Catalog() ([]Listing, error) {
	// Small sizes under every spelling; the defaults of some files do not fit one another.
	keys := map[string]any{"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "hidden_size": 512, "n_embd": 512, "d_model": 512,
		"num_attention_heads": 8, "num_key_value_heads": 8, "n_head": 8, "n_heads": 8, "num_experts_per_tok": 2, "n_routed_experts": 8, "n_group": 1, "topk_group": 1}
	var out []Listing
	for _, e := range architectures() {
		keys["architectures"] = []string{e.name}
		config, err := json.Marshal(keys)
		if err != nil {
			return nil, fmt.Errorf("cannot encode configuration: %w", err)
		}
		m, err := New(config)
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", e.name, err)
		}
		l := Listing{Architecture: e.name, ModelTypes: e.modelTypes, Dropout: append([]string{}, m.Info().DropoutKeys...)}
		for _, p := range nn.Params(m.Root()) {
			l.Parameters = append(l.Parameters, index.ReplaceAllString(p.Name, ".N."))
		}
		nn.WalkLinears(m.Root(), func(path string, _ *nn.Linear) {
			if index.MatchString(path) {
				l.Modules = append(l.Modules, path[strings.LastIndexByte(path, '.')+1:])
			}
		})
		l.Parameters, l.Modules = sorted(l.Parameters), sorted(l.Modules)
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Listing) int { return strings.Compare(a.Architecture, b.Architecture) })
	return out, nil
}

func sorted(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
