package zoo

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxConfig bounds config.json.
const maxConfig = 1 << 20

// entry is one architecture's line in the table.
type entry struct {
	// name is the class in transformers, modelTypes the values of model_type it goes by.
	name       string
	modelTypes []string
	build      func(raw json.RawMessage) (Model, error)
}

// architectures is the table: each file contributes its entries.
func architectures() []entry {
	return slices.Concat(
		llamaEntries(),
		mixtralEntries(), qwenMoEEntries(), olmoeEntries(), graniteMoEEntries(), deepseekEntries(), glm4MoEEntries(), gptOssEntries(),
		ernie45MoEEntries(), dots1Entries(), flexOlmoEntries(), hunyuanMoEEntries(), phimoeEntries(),
		mistralEntries(),
		qwen2Entries(),
		qwen3Entries(),
		gemmaEntries(),
		gemma2Entries(),
		gemma3Entries(),
		graniteEntries(),
		olmoEntries(),
		olmo2Entries(),
		exaone4Entries(),
		smollm3Entries(),
		ernie45Entries(),
		seedOssEntries(),
		hunyuanEntries(),
		nemotronEntries(),
		starcoder2Entries(),
		stablelmEntries(),
		cohereEntries(),
		cohere2Entries(),
		glmEntries(),
		glm4Entries(),
		phiEntries(),
		phi3Entries(),
		bloomEntries(),
		neoxEntries(),
		gpt2Entries(),
		bigcodeEntries(),
		gptjEntries(),
		optEntries(),
		falconEntries(),
		mptEntries(),
		internlm2Entries(),
		baichuanEntries(),
	)
}

// Architectures lists the names that New knows.
func Architectures() []string {
	var names []string
	for _, e := range architectures() {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names
}

// find is the entry for a config.json: by the first of "architectures", or without those by "model_type".
func find(architecture, modelType string) (entry, error) {
	table := architectures()
	for _, e := range table {
		if architecture == e.name || architecture == "" && modelType != "" && slices.Contains(e.modelTypes, modelType) {
			return e, nil
		}
	}
	names := Architectures()
	switch {
	case architecture != "":
		return entry{}, schemas.Errorf(schemas.CodeUnsupported, "config.json:architectures", "architecture %q is not supported", architecture).
			WithHint("nearest known: %s", strings.Join(nearest(architecture, names, 3), ", "))
	case modelType != "":
		var types []string
		for _, e := range table {
			types = append(types, e.modelTypes...)
		}
		return entry{}, schemas.Errorf(schemas.CodeUnsupported, "config.json:model_type", "model type %q is not supported", modelType).
			WithHint("nearest known: %s", strings.Join(nearest(modelType, types, 3), ", "))
	}
	return entry{}, schemas.Errorf(schemas.CodeModel, "config.json:architectures", "missing, and so is model_type; known are %s", strings.Join(names, ", "))
}

// New makes a model without storage from the content of a config.json. An unknown architecture's error names the nearest known ones.
func New(config []byte) (Model, error) {
	if len(config) > maxConfig {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "larger than %d bytes", maxConfig)
	}
	e, err := lookup(config)
	if err != nil {
		return nil, err
	}
	return e.build(slices.Clone(config))
}

func lookup(config []byte) (entry, error) {
	var head struct {
		Architectures []string `json:"architectures"`
		ModelType     string   `json:"model_type"`
	}
	if err := json.Unmarshal(config, &head); err != nil {
		return entry{}, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	name := ""
	if len(head.Architectures) > 0 {
		name = head.Architectures[0]
	}
	return find(name, head.ModelType)
}

// Supported reports whether New knows the architecture that a config.json names; the error says which are nearest.
func Supported(config []byte) error {
	_, err := lookup(config)
	return err
}

// nearest orders names by edit distance.
func nearest(name string, names []string, most int) []string {
	out := slices.Clone(names)
	slices.SortStableFunc(out, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(a)), levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(b)))
	})
	return out[:min(most, len(out))]
}

// ReadConfig reads the config.json of a folder.
func ReadConfig(root *os.Root) ([]byte, error) {
	f, err := root.Open("config.json")
	if err != nil {
		return nil, fmt.Errorf("cannot open model configuration: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read config.json: %w", err)
	}
	return raw, nil
}

// Override replaces keys of a config.json.
func Override(config []byte, values map[string]any) ([]byte, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(config, &keys); err != nil || keys == nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	for k, v := range values {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("cannot encode %s: %w", k, err)
		}
		keys[k] = raw
	}
	out, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode config.json: %w", err)
	}
	return append(out, '\n'), nil
}
