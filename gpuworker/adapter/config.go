// Package adapter holds the parameter-efficient methods as transforms of a module tree: LoRA and its variants, OFT, bottleneck adapters,
// modules that are trained beside them, quantized bases, freezing and block expansion. It reads and writes PEFT's folders. No
// architecture knows any of it.
package adapter

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Kind is a family of adapters.
type Kind string

// The families. The zero Kind is KindLoRA.
const (
	KindLoRA       Kind = "lora"
	KindOFT        Kind = "oft"
	KindBottleneck Kind = "bottleneck"
)

// Config describes adapters in PEFT's terms.
type Config struct {
	Kind Kind
	// Rank is r, Alpha is lora_alpha; the update is scaled by Alpha/Rank, or Alpha/sqrt(Rank) with RSLoRA. DoRA trains magnitudes too.
	Rank   int
	Alpha  float64
	RSLoRA bool
	DoRA   bool
	// Dropout acts on the input of the update while training.
	Dropout float64
	// PiSSA starts from the principal singular vectors of the base: PiSSAIter subspace iterations of a fast decomposition, or the exact
	// one when it is negative (https://arxiv.org/abs/2404.02948).
	PiSSA     bool
	PiSSAIter int
	// RankPattern and AlphaPattern give modules another rank or alpha: keys are regular expressions that the end of a module's path
	// matches, as PEFT matches them.
	RankPattern  map[string]int
	AlphaPattern map[string]float64
	// Targets are module name suffixes ("q_proj"), or every linear module but the output head: "all-linear" as PEFT finds them, "all" as
	// LLaMA-Factory does, which knows a head by the name "lm_head" and so adapts GPT-NeoX's "embed_out". Empty means "all-linear".
	Targets []string
	// Pattern, when not empty, is a regular expression that a whole module path matches, in place of Targets.
	Pattern string
	// Exclude are module name suffixes that get no adapter.
	Exclude []string
	// Layers, when not nil, reports whether a block gets adapters (freezing the first N blocks leaves them without).
	Layers func(block int) bool
	// Spread, when positive, gives adapters to the modules of this many blocks alone, those that block expansion added (FreezeConfig.Spread).
	// Targets are then any part of a module's path, as LLaMA-Factory's find_expanded_modules has it.
	Spread int
	// Indexes, when not nil, are PEFT's layers_to_transform: the number in a module's path that follows one of IndexAfter ("layers"), or
	// without them the last of the path, which in a mixture of experts is the expert's. Modules without a number get none.
	Indexes    []int
	IndexAfter []string
	// Save are modules that are trained whole and stored with the adapter (PEFT's modules_to_save).
	Save []string
	// OFT and Bottleneck are the options of those kinds.
	OFT        OFTConfig
	Bottleneck BottleneckConfig
	// Quant, when it has a type, packs the frozen matrices of the blocks.
	Quant QuantConfig
	// Torch, when not nil, draws LoRA's matrices as PEFT does with torch's generator on the CPU; nil: by Philox (nn.InitRange).
	Torch *TorchDraws
}

// TorchDraws is the state of torch's generator when PEFT makes the adapters: Skip numbers of 32 bits after torch.manual_seed(Seed).
type TorchDraws struct {
	Seed uint64
	Skip int64
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, key, format, args...))
	}
	switch c.Kind {
	case "", KindLoRA:
		c.validateLoRA(bad)
	case KindOFT:
		c.OFT.validate(bad)
	case KindBottleneck:
		c.Bottleneck.validate(bad)
	default:
		bad("method", "%q is unknown (lora, oft, bottleneck)", c.Kind)
	}
	if _, err := c.pattern(); err != nil {
		bad("targets", "cannot compile the pattern %q: %v", c.Pattern, err)
	}
	c.Quant.validate(bad)
	if c.Quant.Type != "" && c.PiSSA {
		bad("quant", "PiSSA needs a base that is not quantized")
	}
	return errors.Join(errs...)
}

func (c Config) validateLoRA(bad func(key, format string, args ...any)) {
	if c.Rank < 1 || c.Rank > 1<<16 {
		bad("lora.rank", "%d is not between 1 and 65536", c.Rank)
	}
	if !(c.Alpha > 0) || math.IsInf(c.Alpha, 0) {
		bad("lora.alpha", "%g is not positive", c.Alpha)
	}
	if !(c.Dropout >= 0 && c.Dropout < 1) {
		bad("lora.dropout", "%g is not in [0, 1)", c.Dropout)
	}
	for k, r := range c.RankPattern {
		if r < 1 || r > 1<<16 {
			bad("lora.rank_pattern."+k, "%d is not between 1 and 65536", r)
		}
		if _, err := patternOf(k); err != nil {
			bad("lora.rank_pattern."+k, "is no pattern: %v", err)
		}
	}
	for k, a := range c.AlphaPattern {
		if !(a > 0) || math.IsInf(a, 0) {
			bad("lora.alpha_pattern."+k, "%g is not positive", a)
		}
		if _, err := patternOf(k); err != nil {
			bad("lora.alpha_pattern."+k, "is no pattern: %v", err)
		}
	}
}

// Scale is the factor on the low-rank update of modules that no pattern names.
func (c Config) Scale() float64 { return scale(c.Rank, c.Alpha, c.RSLoRA) }

func scale(rank int, alpha float64, rs bool) float64 {
	if rs {
		return alpha / math.Sqrt(float64(rank))
	}
	return alpha / float64(rank)
}

// of is the rank and the scale of one module's update.
func (c Config) of(module string) (rank int, s float64) {
	rank, alpha := c.Rank, c.Alpha
	if k, ok := patternKey(c.RankPattern, module); ok {
		rank = c.RankPattern[k]
	}
	if k, ok := patternKey(c.AlphaPattern, module); ok {
		alpha = c.AlphaPattern[k]
	}
	return rank, scale(rank, alpha, c.RSLoRA)
}

// patternOf compiles a key of rank_pattern: "(.*\.)?(key)$" from the start.
func patternOf(key string) (*regexp.Regexp, error) { return regexp.Compile(`^(.*\.)?(` + key + `)$`) }

// patternKey finds the key that a module matches; of several the first in the order of their names.
func patternKey[T any](patterns map[string]T, module string) (string, bool) {
	keys := make([]string, 0, len(patterns))
	for k := range patterns {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if re, err := patternOf(k); err == nil && re.MatchString(module) {
			return k, true
		}
	}
	return "", false
}

func (c Config) pattern() (*regexp.Regexp, error) {
	if c.Pattern == "" {
		return nil, nil
	}
	return regexp.Compile(`^(?:` + c.Pattern + `)$`)
}

// all reports whether every linear module but the output head is a target.
func (c Config) all() bool {
	return c.Pattern == "" && (len(c.Targets) == 0 || slices.Contains(c.Targets, "all") || slices.Contains(c.Targets, "all-linear"))
}

// matches reports whether the module of that path gets an adapter; linear says that it is no embedding.
func (c Config) matches(module string, linear bool) bool {
	if suffixOf(module, c.Exclude) || c.saved(module) {
		return false
	}
	if c.all() {
		return linear && (!isHead(module) || module == "embed_out" && slices.Contains(c.Targets, "all"))
	}
	if re, err := c.pattern(); re != nil && err == nil {
		return re.MatchString(module)
	}
	return slices.Contains(c.Targets, module) || suffixOf(module, c.Targets) && c.indexed(module)
}

// spreadOver reports, for a model of n blocks, whether a module is a target in a block that expansion added; nil without Spread. As with
// freezing, ".<block>." anywhere in a path counts, so that an expert of that number is one too.
func (c Config) spreadOver(n int) (func(module string, linear bool) bool, error) {
	if c.Spread == 0 {
		return nil, nil
	}
	ids, err := FreezeConfig{Layers: c.Spread, Spread: true}.blocks(n)
	if err != nil {
		return nil, err
	}
	return func(module string, linear bool) bool {
		return slices.ContainsFunc(ids, func(i int) bool { return strings.Contains(module, "."+strconv.Itoa(i)+".") }) && !suffixOf(module, c.Exclude) && !c.saved(module) &&
			(c.all() && linear || slices.ContainsFunc(c.Targets, func(t string) bool { return strings.Contains(module, t) }))
	}, nil
}

// isHead reports whether a module stands beside the model's body instead of in it: output heads do, whatever their names.
func isHead(module string) bool { return !strings.Contains(module, ".") }

// indexed reports whether a module's number is among Indexes.
func (c Config) indexed(module string) bool {
	if c.Indexes == nil {
		return true
	}
	parts := strings.Split(module, ".")
	// PEFT's patterns are ".*\.[^.]*\.(\d+)\." and ".*\.<name>\.(\d+)\." from the start, which find the last: something stands before the
	// name, and the number is not the end.
	for i := len(parts) - 2; i >= 2; i-- {
		n, err := strconv.Atoi(parts[i])
		if err == nil && (len(c.IndexAfter) == 0 || slices.Contains(c.IndexAfter, parts[i-1])) {
			return slices.Contains(c.Indexes, n)
		}
	}
	return false
}

func suffixOf(module string, names []string) bool {
	return slices.ContainsFunc(names, func(t string) bool { return module == t || strings.HasSuffix(module, "."+t) })
}

// saved reports whether a module, or one that it is part of, is trained whole: its path ends in a name of Save, as PEFT compares.
func (c Config) saved(module string) bool {
	for at := len(module); at > 0; at = strings.LastIndexByte(module[:at], '.') {
		if slices.ContainsFunc(c.Save, func(s string) bool { return strings.HasSuffix(module[:at], s) }) {
			return true
		}
	}
	return false
}

// LoRAInit is PEFT's name of the initialization: "true" for the default, else "pissa" or "pissa_niter_<n>".
func (c Config) initName() any {
	switch {
	case !c.PiSSA:
		return true
	case c.PiSSAIter < 0:
		return "pissa"
	}
	return "pissa_niter_" + strconv.Itoa(c.PiSSAIter)
}
