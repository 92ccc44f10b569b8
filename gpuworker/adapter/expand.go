package adapter

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Expansion inserts copies of blocks (LLaMA-Pro, https://arxiv.org/abs/2401.02415): after every Layers/Added blocks a copy of the last
// one, whose outputs of attention and feed-forward are zero, so that it passes its input on until it is trained.
type Expansion struct {
	// Layers is the number of blocks before, Added how many are inserted.
	Layers, Added int
}

// layerKeys are the names that configurations give the number of blocks.
var layerKeys = []string{"num_hidden_layers", "n_layer", "num_layers", "n_layers"}

// NewExpansion reads the number of blocks of a config.json.
func NewExpansion(config []byte, added int) (*Expansion, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	for _, key := range layerKeys {
		var n int
		if doc[key] == nil || json.Unmarshal(doc[key], &n) != nil {
			continue
		}
		if added < 1 || n < 1 || n%added != 0 {
			return nil, schemas.Errorf(schemas.CodeInvalid, "expand_blocks", "%d blocks cannot be spread evenly over the model's %d", added, n)
		}
		return &Expansion{Layers: n, Added: added}, nil
	}
	return nil, schemas.Errorf(schemas.CodeModel, "config.json:"+layerKeys[0], "is missing")
}

// stride is the number of blocks between two copies, the copy included.
func (e *Expansion) stride() int { return e.Layers/e.Added + 1 }

// source is the old index of a new block, and whether it is an inserted copy.
func (e *Expansion) source(block int) (old int, inserted bool) {
	s := e.stride()
	inserted = block%s == s-1
	old = block - (block+1)/s
	return old, inserted
}

// Config rewrites config.json: the number of blocks, and lists with one entry a block.
func (e *Expansion) Config(config []byte) (json.RawMessage, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot parse: %v", err)
	}
	for _, key := range layerKeys {
		if doc[key] != nil {
			doc[key] = json.RawMessage(strconv.Itoa(e.Layers + e.Added))
		}
	}
	for key, raw := range doc {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil || len(list) != e.Layers || key == "architectures" {
			continue
		}
		var out []json.RawMessage
		for i := range e.Layers + e.Added {
			old, _ := e.source(i)
			out = append(out, list[old])
		}
		b, err := json.Marshal(out)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, "config.json:"+key, "cannot encode: %v", err)
		}
		doc[key] = b
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "config.json", "cannot encode: %v", err)
	}
	return b, nil
}

var blockIndex = regexp.MustCompile(`\.(\d+)\.`)

// Source says where a parameter of the expanded model comes from: the name of the old one, or zero.
func (e *Expansion) Source(name string) (from string, zero bool) {
	at := blockIndex.FindStringSubmatchIndex(name)
	if at == nil {
		return name, false
	}
	block, err := strconv.Atoi(name[at[2]:at[3]])
	if err != nil {
		return name, false
	}
	old, inserted := e.source(block)
	module := name[:strings.LastIndexByte(name, '.')]
	zero = inserted && (suffixOf(module, attentionOutputs) || suffixOf(module, feedOutputs))
	return name[:at[2]] + strconv.Itoa(old) + name[at[3]:], zero
}

// Inserted lists the new blocks' indices.
func (e *Expansion) Inserted() []int {
	var out []int
	for i := range e.Layers + e.Added {
		if _, inserted := e.source(i); inserted {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}
