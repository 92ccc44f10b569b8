package main

import (
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// trained is a finished train stage of a run with what its data were prepared with.
type trained struct {
	view  *schemas.RunView
	stage *schemas.Stage
	// prep prepared the stage's data, output is what it trained on.
	prep   *schemas.Stage
	output schemas.PrepOutput
}

// trainedStage finds the train stage of that name that has ended, of no name the last, and the preparation of its data.
func trainedStage(v *schemas.RunView, name string) (*trained, error) {
	name, err := finishedStage(v, name)
	if err != nil {
		return nil, err
	}
	t := &trained{view: v}
	if t.stage, err = v.Spec.StageOf(name); err != nil {
		return nil, err
	}
	prep, output, _ := strings.Cut(t.stage.Train.Data, "/")
	if t.prep, err = v.Spec.StageOf(prep); err != nil || t.prep.Prep == nil {
		return nil, schemas.Errorf(schemas.CodeInternal, v.Run, "stage %s trained on %q, which no preparation of the run has", name, t.stage.Train.Data)
	}
	i := slices.IndexFunc(t.prep.Prep.Outputs, func(o schemas.PrepOutput) bool { return o.Name == output })
	if i < 0 {
		return nil, schemas.Errorf(schemas.CodeInternal, v.Run, "preparation %s has no output %q", prep, output)
	}
	t.output = t.prep.Prep.Outputs[i]
	return t, nil
}

// model is the stage's result as an evaluation names it.
func (t *trained) model(name string) config.EvalModel {
	return config.EvalModel{Name: name, From: runURI(t.view, t.stage.Name), Tokenizer: &t.prep.Prep.Tokenizer}
}

// template is the chat template that rows of a file get: that of what the stage trained on, for plain text that of other outputs, else default. ""
// is the tokenizer's own, which only preparations of LLaMA-Factory know.
func (t *trained) template() string {
	factory := t.prep.Prep.Factory != nil
	if t.output.Form != "pt" && (t.output.Template != "" || factory) {
		return t.output.Template
	}
	for _, o := range t.prep.Prep.Outputs {
		if o.Form == "sft" && o.Template != "" {
			return o.Template
		}
	}
	return "default"
}

// before is the model that the stage began with.
func (t *trained) before() (config.EvalModel, error) {
	m := config.EvalModel{Name: "baseline", Tokenizer: &t.prep.Prep.Tokenizer}
	begun := t.stage.Train.Model
	switch {
	case begun.From != "":
		m.From = begun.From
		if name, ok := strings.CutPrefix(begun.From, "stage:"); ok {
			m.From = runURI(t.view, name)
		}
	case begun.Base != nil && begun.Vocab == 0 && begun.RopeScaling == nil:
		m.Base, m.AdapterRefs = begun.Base, t.stage.Train.Adapters
	default:
		return m, schemas.Errorf(schemas.CodeUnsupported, "--baseline", "stage %s began with a model that is no folder of files: random weights, or a stretched or grown one", t.stage.Name).
			WithHint("name a folder or another run: --baseline DIR")
	}
	return m, nil
}

// heldOut is an evaluation of models on the run's own held-out rows, with the settings of its evaluation stage where it has one. Rows of a
// LLaMA-Factory run have another form: their prompts are answered (answering).
func (t *trained) heldOut(models []schemas.EvalModel, common schemas.EvalStage) (*schemas.RunSpec, error) {
	own := common
	if s := t.evalStage(); s != nil {
		own = *s
		own.Measures, own.DType = common.Measures, common.DType
		if common.MaxNewTokens > 0 {
			own.MaxNewTokens = common.MaxNewTokens
		}
		if common.GenerateRows > 0 {
			own.GenerateRows = common.GenerateRows
		}
		if len(common.Labels) > 0 {
			own.Labels = common.Labels
		}
	}
	prepName, output, err := t.heldOutput(own.Data)
	if err != nil {
		return nil, err
	}
	st, err := t.view.Spec.StageOf(prepName)
	if err != nil {
		return nil, err
	}
	prep := *st.Prep
	prep.Outputs = slices.Clone(prep.Outputs)
	for i := range prep.Outputs {
		if prep.Outputs[i].Name == output {
			prep.Outputs[i].Rows = true
		}
	}
	own.Data, own.Models, own.Slices = prepName+"/"+output, models, max(common.Slices, own.Slices, 1)
	return t.spec(schemas.Stage{Name: prepName, Kind: schemas.KindPrep, Prep: &prep}, schemas.Stage{Name: "eval", Kind: schemas.KindEval, Needs: []string{prepName}, Eval: &own}), nil
}

// evalStage is the run's last evaluation stage that compares models.
func (t *trained) evalStage() *schemas.EvalStage {
	for _, st := range slices.Backward(t.view.Spec.Stages) {
		if st.Eval != nil && len(st.Eval.Models) > 0 {
			return st.Eval
		}
	}
	return nil
}

// heldOutput names the held-out rows: those given, those that training was measured on, or the first split that is no training data.
func (t *trained) heldOutput(given string) (prep, output string, err error) {
	if given == "" {
		given = t.stage.Train.Eval
	}
	if given != "" {
		prep, output, _ = strings.Cut(given, "/")
		return prep, output, nil
	}
	for _, split := range []string{"test", "eval"} {
		for _, o := range t.prep.Prep.Outputs {
			if o.Split == split && o.Form == "sft" {
				return t.prep.Name, o.Name, nil
			}
		}
	}
	return "", "", schemas.Errorf(schemas.CodeUsage, t.view.Run, "the run held no rows out").WithHint("tunefleet eval %s --data FILE", t.view.Run)
}

// answering is a run in which the stage's model answers the held-out prompts of a LLaMA-Factory run, and is scored as there.
func (t *trained) answering(dtype string, slicesOf int, g schemas.Generation) (*schemas.RunSpec, error) {
	prep := *t.prep.Prep
	f := prep.Factory
	if f.Stage != "sft" || f.Tokenized || len(f.Eval) == 0 && f.ValSize <= 0 {
		return nil, schemas.Errorf(schemas.CodeUsage, t.view.Run, "the run held no prompts with answers out (eval_dataset or val_size, stage sft)").WithHint("tunefleet eval %s --data FILE", t.view.Run)
	}
	held := t.output
	held.Name, held.Form, held.Split, held.Packing, held.Neat = "eval", "predict", "eval", false, false
	prep.Outputs = []schemas.PrepOutput{held}
	e := &schemas.EvalStage{Data: t.prep.Name + "/eval", Slices: slicesOf, DType: dtype, Predict: &schemas.Prediction{Model: schemas.ModelSpec{From: runURI(t.view, t.stage.Name)}, Generation: g}}
	return t.spec(schemas.Stage{Name: t.prep.Name, Kind: schemas.KindPrep, Prep: &prep}, schemas.Stage{Name: "eval", Kind: schemas.KindEval, Needs: []string{t.prep.Name}, Eval: e}), nil
}

// spec is a run of these stages in the pool where the old run's aux stages were.
func (t *trained) spec(stages ...schemas.Stage) *schemas.RunSpec {
	v := t.view
	pool := nonEmpty(v.Spec.AuxPool, v.Spec.Pool)
	return &schemas.RunSpec{Version: v.Spec.Version, Tenant: v.Tenant, Name: evalName(v.Spec.Name), Pool: pool, AuxPool: pool, Priority: v.Spec.Priority, Seed: v.Spec.Seed, Stages: stages}
}

// evalName is the name of an evaluation of a run.
func evalName(name string) string {
	name = "eval-" + name
	return name[:min(len(name), 200)]
}

// uploaded turns models that need no files of this machine into those of a spec.
func uploaded(list []config.EvalModel) (out []schemas.EvalModel, err error) {
	for _, m := range list {
		if m.Model != "" {
			return nil, schemas.Errorf(schemas.CodeUsage, "--baseline", "a folder is compared on a file of rows").WithHint("add --data FILE, or compare with the model that training began with: --baseline base")
		}
		out = append(out, schemas.EvalModel{Name: m.Name, From: m.From, Base: m.Base, Adapters: m.AdapterRefs})
	}
	return out, nil
}
