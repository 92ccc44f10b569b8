// Package adapter turns linear modules into LoRA ones, reads and writes PEFT adapters, merges them, and freezes parameters.
package adapter

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Config describes LoRA adapters in PEFT's terms.
type Config struct {
	// Rank is r, Alpha is lora_alpha; the update is scaled by Alpha/Rank, or Alpha/sqrt(Rank) with RSLoRA.
	Rank   int
	Alpha  float64
	RSLoRA bool
	// Targets are module name suffixes ("q_proj"), or "all" or "all-linear" for every linear module but the output head. Empty means all.
	Targets []string
	// Layers, when not nil, reports whether a block gets adapters (freezing the first N blocks leaves them without).
	Layers func(block int) bool
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	var errs []error
	if c.Rank < 1 || c.Rank > 1<<16 {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "lora.rank", "%d is not between 1 and 65536", c.Rank))
	}
	if !(c.Alpha > 0) || math.IsInf(c.Alpha, 0) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "lora.alpha", "%g is not positive", c.Alpha))
	}
	return errors.Join(errs...)
}

// Scale is the factor on the low-rank update.
func (c Config) Scale() float64 {
	if c.RSLoRA {
		return c.Alpha / math.Sqrt(float64(c.Rank))
	}
	return c.Alpha / float64(c.Rank)
}

// matches reports whether the module of that name gets an adapter.
func (c Config) matches(module string, head bool) bool {
	if len(c.Targets) == 0 || slices.Contains(c.Targets, "all") || slices.Contains(c.Targets, "all-linear") {
		return !head
	}
	for _, t := range c.Targets {
		if module == t || strings.HasSuffix(module, "."+t) {
			return true
		}
	}
	return false
}

// peftConfig is adapter_config.json as peft 0.18 writes and reads it.
type peftConfig struct {
	PeftType       string             `json:"peft_type"`
	TaskType       string             `json:"task_type"`
	BaseModel      string             `json:"base_model_name_or_path"`
	R              int                `json:"r"`
	Alpha          float64            `json:"lora_alpha"`
	Dropout        float64            `json:"lora_dropout"`
	TargetModules  json.RawMessage    `json:"target_modules"`
	Bias           string             `json:"bias"`
	FanInFanOut    bool               `json:"fan_in_fan_out"`
	InferenceMode  bool               `json:"inference_mode"`
	InitWeights    json.RawMessage    `json:"init_lora_weights"`
	UseRSLoRA      bool               `json:"use_rslora"`
	UseDoRA        bool               `json:"use_dora"`
	ModulesToSave  []string           `json:"modules_to_save"`
	RankPattern    map[string]int     `json:"rank_pattern"`
	AlphaPattern   map[string]float64 `json:"alpha_pattern"`
	Transform      json.RawMessage    `json:"layers_to_transform"`
	LayersPattern  json.RawMessage    `json:"layers_pattern"`
	ExcludeModules json.RawMessage    `json:"exclude_modules"`
	LoRABias       bool               `json:"lora_bias"`
	Revision       *string            `json:"revision"`
}

// parsePEFT turns adapter_config.json into a Config. Options that change arithmetic and that this package does not implement are
// refused by name.
func parsePEFT(raw []byte) (Config, error) {
	var p peftConfig
	if err := json.Unmarshal(raw, &p); err != nil {
		return Config{}, schemas.Errorf(schemas.CodeModel, ConfigName, "cannot parse: %v", err)
	}
	var errs []error
	unsupported := func(key string, yes bool) {
		if yes {
			errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, ConfigName+":"+key, "this adapter option is not supported"))
		}
	}
	set := func(m json.RawMessage) bool {
		s := string(m)
		return s != "" && s != "null" && s != "[]"
	}
	if p.PeftType != "LORA" {
		errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, ConfigName+":peft_type", "%q is not supported (LORA is)", p.PeftType))
	}
	unsupported("use_dora", p.UseDoRA)
	unsupported("modules_to_save", len(p.ModulesToSave) > 0)
	unsupported("bias", p.Bias != "" && p.Bias != "none")
	unsupported("lora_bias", p.LoRABias)
	unsupported("fan_in_fan_out", p.FanInFanOut)
	unsupported("rank_pattern", len(p.RankPattern) > 0)
	unsupported("alpha_pattern", len(p.AlphaPattern) > 0)
	unsupported("exclude_modules", set(p.ExcludeModules))
	c := Config{Rank: p.R, Alpha: p.Alpha, RSLoRA: p.UseRSLoRA}
	var one string
	switch {
	case json.Unmarshal(p.TargetModules, &one) == nil && one != "":
		if one != "all-linear" {
			errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, ConfigName+":target_modules", "a pattern (%q) is not supported; list the names", one))
		}
		c.Targets = []string{one}
	case json.Unmarshal(p.TargetModules, &c.Targets) != nil || len(c.Targets) == 0:
		errs = append(errs, schemas.Errorf(schemas.CodeModel, ConfigName+":target_modules", "must be a list of module names"))
	}
	if set(p.Transform) {
		layers, err := layerList(p.Transform)
		if err != nil {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, ConfigName+":layers_to_transform", "%v", err))
		}
		c.Layers = func(b int) bool { return slices.Contains(layers, b) }
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	return c, c.Validate()
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

// encodePEFT writes adapter_config.json. layers is nil when every block has adapters.
func encodePEFT(c Config, base string, targets []string, layers []int) ([]byte, error) {
	slices.Sort(targets)
	doc := map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": c.Rank, "lora_alpha": c.Alpha, "lora_dropout": 0.0,
		"target_modules": targets, "bias": "none", "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
		"use_rslora": c.RSLoRA, "use_dora": false, "modules_to_save": nil, "rank_pattern": map[string]int{}, "alpha_pattern": map[string]float64{},
		"layers_to_transform": nil, "layers_pattern": nil, "revision": nil, "auto_mapping": nil, "lora_bias": false, "exclude_modules": nil,
	}
	if layers != nil {
		doc["layers_to_transform"] = layers
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}
