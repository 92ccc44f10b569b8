package config

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// EvalModel is a model to be evaluated: a folder, an address or a hub's name, with PEFT folders merged into it; or, by From, a finished stage.
type EvalModel struct {
	// Name is what the report calls it.
	Name string
	// Model is a folder, an address or a name; Adapters are merged into it in order.
	Model    string
	Adapters []string
	// From is the URI of a finished train stage (run:tenant/id/stage), Base and AdapterRefs files that are uploaded already, Tokenizer the files
	// of either's.
	From        string
	Base        *schemas.Ref
	AdapterRefs []schemas.Ref
	Tokenizer   *schemas.Ref
}

// Evaluation is what tunefleet eval asks for: models and a data file.
type Evaluation struct {
	Models []EvalModel
	// Data is a file, a folder or an address of rows; Format and Columns are those of PrepStage. No columns: they are told by their names.
	Data    string
	Format  string
	Columns map[string]string
	// Template is the chat template, "" for that of the first model's name, else default. CutoffLen 0 is the first model's length, at most 2,048.
	Template  string
	CutoffLen int
	// Stage holds what the evaluation stages have in common: labels, measures, bounds of generated text, precision.
	Stage schemas.EvalStage
	// Seed, Tenant, Pool and Name are the run's, Workers the number of slices.
	Seed               uint64
	Tenant, Pool, Name string
	Workers            int
	Device             string
}

// Evaluate resolves an evaluation to a run: a preparation that keeps the rows, and a stage that scores the models; models with another tokenizer
// than the first one have a preparation and a stage of their own. Stages are named eval, eval-2 and so on, in the order of the models.
func Evaluate(ctx context.Context, dir string, e Evaluation, opt Options) (*Resolved, error) {
	b := &evalBuilder{e: &e, c: newCollector(dir, opt)}
	spec := &schemas.RunSpec{Version: schemas.SpecVersion, Tenant: e.Tenant, Name: e.Name, Pool: e.Pool, Seed: e.Seed}
	if spec.Name == "" {
		spec.Name = "eval-" + strings.TrimSuffix(filepath.Base(e.Data), filepath.Ext(e.Data))
	}
	prep, err := b.rows(ctx)
	if err != nil {
		return nil, err
	}
	made := map[string]int{} // the stage of each tokenizer
	for i := range e.Models {
		m, tokenizer, err := b.model(ctx, &e.Models[i])
		if err != nil {
			return nil, err
		}
		key := tokenizerKey(tokenizer)
		at, ok := made[key]
		if !ok {
			own := *prep
			own.Tokenizer, own.Outputs = *tokenizer, slices.Clone(prep.Outputs)
			own.Outputs[0].CutoffLen = b.cutoff
			if own.Outputs[0].Form == "sft" {
				own.Outputs[0].Template = b.template
			}
			tail := ""
			if len(spec.Stages) > 0 {
				tail = fmt.Sprintf("-%d", len(spec.Stages)/2+1)
			}
			stage := e.Stage
			stage.Data, stage.Slices, stage.Models = "prep"+tail+"/rows", max(1, e.Workers), nil
			at = len(spec.Stages) + 1
			made[key] = at
			spec.Stages = append(spec.Stages, schemas.Stage{Name: "prep" + tail, Kind: schemas.KindPrep, Prep: &own},
				schemas.Stage{Name: "eval" + tail, Kind: schemas.KindEval, Needs: []string{"prep" + tail}, Eval: &stage})
		}
		spec.Stages[at].Eval.Models = append(spec.Stages[at].Eval.Models, *m)
	}
	if err := validate("evaluation", spec); err != nil {
		return nil, err
	}
	notes := append(b.notes, fmt.Sprintf("data: %s form, template %s, at most %d tokens a row", b.form, b.template, b.cutoff))
	return &Resolved{Form: FormSpec, Spec: spec, Inputs: b.c.inputs, Workers: max(1, e.Workers), Device: e.Device, Notes: notes}, nil
}

type evalBuilder struct {
	e              *Evaluation
	c              *collector
	form, template string
	cutoff         int
	notes          []string
}

// rows is the preparation of the data, without a tokenizer.
func (b *evalBuilder) rows(ctx context.Context) (*schemas.PrepStage, error) {
	g := guideDefaults()
	g.Data.Format, g.Data.Columns, g.Data.CutoffLen = b.e.Format, b.e.Columns, 2
	gb := guideBuilder{g: &g, c: b.c}
	prep, err := gb.prep(ctx, b.e.Data)
	if info := schemas.AsErrorInfo(err); err != nil && strings.Contains(info.Hint, "data.columns") {
		return nil, info.WithHint("say so: --column prompt=NAME --column response=NAME, or label=NAME")
	}
	if err != nil {
		return nil, err
	}
	b.form = gb.form
	if b.form == "pt" {
		for _, m := range b.e.Stage.Measures {
			if m != schemas.MeasurePerplexity {
				return nil, schemas.Errorf(schemas.CodeUsage, b.e.Data, "the rows are plain text, of which only the perplexity can be measured").
					WithHint("--metrics perplexity, or say which columns are prompt and response: --column prompt=NAME --column response=NAME")
			}
		}
		b.e.Stage.Measures = []string{schemas.MeasurePerplexity}
	}
	prep.Outputs[0].Name, prep.Outputs[0].Rows = "rows", true
	return prep, nil
}

// model finds a model's files and its tokenizer. The first one decides about template and length where nothing was said.
func (b *evalBuilder) model(ctx context.Context, m *EvalModel) (*schemas.EvalModel, *schemas.Ref, error) {
	out := &schemas.EvalModel{Name: m.Name, From: m.From, Base: m.Base, Adapters: m.AdapterRefs}
	var row Model
	length := 2048
	tokenizer := m.Tokenizer
	if m.Model != "" {
		folder, found, err := b.c.model(ctx, m.Model, "")
		if err != nil {
			return nil, nil, rename(err, "model.base_model", "the model")
		}
		if err := checkModelFolder(folder); err != nil {
			return nil, nil, err
		}
		row, length = found, cutoff(folder)
		if out.Base, err = b.c.ref(ctx, folder, modelFile); err != nil {
			return nil, nil, err
		}
		if tokenizer == nil {
			tokenizer, err = b.c.ref(ctx, folder, func(n string) bool { return n == tokenizerName || n == tokenizerConfigName })
			if err != nil || !slices.ContainsFunc(tokenizer.Files, func(f schemas.File) bool { return f.Path == tokenizerName }) {
				return nil, nil, schemas.Errorf(schemas.CodeModel, folder, "has no tokenizer.json").WithHint("save the fast tokenizer beside the weights")
			}
		}
		b.notes = append(b.notes, m.Name+": "+folder)
	}
	for _, a := range m.Adapters {
		ref, err := b.adapter(ctx, a)
		if err != nil {
			return nil, nil, err
		}
		out.Adapters = append(out.Adapters, *ref)
		b.notes = append(b.notes, m.Name+": with the adapter "+a)
	}
	if b.template == "" {
		b.template = nonEmpty(b.e.Template, nonEmpty(row.Template, "default"))
		if _, err := data.TemplateByName(b.template); err != nil {
			return nil, nil, err
		}
		b.cutoff = b.e.CutoffLen
		if b.cutoff == 0 {
			b.cutoff = length
		}
	}
	return out, tokenizer, nil
}

// adapter is a PEFT folder.
func (b *evalBuilder) adapter(ctx context.Context, name string) (*schemas.Ref, error) {
	return (&factoryBuilder{c: b.c}).adapter(ctx, name)
}

// tokenizerKey is equal for equal tokenizers.
func tokenizerKey(r *schemas.Ref) string {
	for _, f := range r.Files {
		if f.Path == tokenizerName {
			return f.SHA256
		}
	}
	return ""
}
