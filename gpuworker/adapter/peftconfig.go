package adapter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Files of a PEFT adapter folder.
const (
	ConfigName  = "adapter_config.json"
	WeightsName = "adapter_model.safetensors"
)

// peftConfig is adapter_config.json as peft 0.18 writes and reads it: the keys that change arithmetic.
type peftConfig struct {
	PeftType      string             `json:"peft_type"`
	R             int                `json:"r"`
	Alpha         float64            `json:"lora_alpha"`
	Dropout       float64            `json:"lora_dropout"`
	TargetModules json.RawMessage    `json:"target_modules"`
	Bias          string             `json:"bias"`
	InitWeights   json.RawMessage    `json:"init_lora_weights"`
	UseRSLoRA     bool               `json:"use_rslora"`
	UseDoRA       bool               `json:"use_dora"`
	UseQALoRA     bool               `json:"use_qalora"`
	ModulesToSave []string           `json:"modules_to_save"`
	RankPattern   map[string]int     `json:"rank_pattern"`
	AlphaPattern  map[string]float64 `json:"alpha_pattern"`
	Transform     json.RawMessage    `json:"layers_to_transform"`
	After         json.RawMessage    `json:"layers_pattern"`
	Exclude       json.RawMessage    `json:"exclude_modules"`
	LoRABias      bool               `json:"lora_bias"`
	Replication   json.RawMessage    `json:"layer_replication"`
	Parameters    json.RawMessage    `json:"target_parameters"`
	Tokens        json.RawMessage    `json:"trainable_token_indices"`
	Tying         bool               `json:"ensure_weight_tying"`
	Megatron      json.RawMessage    `json:"megatron_config"`
	Invocation    json.RawMessage    `json:"alora_invocation_tokens"`

	// OFT.
	BlockSize     int     `json:"oft_block_size"`
	ModuleDropout float64 `json:"module_dropout"`
	COFT          bool    `json:"coft"`
	BlockShare    bool    `json:"block_share"`
	Neumann       *bool   `json:"use_cayley_neumann"`
	Terms         int     `json:"num_cayley_neumann_terms"`

	// Bottleneck adapters, which PEFT does not have; the keys are those of LLM-Adapters (https://github.com/AGI-Edgerunners/LLM-Adapters).
	BottleneckSize int    `json:"bottleneck_size"`
	NonLinearity   string `json:"non_linearity"`
	AdapterP       bool   `json:"use_adapterp"`
	Parallel       bool   `json:"use_parallel_adapter"`
}

// parsePEFT turns adapter_config.json into a Config. Options that change arithmetic and that this package does not implement are
// refused by name.
func parsePEFT(raw []byte) (Config, error) {
	var p peftConfig
	if err := json.Unmarshal(raw, &p); err != nil {
		return Config{}, schemas.Errorf(schemas.CodeModel, ConfigName, "cannot parse: %v", err)
	}
	r := &peftReader{p: p}
	c := r.config()
	if err := errors.Join(r.errs...); err != nil {
		return Config{}, err
	}
	return c, c.Validate()
}

type peftReader struct {
	p    peftConfig
	errs []error
}

func (r *peftReader) unsupported(key string, yes bool) {
	if yes {
		r.errs = append(r.errs, schemas.Errorf(schemas.CodeUnsupported, ConfigName+":"+key, "this adapter option is not supported"))
	}
}

func (r *peftReader) wrong(key, format string, args ...any) {
	r.errs = append(r.errs, schemas.Errorf(schemas.CodeModel, ConfigName+":"+key, format, args...))
}

func given(m json.RawMessage) bool {
	s := string(m)
	return s != "" && s != "null" && s != "[]" && s != "{}"
}

func (r *peftReader) config() Config {
	p := r.p
	c := Config{Save: p.ModulesToSave}
	switch p.PeftType {
	case "LORA":
		r.lora(&c)
	case "OFT":
		c.Kind = KindOFT
		c.OFT = OFTConfig{Rank: p.R, BlockSize: p.BlockSize, Share: p.BlockShare, Terms: p.Terms}
		r.unsupported("module_dropout", p.ModuleDropout > 0)
		r.unsupported("coft", p.COFT)
		r.unsupported("use_cayley_neumann", p.Neumann == nil || !*p.Neumann)
	case "BOTTLENECK":
		c.Kind = KindBottleneck
		c.Bottleneck = BottleneckConfig{Feed: true, Attention: !p.AdapterP, Size: p.BottleneckSize, Activation: p.NonLinearity}
		r.unsupported("use_parallel_adapter", p.Parallel)
	default:
		r.errs = append(r.errs, schemas.Errorf(schemas.CodeUnsupported, ConfigName+":peft_type", "%q is not supported (LORA, OFT and BOTTLENECK are)", p.PeftType))
	}
	r.unsupported("bias", p.Bias != "" && p.Bias != "none")
	r.targets(&c)
	r.layers(&c)
	var one string
	switch {
	case !given(p.Exclude):
	case json.Unmarshal(p.Exclude, &one) == nil:
		r.unsupported("exclude_modules", true)
	case json.Unmarshal(p.Exclude, &c.Exclude) != nil:
		r.wrong("exclude_modules", "must be a list of module names")
	}
	return c
}

func (r *peftReader) lora(c *Config) {
	p := r.p
	c.Rank, c.Alpha, c.RSLoRA, c.DoRA, c.Dropout = p.R, p.Alpha, p.UseRSLoRA, p.UseDoRA, p.Dropout
	c.RankPattern, c.AlphaPattern = p.RankPattern, p.AlphaPattern
	r.unsupported("use_qalora", p.UseQALoRA)
	r.unsupported("lora_bias", p.LoRABias)
	r.unsupported("layer_replication", given(p.Replication))
	r.unsupported("target_parameters", given(p.Parameters))
	r.unsupported("trainable_token_indices", given(p.Tokens))
	r.unsupported("ensure_weight_tying", p.Tying)
	r.unsupported("megatron_config", given(p.Megatron))
	r.unsupported("alora_invocation_tokens", given(p.Invocation))
	var init string
	if json.Unmarshal(p.InitWeights, &init) != nil || init == "gaussian" || init == "" {
		return // a way to draw initial values, which those of the file replace
	}
	switch n, isIter := strings.CutPrefix(init, "pissa_niter_"); {
	case init == "pissa":
		c.PiSSA, c.PiSSAIter = true, -1
	case isIter:
		v, err := strconv.Atoi(n)
		if err != nil || v < 0 {
			r.wrong("init_lora_weights", "%q does not end in a number of iterations", init)
		}
		c.PiSSA, c.PiSSAIter = true, v
	default:
		r.unsupported("init_lora_weights", true) // other initializations change the base
	}
}

func (r *peftReader) targets(c *Config) {
	raw := r.p.TargetModules
	var one string
	switch {
	case c.Kind == KindBottleneck && !given(raw):
	case json.Unmarshal(raw, &one) == nil && one == "all-linear":
		c.Targets = []string{one}
	case json.Unmarshal(raw, &one) == nil && one != "":
		c.Pattern = one
	case json.Unmarshal(raw, &c.Targets) != nil || len(c.Targets) == 0:
		r.wrong("target_modules", "must be a list of module names or a pattern")
	}
}

func (r *peftReader) layers(c *Config) {
	if !given(r.p.Transform) {
		return
	}
	layers, err := layerList(r.p.Transform)
	if err != nil {
		r.wrong("layers_to_transform", "%v", err)
	}
	c.Indexes = layers
	var one string
	switch {
	case !given(r.p.After) || json.Unmarshal(r.p.After, &one) == nil && one == "":
	case one != "":
		c.IndexAfter = []string{one}
	case json.Unmarshal(r.p.After, &c.IndexAfter) != nil:
		r.wrong("layers_pattern", "must be a name or a list of names")
	}
}

func layerList(raw json.RawMessage) ([]int, error) {
	var one int
	if json.Unmarshal(raw, &one) == nil {
		return []int{one}, nil
	}
	var many []int
	if err := json.Unmarshal(raw, &many); err != nil {
		return nil, fmt.Errorf("neither a number nor a list of numbers")
	}
	return many, nil
}

// encode writes adapter_config.json of the adapters. Modules get the shortest names by which PEFT finds them and nothing else; the blocks
// that have adapters are numbers, after the name that stands before them where experts have numbers too.
func (a *Adapters) encode(base string) ([]byte, error) {
	c, layers := a.Config, a.Layers()
	c.Indexes, c.IndexAfter = nil, nil
	switch {
	case c.Pattern != "" && c.Layers == nil:
		return encodePEFT(c, base, nil, nil) // the pattern says all
	case layers != nil && (a.outside() || c.Pattern != ""):
		// PEFT applies layers_to_transform to every target, and not to patterns: whole paths say it for all of them.
		c.Pattern = ""
		return encodePEFT(c, base, a.paths(), nil)
	case layers != nil:
		c.IndexAfter = a.beforeNumbers()
	}
	sure := c
	sure.Indexes = layers
	targets := a.targetNames(func(path string) bool { return !suffixOf(path, c.Exclude) && !c.saved(path) && sure.indexed(path) })
	return encodePEFT(c, base, targets, layers)
}

// targetNames are the shortest ends of the adapted modules' paths that no other module has, of those that PEFT would look at.
func (a *Adapters) targetNames(looked func(path string) bool) []string {
	adapted, taken := map[string]bool{}, map[string]bool{}
	for _, p := range a.paths() {
		adapted[p] = true
	}
	for _, p := range a.modules {
		if adapted[p] || !looked(p) {
			continue
		}
		for _, end := range pathEnds(p) {
			taken[end] = true
		}
	}
	var out []string
	for _, p := range a.paths() {
		ends := pathEnds(p)
		i := slices.IndexFunc(ends, func(end string) bool { return !taken[end] })
		if end := ends[max(i, 0)]; i >= 0 && !slices.Contains(out, end) {
			out = append(out, end)
		} else if i < 0 {
			out = append(out, p)
		}
	}
	return out
}

// pathEnds are the ends of a path at its dots, the shortest first, itself last.
func pathEnds(path string) (out []string) {
	for at := strings.LastIndexByte(path, '.'); at >= 0; at = strings.LastIndexByte(path[:at], '.') {
		out = append(out, path[at+1:])
	}
	return append(out, path)
}

// beforeNumbers is the name before the blocks' numbers, where paths have further numbers behind; nil where a block's is the only one.
func (a *Adapters) beforeNumbers() []string {
	var names []string
	several := false
	for _, p := range a.paths() {
		parts, seen := strings.Split(p, "."), 0
		for i, part := range parts {
			if _, err := strconv.Atoi(part); err != nil || i == 0 {
				continue
			}
			if seen++; seen == 1 && !slices.Contains(names, parts[i-1]) {
				names = append(names, parts[i-1])
			}
		}
		several = several || seen > 1
	}
	if !several {
		return nil
	}
	return names
}

// encodePEFT writes adapter_config.json. layers is nil when every block has adapters.
func encodePEFT(c Config, base string, targets []string, layers []int) ([]byte, error) {
	slices.Sort(targets)
	doc := map[string]any{"task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": true, "bias": "none",
		"target_modules": targets, "modules_to_save": nil, "layers_to_transform": nil, "layers_pattern": nil, "revision": nil, "auto_mapping": nil,
		"exclude_modules": nil, "peft_version": "0.18.1"}
	switch {
	case c.Pattern != "":
		doc["target_modules"] = c.Pattern
	case len(targets) == 0:
		doc["target_modules"] = c.Targets
	}
	if len(c.Exclude) > 0 {
		doc["exclude_modules"] = c.Exclude
	}
	if len(c.Save) > 0 {
		doc["modules_to_save"] = c.Save
	}
	if layers != nil {
		doc["layers_to_transform"] = layers
	}
	if len(c.IndexAfter) > 0 {
		doc["layers_pattern"] = c.IndexAfter
	}
	set := func(kv map[string]any) {
		for k, v := range kv {
			doc[k] = v
		}
	}
	switch c.Kind {
	case KindOFT:
		terms := c.OFT.Terms
		if terms == 0 {
			terms = 5
		}
		set(map[string]any{"peft_type": "OFT", "r": c.OFT.Rank, "oft_block_size": c.OFT.BlockSize, "module_dropout": 0.0, "fan_in_fan_out": false,
			"init_weights": true, "coft": false, "eps": 6e-5, "block_share": c.OFT.Share, "use_cayley_neumann": true, "num_cayley_neumann_terms": terms})
	case KindBottleneck:
		set(map[string]any{"peft_type": "BOTTLENECK", "bottleneck_size": c.Bottleneck.Size, "non_linearity": c.Bottleneck.Activation,
			"use_adapterp": !c.Bottleneck.Attention, "use_parallel_adapter": false, "adapter_dropout": 0.0, "scaling": 1.0})
	default:
		ranks, alphas := c.RankPattern, c.AlphaPattern
		if ranks == nil {
			ranks = map[string]int{}
		}
		if alphas == nil {
			alphas = map[string]float64{}
		}
		set(map[string]any{"peft_type": "LORA", "r": c.Rank, "lora_alpha": c.Alpha, "lora_dropout": c.Dropout, "fan_in_fan_out": false,
			"init_lora_weights": c.initName(), "use_rslora": c.RSLoRA, "use_dora": c.DoRA, "rank_pattern": ranks, "alpha_pattern": alphas,
			"lora_bias": false})
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}
