package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

// defaultEvalTokens bounds a generated answer where nobody said how long it may be.
const defaultEvalTokens = 128

// evalFlags are the flags of an evaluation on rows.
type evalFlags struct {
	data, format, template string
	columns                map[string]string
	cutoff                 int
	metrics, labels, gates []string
	baseline, stage        string
	adapters               []string
	maxNew, generateRows   int
	dtype, to              string
	workers                int
	device                 string

	shown []evalMetric
	rules []gate
}

func (f *evalFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.data, "data", "", "file, folder or address of the rows to evaluate on")
	fl.StringVar(&f.format, "format", "", "json, jsonl, csv, tsv, txt, parquet, arrow (default: by the file's name)")
	fl.StringToStringVar(&f.columns, "column", nil, "ROLE=COLUMN of the rows (prompt, query, response, system, label, explanation, text); default: by their names")
	fl.StringVar(&f.template, "template", "", "chat template (default: that of the run, or of the model's name, else default)")
	fl.IntVar(&f.cutoff, "cutoff-len", 0, "most tokens of a row (default: the model's length, at most 2048)")
	fl.StringSliceVar(&f.metrics, "metrics", nil, "what is measured and shown ("+strings.Join(usualMetrics(), ", ")+", mcc, chrf, sacrebleu; bleu, rouge); default: what the rows allow")
	fl.StringSliceVar(&f.labels, "labels", nil, "the classes (default: the labels that occur)")
	fl.StringVar(&f.baseline, "baseline", "", "model to compare with: a folder or an address; of a run also base (what the stage began with) or another run")
	fl.StringArrayVar(&f.gates, "gate", nil, "condition that must hold, else the exit code is 1: accuracy>=0.9, perplexity<=baseline*1.05 (repeatable)")
	fl.StringArrayVar(&f.adapters, "adapter", nil, "PEFT folder that is merged into the model (repeatable)")
	fl.StringVar(&f.stage, "stage", "", "of a run: the train stage (default: the last that has ended)")
	fl.IntVar(&f.maxNew, "max-new-tokens", 0, fmt.Sprintf("most tokens of a generated answer (default %d)", defaultEvalTokens))
	fl.IntVar(&f.generateRows, "generate-rows", 0, "rows that are answered (default: all); all are classified and measured")
	fl.StringVar(&f.dtype, "dtype", "auto", "what models are computed in: fp32, bf16, fp16, or auto, as they are held or were trained")
	fl.StringVar(&f.to, "to", "", "folder that report.json is put into")
	fl.IntVar(&f.workers, "num-workers", 1, "slices, and worker processes where everything runs embedded")
	fl.StringVar(&f.device, "device", "auto", "where everything runs embedded: auto (a GPU where there is one), cpu or cuda")
}

// check reads what is written in words. Errors are CodeUsage.
func (f *evalFlags) check() (err error) {
	names := f.metrics
	if len(names) == 0 {
		names = usualMetrics()
	}
	if f.shown, err = metricsByName("--metrics", names); err != nil {
		return err
	}
	for _, text := range f.gates {
		g, err := parseGate(text)
		if err != nil {
			return err
		}
		if g.relative && f.baseline == "" {
			return schemas.Errorf(schemas.CodeUsage, "--gate", "%q compares with a baseline, and there is none", text).WithHint("add --baseline DIR")
		}
		if len(f.metrics) > 0 && !slices.ContainsFunc(f.shown, func(m evalMetric) bool { return m.name == g.metric.name }) {
			return schemas.Errorf(schemas.CodeUsage, "--gate", "%q needs %s, which --metrics leaves out", text, g.metric.name)
		}
		f.rules = append(f.rules, g)
	}
	for name, r := range map[string][3]int{"--cutoff-len": {f.cutoff, 0, 1 << 20}, "--max-new-tokens": {f.maxNew, 0, 1 << 20}, "--generate-rows": {f.generateRows, 0, 1 << 30}, "--num-workers": {f.workers, 1, 64}} {
		if r[0] < r[1] || r[0] > r[2] {
			return schemas.Errorf(schemas.CodeUsage, name, "is %d, expected %d to %d", r[0], r[1], r[2])
		}
	}
	if !slices.Contains([]string{"auto", "fp32", "bf16", "fp16"}, f.dtype) {
		return schemas.Errorf(schemas.CodeUsage, "--dtype", "%q is unknown (auto, fp32, bf16, fp16)", f.dtype)
	}
	return nil
}

// common are the settings that every evaluation stage has. Without --metrics all is measured that the rows allow.
func (f *evalFlags) common() schemas.EvalStage {
	e := schemas.EvalStage{Slices: f.workers, MaxNewTokens: f.maxNew, GenerateRows: f.generateRows, Labels: f.labels, DType: f.dtype}
	if len(f.metrics) > 0 {
		e.Measures = measures(f.shown)
	}
	return e
}

// forRows refuses what only an evaluation on rows takes.
func (f *evalFlags) forRows(cmd *cobra.Command, file string) error {
	var given string
	cmd.LocalFlags().Visit(func(fl *pflag.Flag) {
		if cmd.Root().PersistentFlags().Lookup(fl.Name) == nil {
			given = fl.Name
		}
	})
	if given == "" {
		return nil
	}
	return schemas.Errorf(schemas.CodeUsage, "--"+given, "is for a model or a run; %s is a configuration, whose values are changed by key=value", file)
}

// evalModel evaluates a folder or an address.
func (a *app) evalModel(ctx context.Context, model string, f *evalFlags) error {
	if f.data == "" {
		return schemas.Errorf(schemas.CodeUsage, "--data", "says which rows %s is evaluated on, and is missing", model).WithHint("tunefleet eval %s --data rows.jsonl", model)
	}
	if f.stage != "" || f.baseline == "base" {
		return schemas.Errorf(schemas.CodeUsage, model, "is a model: --stage and --baseline base are for runs")
	}
	e := f.evaluation(config.EvalModel{Name: "model", Model: model, Adapters: f.adapters})
	e.Tenant, e.Pool = a.tenant, "cpu"
	if f.baseline != "" {
		e.Models = append(e.Models, config.EvalModel{Name: "baseline", Model: f.baseline})
	}
	r, err := config.Evaluate(ctx, a.cwd, e, config.Options{Say: a.sayLine})
	if err != nil {
		return err
	}
	if err := checkModels(r); err != nil {
		return err
	}
	for _, n := range r.Notes {
		a.say("%s", n)
	}
	if err := f.makeFolder(a.cwd); err != nil {
		return err
	}
	return a.evaluated(ctx, r, func(ctx context.Context, cl *client.Client, tenant, run string) error {
		return a.showReports(ctx, cl, tenant, run, r.Spec, f)
	})
}

// evaluation is what config resolves.
func (f *evalFlags) evaluation(models ...config.EvalModel) config.Evaluation {
	e := config.Evaluation{Models: models, Data: f.data, Format: f.format, Columns: f.columns, Template: f.template, CutoffLen: f.cutoff, Stage: f.common(), Seed: 42, Workers: f.workers, Device: f.device}
	if e.Stage.MaxNewTokens == 0 {
		e.Stage.MaxNewTokens = defaultEvalTokens
	}
	return e
}

// makeFolder makes --to an absolute path that can be written.
func (f *evalFlags) makeFolder(cwd string) error {
	if f.to == "" {
		return nil
	}
	if !filepath.IsAbs(f.to) {
		f.to = filepath.Join(cwd, f.to)
	}
	return writable(f.to)
}

// evalRun evaluates a finished train stage of a run.
func (a *app) evalRun(ctx context.Context, arg string, f *evalFlags) error {
	if len(f.adapters) > 0 {
		return schemas.Errorf(schemas.CodeUsage, "--adapter", "is for a folder; a run's stage has its own adapters")
	}
	if err := f.makeFolder(a.cwd); err != nil {
		return err
	}
	cl, stop, err := a.somewhere(ctx, &config.Resolved{Spec: &schemas.RunSpec{Pool: "cpu"}, Workers: f.workers, Device: f.device})
	if err != nil {
		return err
	}
	defer stop()
	defer cl.Close()
	t, err := a.findTrained(ctx, cl, arg, f.stage)
	if err != nil {
		return err
	}
	models := []config.EvalModel{t.model(t.stage.Name)}
	if f.baseline != "" {
		m, err := a.baselineOf(ctx, cl, t, f.baseline)
		if err != nil {
			return err
		}
		models = append(models, m)
	}
	r, err := a.evaluationOf(ctx, t, models, f)
	if err != nil {
		return err
	}
	for _, n := range r.Notes {
		a.say("%s", n)
	}
	return a.runEvaluation(ctx, cl, r, func(ctx context.Context, tenant, run string) error {
		if r.Spec.Stages[len(r.Spec.Stages)-1].Eval.Predict != nil {
			return a.showAnswers(ctx, cl, tenant, run, f)
		}
		return a.showReports(ctx, cl, tenant, run, r.Spec, f)
	})
}

func (a *app) findTrained(ctx context.Context, cl *client.Client, arg, stage string) (*trained, error) {
	tenant, run, err := a.findRun(ctx, cl, arg)
	if err != nil {
		if info := schemas.AsErrorInfo(err); info.Code == schemas.CodeNotFound {
			return nil, info.WithHint("a model's folder is written ./%s, a hub's model hf://OWNER/NAME; tunefleet list shows the runs", arg)
		}
		return nil, err
	}
	v, err := cl.Get(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	return trainedStage(v, stage)
}

// baselineOf finds what a run's stage is compared with.
func (a *app) baselineOf(ctx context.Context, cl *client.Client, t *trained, name string) (config.EvalModel, error) {
	if name == "base" {
		return t.before()
	}
	if isModel(name) {
		return config.EvalModel{Name: "baseline", Model: name}, nil
	}
	other, err := a.findTrained(ctx, cl, name, "")
	if err != nil {
		return config.EvalModel{}, err
	}
	if other.view.Tenant != t.view.Tenant {
		return config.EvalModel{}, schemas.Errorf(schemas.CodeUsage, "--baseline", "run %s is another tenant's", name)
	}
	return other.model("baseline"), nil
}

// evaluationOf resolves the evaluation of a run's stage: on a file, or on the rows that the run held out.
func (a *app) evaluationOf(ctx context.Context, t *trained, models []config.EvalModel, f *evalFlags) (*config.Resolved, error) {
	factory := t.prep.Prep.Factory != nil
	if f.data == "" {
		return a.heldOutEvaluation(ctx, t, models, f)
	}
	e := f.evaluation(models...)
	e.Tenant, e.Pool, e.Name = t.view.Tenant, nonEmpty(t.view.Spec.AuxPool, t.view.Spec.Pool), evalName(t.view.Spec.Name)
	if e.Template == "" {
		if e.Template = t.template(); e.Template == "" {
			return nil, schemas.Errorf(schemas.CodeUsage, "--template", "the run took its template from the tokenizer, which rows of a file have no part in").WithHint("name it: --template qwen, for instance")
		}
	}
	if e.CutoffLen == 0 {
		e.CutoffLen = t.output.CutoffLen
	}
	if len(e.Columns) == 0 && !factory {
		e.Columns = t.prep.Prep.Columns
	}
	r, err := config.Evaluate(ctx, a.cwd, e, config.Options{Say: a.sayLine})
	if err != nil {
		return nil, err
	}
	return r, checkModels(r)
}

func (a *app) heldOutEvaluation(ctx context.Context, t *trained, models []config.EvalModel, f *evalFlags) (*config.Resolved, error) {
	for flag, given := range map[string]bool{"--template": f.template != "", "--column": len(f.columns) > 0, "--cutoff-len": f.cutoff > 0, "--format": f.format != ""} {
		if given {
			return nil, schemas.Errorf(schemas.CodeUsage, flag, "is for --data FILE; the rows that the run held out are prepared as it did")
		}
	}
	var spec *schemas.RunSpec
	var err error
	if t.prep.Prep.Factory != nil {
		if f.baseline != "" || len(f.rules)+len(f.metrics)+len(f.labels) > 0 {
			return nil, schemas.Errorf(schemas.CodeUsage, t.view.Run, "the held-out prompts of a LLaMA-Factory run are answered and scored as there: --baseline, --gate, --metrics and --labels need --data FILE")
		}
		spec, err = t.answering(f.dtype, f.workers, schemas.Generation{MaxNewTokens: cmp.Or(f.maxNew, defaultEvalTokens)})
	} else {
		var list []schemas.EvalModel
		if list, err = uploaded(models); err != nil {
			return nil, err
		}
		spec, err = t.heldOut(list, f.common())
	}
	if err != nil {
		return nil, err
	}
	return a.changed(ctx, spec, nil)
}

// isModel says that a word is a folder or an address, and no run.
func isModel(name string) bool {
	if strings.Contains(name, "://") || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "~") || filepath.IsAbs(name) {
		return true
	}
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// evalResult is what --json prints.
type evalResult struct {
	Report *evaluate.Report `json:"report"`
	Gates  []gateResult     `json:"gates,omitempty"`
}

// showReports prints the table of all models of a run's evaluation stages, and judges the gates.
func (a *app) showReports(ctx context.Context, cl *client.Client, tenant, run string, spec *schemas.RunSpec, f *evalFlags) error {
	out := evalResult{}
	for _, st := range spec.Stages {
		if st.Eval == nil {
			continue
		}
		var rep evaluate.Report
		if err := stageReport(ctx, cl, tenant, run, st.Name, &rep); err != nil {
			return err
		}
		if out.Report == nil {
			out.Report = &rep
		} else {
			out.Report.Models = append(out.Report.Models, rep.Models...)
		}
	}
	rep := out.Report
	if rep == nil || len(rep.Models) == 0 {
		return schemas.Errorf(schemas.CodeInternal, run, "the run has no report")
	}
	var baseline *evaluate.ModelReport
	if len(rep.Models) > 1 {
		baseline = &rep.Models[1]
	}
	var missed []string
	for _, g := range f.rules {
		res, err := g.check(&rep.Models[0], baseline)
		if err != nil {
			return err
		}
		if out.Gates = append(out.Gates, res); !res.Passed {
			missed = append(missed, fmt.Sprintf("%s: it is %.6g, the bound is %.6g", res.Gate, res.Value, res.Bound))
		}
	}
	if f.to != "" {
		if err := writeJSON(filepath.Join(f.to, evaluate.ReportName), &out); err != nil {
			return err
		}
	}
	if err := a.printReport(&out, f); err != nil {
		return err
	}
	if len(missed) > 0 {
		return schemas.Errorf(schemas.CodeVerify, "gate", "%s", strings.Join(missed, "\n"))
	}
	return nil
}

func (a *app) printReport(out *evalResult, f *evalFlags) error {
	if a.json {
		return a.print(out)
	}
	if err := evalTable(out.Report, f.shown).write(a.out); err != nil {
		return err
	}
	rows := fmt.Sprintf("%d rows", out.Report.Rows)
	if m := out.Report.Models[0]; m.Generated > 0 && m.Generated < out.Report.Rows {
		rows += fmt.Sprintf(", %d of them answered", m.Generated)
	}
	a.say("%s", rows)
	if f.to != "" {
		a.say("%s is in %s", evaluate.ReportName, f.to)
	}
	for _, g := range out.Gates {
		word := "holds"
		if !g.Passed {
			word = "DOES NOT HOLD"
		}
		a.say("gate %s %s (%.6g, bound %.6g)", g.Gate, word, g.Value, g.Bound)
	}
	return nil
}

// showAnswers prints the scores of answered prompts, which are LLaMA-Factory's, and fetches the answers.
func (a *app) showAnswers(ctx context.Context, cl *client.Client, tenant, run string, f *evalFlags) error {
	v, err := cl.Stage(ctx, tenant, run, "eval")
	if err != nil {
		return err
	}
	if v.Result == nil {
		return schemas.Errorf(schemas.CodeInternal, run, "the evaluation has no result")
	}
	if f.to != "" {
		if err := a.fetchFiles(ctx, cl, tenant, run, "eval", f.to, evaluate.PredictionsName, evaluate.PredictResultsName); err != nil {
			return err
		}
	}
	if a.json {
		return a.print(v.Result.Values)
	}
	names := []string{"predict_rouge-1", "predict_rouge-2", "predict_rouge-l", "predict_bleu-4"}
	t := newTable("SCORE", "VALUE")
	for _, n := range names {
		if x, ok := v.Result.Values[n].(float64); ok {
			t.row(strings.TrimPrefix(n, "predict_"), fmt.Sprintf("%.2f", x))
		}
	}
	return t.write(a.out)
}
