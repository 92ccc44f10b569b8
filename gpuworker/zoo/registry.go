// Package zoo holds the model architectures, one file each: a configuration with Hugging Face's JSON names, a struct of modules whose
// hf tags are the checkpoint keys, and a forward pass. Nothing here knows adapters, sharding or optimizers.
package zoo

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// maxConfig bounds config.json.
const maxConfig = 1 << 20

// Model is a causal language model.
type Model interface {
	// Info says what callers need to know without the architecture.
	Info() Info
	// Root is the struct whose hf tags name the parameters (see nn.Walk).
	Root() any
	// Units lists the groups of parameters in the order of the forward pass.
	Units() []*nn.Unit
	// LogProbs computes the log-probability of every target (b.Targets) as f32 [tokens]; ignored ones give 0. When the tape records,
	// Backward then yields the gradients of scale * sum(-logp).
	LogProbs(t *autograd.Tape, b *nn.Batch, scale float32) autograd.Value
	// Logits computes [tokens, vocab] without recording.
	Logits(t *autograd.Tape, b *nn.Batch) autograd.Value
	// Decode appends b to the cache and computes the logits [rows, vocab] of each row's last position.
	Decode(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value
	// Continue computes the log-probabilities of the targets of b as a continuation of what the cache holds, as LogProbs does without
	// recording. The cache's length stays as it is, so several continuations can be scored one after another.
	Continue(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value
}

// Info describes a model.
type Info struct {
	Architecture                            string
	Vocab, Hidden, Layers, KVHeads, HeadDim int
	MaxPositions                            int
	Tied                                    bool
	// Config is the config.json it was made from.
	Config json.RawMessage
}

type constructor func(raw json.RawMessage) (Model, error)

// architectures maps the first of a config's "architectures" to its constructor.
func architectures() map[string]constructor {
	return map[string]constructor{
		"LlamaForCausalLM": newLlama,
	}
}

// Architectures lists the names that New knows.
func Architectures() []string {
	var names []string
	for n := range architectures() {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// New makes a model without storage from the content of a config.json. An unknown architecture's error names the nearest known ones.
func New(config []byte) (Model, error) {
	if len(config) > maxConfig {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "larger than %d bytes", maxConfig)
	}
	var head struct {
		Architectures []string `json:"architectures"`
		ModelType     string   `json:"model_type"`
	}
	if err := json.Unmarshal(config, &head); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	known := architectures()
	name := ""
	if len(head.Architectures) > 0 {
		name = head.Architectures[0]
	} else if head.ModelType == "llama" {
		name = "LlamaForCausalLM"
	}
	if name == "" {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json:architectures", "missing; known are %s", strings.Join(Architectures(), ", "))
	}
	build, ok := known[name]
	if !ok {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "config.json:architectures", "architecture %q is not supported", name).
			WithHint("nearest known: %s", strings.Join(nearest(name, Architectures(), 3), ", "))
	}
	return build(slices.Clone(config))
}

// nearest orders names by edit distance.
func nearest(name string, names []string, most int) []string {
	out := slices.Clone(names)
	slices.SortStableFunc(out, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(a)), levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(b)))
	})
	return out[:min(most, len(out))]
}

// Open makes a model from the config.json of a folder.
func Open(root *os.Root) (Model, error) {
	f, err := root.Open("config.json")
	if err != nil {
		return nil, fmt.Errorf("cannot open model configuration: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read config.json: %w", err)
	}
	return New(raw)
}

// Unused reports checkpoint tensors that older tools wrote and that carry no weights.
func Unused(key string) bool { return strings.HasSuffix(key, ".rotary_emb.inv_freq") }
