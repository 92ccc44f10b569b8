package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

// FormFactory is a LLaMA-Factory configuration: flat keys, data sets by dataset_info.json.
const FormFactory Form = "llamafactory"

// isFactory recognizes the form by keys that no other form has.
func isFactory(root *node) bool {
	return slices.ContainsFunc([]string{"model_name_or_path", "finetuning_type", "stage", "do_train", "do_predict", "do_eval", "dataset", "export_dir", "task"},
		func(k string) bool { return root.values[k] != nil })
}

// loadFactory resolves a LLaMA-Factory configuration to the same RunSpec that the other forms give.
func loadFactory(ctx context.Context, root *node, p *problems, c *collector) (*Resolved, error) {
	v := newFactoryValues(root, p)
	v.check()
	if err := p.err(); err != nil {
		return nil, err
	}
	v.rules()
	if err := p.err(); err != nil {
		return nil, err
	}
	c.modelScope = v.truth("use_modelscope_hub")
	b := &factoryBuilder{v: v, c: c}
	spec, err := b.build(ctx)
	if err == nil {
		err = p.err()
	}
	if err != nil {
		return nil, err
	}
	spec.FreezeDate(time.Now())
	if err := validate(p.file, spec); err != nil {
		return nil, err
	}
	r := &Resolved{Form: FormFactory, Spec: spec, Inputs: c.inputs, Output: nonEmpty(v.text("output_dir"), "output"), Workers: v.whole("num_workers"), ReportTo: "none", Notes: b.notes}
	if v.exportOnly() {
		r.Output = v.text("export_dir")
	}
	if v.asks() {
		r.Output = v.text("save_dir") // "" writes nothing
	}
	r.Logs, r.Tokenized = nonEmpty(v.text("logging_dir"), r.Output), b.saved
	r.Factory = &FactoryOutput{Predicts: v.truth("do_predict"), Generates: v.generates() && v.doEval(), Saves: strategy(v.text("save_strategy")) != "no", LoggingSteps: v.number("logging_steps"), CountTokens: v.truthy("include_num_input_tokens_seen"), Perplexity: v.text("stage") == "pt",
		BatchSize: v.whole("per_device_train_batch_size"), Epochs: v.number("num_train_epochs")}
	if slices.Contains(v.list("report_to"), "otlp") {
		r.ReportTo = "otlp"
	} else if l := v.list("report_to"); len(l) > 0 && l[0] != "none" && l[0] != "all" {
		r.Notes = append(r.Notes, fmt.Sprintf("report_to: %s is not written; trainer_log.jsonl, the dashboard and OTLP are", strings.Join(l, ", ")))
	}
	return r, nil
}

// FactoryOutput says what the log files of a LLaMA-Factory run hold.
type FactoryOutput struct {
	// LoggingSteps is the interval of trainer_state.json's history; below 1 it is a share of all steps.
	LoggingSteps float64
	// Predicts keeps what was generated; Generates says that the evaluation generates, too: its scores are those of the predictions.
	Predicts, Generates bool
	// Saves says that checkpoints are made while it trains.
	Saves bool
	// CountTokens adds num_input_tokens_seen, Perplexity eval_perplexity.
	CountTokens, Perplexity bool
	// BatchSize and Epochs are the configuration's.
	BatchSize int
	Epochs    float64
}

// truthy reads a key that is true, or a word like "all".
func (v *factoryValues) truthy(name string) bool {
	if !v.given(name) {
		return false
	}
	b, ok := truthOf(v.node(name))
	return b || !ok && v.text(name) != "no" && v.text(name) != "none"
}

// factoryBuilder makes the spec.
type factoryBuilder struct {
	v     *factoryValues
	c     *collector
	notes []string

	base      *schemas.Ref
	tokenizer schemas.Ref
	template  string
	// vocab, when positive, is what the model's vocabulary is grown to.
	vocab int
	// saved is the folder that tokenized data are written to, "" for none.
	saved string
}

func (b *factoryBuilder) build(ctx context.Context) (*schemas.RunSpec, error) {
	v := b.v
	if err := b.model(ctx); err != nil {
		return nil, err
	}
	spec := &schemas.RunSpec{Version: schemas.SpecVersion, Tenant: v.text("tenant"), Name: v.text("run_name"), Pool: v.text("pool"), Priority: v.whole("priority"), Seed: uint64(v.number("seed"))}
	switch {
	case spec.Name != "":
	case v.asks():
		spec.Name = v.text("task")
	default:
		spec.Name = strings.Join(append([]string{v.text("stage")}, v.list("dataset")...), "-")
		spec.Name = spec.Name[:min(len(spec.Name), 200)]
	}
	if b.vocab > 0 && !v.truth("do_train") {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "resize_vocab", "only training grows a vocabulary").WithHint("set do_train: true")
	}
	if v.exportOnly() {
		return spec, b.export(ctx, spec)
	}
	if v.asks() {
		return spec, b.choice(ctx, spec)
	}
	prep, err := b.prep(ctx)
	if err != nil {
		return nil, err
	}
	spec.Stages = []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep, Prep: prep}}
	if v.truth("do_train") || v.doEval() && !v.generates() {
		train, err := b.train(ctx, prep)
		if err != nil {
			return nil, err
		}
		format := "merged"
		if train.Method == "lora" || train.Method == "oft" {
			format = "peft"
		}
		if train.EvalOnly {
			spec.Stages = append(spec.Stages, schemas.Stage{Name: "evaluate", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: train})
			return spec, nil
		}
		spec.Stages = append(spec.Stages, schemas.Stage{Name: "train", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: train},
			schemas.Stage{Name: "export", Kind: schemas.KindExport, Needs: []string{"train"}, Export: &schemas.ExportStage{From: "stage:train", Formats: []string{format}, Tokenizer: &b.tokenizer}})
	}
	if v.generates() {
		if err := b.predict(ctx, spec); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// model finds the base model and its tokenizer.
func (b *factoryBuilder) model(ctx context.Context) error {
	name := b.v.text("model_name_or_path")
	if name == "" {
		return schemas.Errorf(schemas.CodeInvalid, "model_name_or_path", "is missing").WithHint("give a folder or a model name")
	}
	folder, m, err := b.c.model(ctx, b.path(name), b.v.text("model_revision"))
	if err != nil {
		return rename(err, "model.base_model", "model_name_or_path")
	}
	if err := checkModelFolder(folder); err != nil {
		return err
	}
	if b.base, err = b.c.ref(ctx, folder, modelFile); err != nil {
		return err
	}
	tok, err := b.c.ref(ctx, folder, tokenizerFile)
	if err != nil {
		return schemas.Errorf(schemas.CodeModel, folder, "has no tokenizer files")
	}
	b.tokenizer = *tok
	if err := b.vocabulary(ctx, folder); err != nil {
		return err
	}
	b.template = b.v.text("template")
	b.notes = append(b.notes, "base model: "+folder)
	if b.template == "" && m.Template != "" && m.Template != "default" {
		b.notes = append(b.notes, fmt.Sprintf("template: taken from the tokenizer; %s was tuned with %q", m.Alias, m.Template))
	}
	return nil
}

// note remembers what is to be told.
func (b *factoryBuilder) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// rename replaces a key's name in an error's text and place.
func rename(err error, old, key string) error {
	var info *schemas.ErrorInfo
	if !errors.As(err, &info) {
		return err
	}
	c := *info
	c.Message, c.Place = strings.ReplaceAll(c.Message, old, key), strings.ReplaceAll(c.Place, old, key)
	return &c
}

// tokenizerFile selects what a tokenizer consists of.
func tokenizerFile(name string) bool {
	switch name {
	case "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json":
		return true
	}
	return false
}

// path finds a relative path beside the configuration, else in the working folder, as upstream does.
func (b *factoryBuilder) path(p string) string {
	if filepath.IsAbs(p) || strings.HasPrefix(p, "~") || remote.IsAddress(p) {
		return p
	}
	if _, err := os.Stat(filepath.Join(b.c.dir, p)); err == nil {
		return p
	}
	if abs, err := filepath.Abs(p); err == nil {
		if _, err := os.Stat(abs); err == nil {
			return abs
		}
	}
	return p
}
