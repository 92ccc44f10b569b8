package config

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

// Inference is what a configuration of LLaMA-Factory says about answering prompts: what llamafactory-cli chat and api read of it.
type Inference struct {
	// Base is the folder of the model, Adapters are those of the PEFT folders; Rewards says that it scores texts (stage: rm).
	Base     string
	Adapters []string
	Rewards  bool
	// Template, ToolFormat, DefaultSystem, EnableThinking and PreserveThinking are the chat template and its options.
	Template, ToolFormat string
	DefaultSystem        *string
	EnableThinking       *bool
	PreserveThinking     bool
	// DType is fp32, bf16, fp16 or "", the model's own; Quant packs the base, nil: it is not.
	DType string
	Quant *schemas.Quantization
	// Generation says how tokens are drawn.
	Generation schemas.Generation
	// Seed of the draws; nil: another one each time.
	Seed *uint64
	// Notes tell what was decided, for people.
	Notes []string
}

// adapterConfigName is the file by which a PEFT folder is known.
const adapterConfigName = "adapter_config.json"

// LoadInference reads a configuration file, or makes one of a model: a folder, a PEFT folder (whose configuration names the base), or a model's name or
// address, which is fetched. Errors are as Load has them.
func LoadInference(ctx context.Context, model string, opt Options) (*Inference, error) {
	root, dir := &node{isMap: true, values: map[string]*node{}}, "."
	file := model
	if info, err := os.Stat(model); err == nil && !info.IsDir() {
		data, err := readFile(model)
		if err != nil {
			return nil, err
		}
		if root, err = parse(model, data); err != nil {
			return nil, err
		}
		dir = filepath.Dir(model)
	} else if err := setModel(root, model); err != nil {
		return nil, err
	}
	for _, o := range opt.Overrides {
		if err := override(root, o); err != nil {
			return nil, err
		}
	}
	c := newCollector(dir, opt)
	var err error
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return nil, fmt.Errorf("cannot find the folder of %s: %w", file, err)
	}
	p := &problems{file: file}
	v := newFactoryValues(root, p)
	v.check()
	v.inferenceRules()
	if err := p.err(); err != nil {
		return nil, err
	}
	c.modelScope = v.truth("use_modelscope_hub")
	return (&factoryBuilder{v: v, c: c}).inference(ctx)
}

// setModel makes the configuration of a model's name or folder.
func setModel(root *node, model string) error {
	raw, err := readSmall(filepath.Join(model, adapterConfigName))
	if err != nil {
		return override(root, "model_name_or_path="+quote(model))
	}
	if _, err := os.Stat(filepath.Join(model, "config.json")); err == nil {
		return override(root, "model_name_or_path="+quote(model))
	}
	var c struct {
		Base string `json:"base_model_name_or_path"`
	}
	if err := json.Unmarshal(raw, &c); err != nil || c.Base == "" {
		return schemas.Errorf(schemas.CodeModel, filepath.Join(model, adapterConfigName), "names no base_model_name_or_path").
			WithHint("give the base, and the adapter as adapter_name_or_path=%s", model)
	}
	if err := override(root, "model_name_or_path="+quote(c.Base)); err != nil {
		return err
	}
	return override(root, "adapter_name_or_path="+quote(model))
}

// readSmall reads a file of at most a megabyte.
func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > 1<<20 {
		return nil, schemas.Errorf(schemas.CodeModel, name, "has %d bytes, the limit is %d", info.Size(), 1<<20)
	}
	return os.ReadFile(name)
}

// quote writes text as a YAML value.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(b)
}

// inferenceRules refuses what answering prompts does not do.
func (v *factoryValues) inferenceRules() {
	for _, k := range []string{"do_train", "do_predict", "do_eval"} {
		if v.truth(k) {
			v.bad(k, "is for: tunefleet train FILE")
		}
	}
	if v.given("export_dir") {
		v.bad("export_dir", "is for: tunefleet train FILE")
	}
	for _, k := range []string{"rope_scaling", "add_tokens", "add_special_tokens"} {
		if v.given(k) {
			v.bad(k, "is not applied to a model that answers: give the folder that training or exporting wrote, which has it")
		}
	}
	if n := v.whole("num_beams"); n > 1 {
		v.bad("num_beams", "is %d: a beam search knows no token before the last, so that nothing can be shown as it comes; do_predict searches with beams", n)
	}
	if s := v.text("infer_dtype"); s != "auto" && v.inferDType() == "" {
		v.bad("infer_dtype", "is %q, expected auto, float32, bfloat16 or float16", s)
	}
	if n := v.whole("max_new_tokens"); n < 1 || n > 1<<20 {
		v.bad("max_new_tokens", "is %d, expected 1 to %d", n, 1<<20)
	}
	if n := v.whole("quantization_bit"); v.given("quantization_bit") && n != 4 && n != 8 {
		v.bad("quantization_bit", "is %d, expected 4 (nf4) or 8 (int8)", n)
	}
	for _, r := range []struct {
		key      string
		low, top float64
	}{{"temperature", 0, 100}, {"top_p", 0, 1}, {"top_k", 0, 1 << 20}, {"repetition_penalty", 0, 100}} {
		if x := v.number(r.key); x < r.low || x > r.top {
			v.bad(r.key, "is %g, expected %g to %g", x, r.low, r.top)
		}
	}
}

// inference resolves models and adapters.
func (b *factoryBuilder) inference(ctx context.Context) (*Inference, error) {
	v := b.v
	name := v.text("model_name_or_path")
	if name == "" {
		return nil, schemas.Errorf(schemas.CodeInvalid, "model_name_or_path", "is missing").WithHint("give a folder or a model name")
	}
	folder, m, err := b.c.model(ctx, b.path(name), v.text("model_revision"))
	if err != nil {
		return nil, rename(err, "model.base_model", "model_name_or_path")
	}
	if err := checkModelFolder(folder); err != nil {
		return nil, err
	}
	out := &Inference{Base: folder, Rewards: v.text("stage") == "rm", Template: v.text("template"), ToolFormat: v.text("tool_format"),
		PreserveThinking: v.truth("preserve_thinking"), DType: v.inferDType(), Generation: b.generation()}
	if g := &out.Generation; g.Sample && g.Temperature == 0 {
		g.Sample, g.TopK, g.TopP = false, 0, 0 // as upstream's engine has it
	}
	if n := v.node("default_system"); v.given("default_system") || n != nil && n.scalar == "" {
		s := v.text("default_system")
		out.DefaultSystem = &s
	}
	if n := v.node("enable_thinking"); n == nil || n.scalar != nil && n.text != "null" {
		t := v.truth("enable_thinking")
		out.EnableThinking = &t
	}
	if v.given("seed") {
		n := uint64(v.number("seed"))
		out.Seed = &n
	}
	if v.given("quantization_bit") {
		out.Quant = &schemas.Quantization{Bits: v.whole("quantization_bit"), Type: v.text("quantization_type"), Double: v.truth("double_quantization")}
	}
	for _, a := range v.list("adapter_name_or_path") {
		if f := v.text("adapter_folder"); f != "" {
			a = filepath.Join(f, a)
		}
		dir, err := b.adapterPlace(ctx, a)
		if err != nil {
			return nil, err
		}
		out.Adapters = append(out.Adapters, dir)
	}
	if out.Template == "" && m.Template != "" && m.Template != "default" {
		out.Notes = append(out.Notes, fmt.Sprintf("template: taken from the tokenizer; %s was tuned with %q", m.Alias, m.Template))
	}
	return out, nil
}

// adapterPlace is the folder of an adapter on this machine.
func (b *factoryBuilder) adapterPlace(ctx context.Context, name string) (string, error) {
	dir := b.path(name)
	if remote.IsAddress(dir) {
		return b.c.folder(ctx, dir, adapterFile, nil)
	}
	dir = b.c.resolve(dir)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", schemas.Errorf(schemas.CodeNotFound, name, "adapter_name_or_path: no such folder")
	}
	return dir, nil
}
