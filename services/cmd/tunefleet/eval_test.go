package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// choiceYAML is LLaMA-Factory's configuration of the example's task.
func choiceYAML(t *testing.T, dir, model string) string {
	t.Helper()
	tasks, err := filepath.Abs("../../../producer/examples/multiple-choice/evaluation")
	if err != nil {
		t.Fatal(err)
	}
	return put(t, dir, "eval.yaml", "model_name_or_path: "+model+"\ntask: clauses_test\ntask_dir: "+tasks+"\ntemplate: fewshot\nn_shot: 2\n")
}

// TestEval makes a small model and evaluates it with nothing running: by a LLaMA-Factory configuration of its evaluator, and on rows.
func TestEval(t *testing.T) {
	p := project(t)
	dir, base := t.TempDir(), filepath.Join(p, "model")
	made := cli(t, nil, "train", filepath.Join(p, "run.yaml"), "--dir", dir, "--output_dir", base, "--log_dir", filepath.Join(p, "logs0"), "--no-color")
	made.want(t, 0, "run succeeded")
	t.Run("rows", func(t *testing.T) { evalRows(t, p, dir, strings.TrimSpace(made.out), base) })
	file, scores := choiceYAML(t, p, base), filepath.Join(p, "scores")

	r := cli(t, nil, "eval", file, "save_dir="+scores, "num_workers=2", "--dir", dir, "--no-color")
	r.want(t, 0, "24 questions of 4 subjects", "run succeeded")
	log, err := os.ReadFile(filepath.Join(scores, evaluate.ChoiceLogName))
	if err != nil || r.out != string(log)+"\n" || len(strings.Split(r.out, "\n")) != 5 || !strings.HasPrefix(r.out, "        Average: ") {
		t.Errorf("results.log %q (%v), printed %q", log, err, r.out)
	}
	var results map[string]map[string]string
	readJSON(t, filepath.Join(scores, evaluate.ChoiceResultsName), &results)
	if len(results) != 4 || len(results["money"]) != 6 || !strings.Contains("ABCD", results["money"]["5"]) {
		t.Errorf("results.json: %v", results)
	}
	cli(t, nil, "eval", file, "save_dir="+scores, "--dir", dir).want(t, 2, "save_dir already exists")

	j := cli(t, nil, "eval", file, "--dir", dir, "--json", "--no-color")
	j.want(t, 0)
	var rep evaluate.ChoiceReport
	if err := json.Unmarshal([]byte(j.out), &rep); err != nil || rep.Task != "clauses" || len(rep.Subjects) != 4 || rep.Categories[0].Questions != 24 {
		t.Errorf("--json printed %q: %v", j.out, err)
	}
	for i, s := range rep.Subjects {
		if right := strings.Count(j.out, s.Name); right != 1 || s.Questions != 6 || s.Accuracy < 0 || s.Accuracy > 1 {
			t.Errorf("subject %d: %+v", i, s)
		}
	}
}

// TestEvalSaysWhatItIsFor: configurations that are for another command are told which one.
func TestEvalSaysWhatItIsFor(t *testing.T) {
	p := project(t)
	put(t, p, "data/dataset_info.json", `{"a": {"file_name": "a.json"}}`)
	put(t, p, "data/a.json", `[{"instruction": "x", "output": "y"}, {"instruction": "z", "output": "y"}]`)
	model := filepath.Join(p, "m")
	put(t, model, "config.json", `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32}`)
	put(t, model, "model.safetensors", "weights")
	put(t, model, "tokenizer.json", "{}")
	yaml := put(t, p, "lf.yaml", "model_name_or_path: "+model+"\nstage: sft\nfinetuning_type: full\ntemplate: default\ndataset_dir: "+filepath.Join(p, "data")+"\n")
	cli(t, nil, "eval", yaml, "do_predict=true", "predict_with_generate=true", "eval_dataset=a").want(t, 2, "tunefleet train "+yaml, "do_predict")
	cli(t, nil, "eval", yaml, "do_eval=true", "eval_dataset=a").want(t, 2, "tunefleet train "+yaml, "do_eval")
	cli(t, nil, "eval", yaml, "do_train=true", "dataset=a").want(t, 2, "names no evaluation task", "mmlu_test")
	cli(t, nil, "eval", filepath.Join(p, "nothing.yaml")).want(t, 3, "no such configuration file")
	cli(t, nil, "eval").want(t, 2, "needs a")
	cli(t, nil, "train", choiceYAML(t, p, model)).want(t, 2, "tunefleet eval")
}

// evalOf reads what eval --json printed.
func evalOf(t *testing.T, r result) evalResult {
	t.Helper()
	var out evalResult
	if err := json.Unmarshal([]byte(r.out), &out); err != nil || out.Report == nil {
		t.Fatalf("--json printed %q (%v)\n%s", r.out, err, r.err)
	}
	return out
}

// evalRows evaluates a folder and a run on files of rows: answers, classes and plain text; a folder that holds what the run made scores the same.
func evalRows(t *testing.T, p, dir, run, model string) {
	put(t, p, "answers.jsonl", strings.Repeat(`{"prompt":"the party shall","response":"notice the law"}`+"\n"+`{"prompt":"pay the court","response":"a copy of it"}`+"\n", 3))
	put(t, p, "kinds.jsonl", strings.Repeat(`{"clause":"the party shall pay","kind":"payment"}`+"\n"+`{"clause":"the law of the court","kind":"law"}`+"\n", 3))
	answers, kinds, texts := filepath.Join(p, "answers.jsonl"), filepath.Join(p, "kinds.jsonl"), filepath.Join(p, "rows.jsonl")

	r := cli(t, nil, "eval", model, "--data", answers, "--baseline", model, "--gate", "perplexity<=baseline", "--gate", "perplexity<1", "--max-new-tokens", "4", "--to", filepath.Join(p, "rep"), "--dir", dir, "--no-color")
	r.want(t, 1, "run succeeded", "PERPLEXITY", "ROUGE-L", "difference", "gate perplexity<=baseline holds", "gate perplexity<1 DOES NOT HOLD", "error: gate: perplexity<1")
	if lines := strings.Split(r.out, "\n"); len(lines) != 5 || strings.Contains(lines[0], "ACCURACY") || !strings.Contains(lines[3], "+0.00") || strings.Contains(lines[3], "+0.00 ") && strings.Contains(lines[3], "-") {
		t.Errorf("the table is\n%s", r.out)
	}
	var kept evalResult
	readJSON(t, filepath.Join(p, "rep", evaluate.ReportName), &kept)
	if len(kept.Gates) != 2 || !kept.Gates[0].Passed || kept.Gates[1].Passed || kept.Report.Rows != 6 || kept.Report.Models[0].Generated != 6 {
		t.Errorf("report.json: %+v", kept)
	}

	own := evalOf(t, cli(t, nil, "eval", run, "--data", kinds, "--column", "prompt=clause", "--column", "label=kind", "--metrics", "accuracy,perplexity", "--template", "tunefleet",
		"--baseline", model, "--num-workers", "2", "--json", "--dir", dir))
	a, b := own.Report.Models[0], own.Report.Models[1]
	if a.Name != "base" || b.Name != "baseline" || a.Perplexity != b.Perplexity || a.Perplexity <= 1 || a.Accuracy != b.Accuracy || a.Generated != 0 || len(a.PerClass) != 2 || own.Report.BagOfWords != nil {
		t.Errorf("the run's stage %+v\nits folder %+v", a, b)
	}
	text := evalOf(t, cli(t, nil, "eval", model, "--data", texts, "--json", "--dir", dir)).Report
	if m := text.Models[0]; text.Rows != 60 || m.Perplexity <= 1 || m.Generated != 0 || len(m.PerClass) != 0 {
		t.Errorf("plain text: %+v", text)
	}

	for want, args := range map[string][]string{
		"says which rows":         {model},
		"the run held no rows":    {run},
		"random weights":          {run, "--data", answers, "--baseline", "base"},
		"only the perplexity":     {model, "--data", texts, "--metrics", "f1"},
		"has no comparison":       {model, "--data", answers, "--gate", "perplexity=1"},
		"there is none":           {model, "--data", answers, "--gate", "f1>=baseline"},
		"is no metric":            {model, "--data", answers, "--metrics", "blue"},
		"a run's stage has":       {run, "--adapter", model},
		"which --metrics leaves":  {model, "--data", answers, "--metrics", "f1", "--gate", "perplexity<9"},
		"is for a configuration":  {model, "--data", answers, "seed=3"},
		"is for --data FILE; the": {run, "--template", "qwen"},
	} {
		cli(t, nil, append([]string{"eval", "--dir", dir}, args...)...).want(t, 2, want)
	}
	cli(t, nil, "eval", model, "--data", answers, "--adapter", model, "--dir", dir).want(t, 3, "holds no file that can be used")
	cli(t, nil, "eval", "nothing", "--dir", dir).want(t, 3, "./nothing")
	cli(t, nil, "eval", model, "--data", filepath.Join(p, "away.jsonl"), "--dir", dir).want(t, 3, "away.jsonl")
}

// TestHeldOutRows: an evaluation of a run keeps the settings of its evaluation stage, and names what the stage made and began with by the run.
func TestHeldOutRows(t *testing.T) {
	done := &schemas.ManifestRef{Step: 9}
	tok := schemas.Ref{Files: []schemas.File{{Path: "tokenizer.json", SHA256: strings.Repeat("ab", 32), Bytes: 3}}}
	spec := &schemas.RunSpec{Version: 1, ID: "old", Tenant: "acme", Name: "n", Pool: "gpu", AuxPool: "cpu", Seed: 3, Stages: []schemas.Stage{
		{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{Data: tok, Tokenizer: tok, Parts: 1, Outputs: []schemas.PrepOutput{{Name: "chat", Form: "sft", Split: "train", CutoffLen: 9, Rows: true},
			{Name: "held", Form: "sft", Split: "eval", CutoffLen: 9}, {Name: "test", Form: "sft", Split: "test", CutoffLen: 9}}}},
		{Name: "base", Kind: schemas.KindTrain, Needs: []string{"prep"}, Train: &schemas.TrainStage{Data: "prep/chat", Model: schemas.ModelSpec{Base: &tok}, Adapters: []schemas.Ref{tok}}},
		{Name: "tuned", Kind: schemas.KindTrain, Needs: []string{"base"}, Train: &schemas.TrainStage{Data: "prep/chat", Eval: "prep/held", Model: schemas.ModelSpec{From: "stage:base"}}},
	}}
	v := &schemas.RunView{Tenant: "acme", Run: "old", Spec: spec, Stages: []schemas.StageState{{Name: "prep", Kind: schemas.KindPrep, State: schemas.StageSucceeded},
		{Name: "base", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Manifest: done}, {Name: "tuned", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Manifest: done}}}
	tr, err := trainedStage(v, "")
	if err != nil {
		t.Fatal(err)
	}
	base, err := tr.before()
	if err != nil || base.From != "run:acme/old/base" {
		t.Errorf("began with %+v (%v)", base, err)
	}
	models, err := uploaded([]config.EvalModel{tr.model("tuned"), base})
	if err != nil {
		t.Fatal(err)
	}
	common := schemas.EvalStage{Slices: 2, Measures: []string{schemas.MeasurePerplexity}, DType: "auto"}
	got, err := tr.heldOut(models, common)
	if err != nil || got.WithDefaults().Validate() != nil {
		t.Fatalf("%v %v", err, got.Validate())
	}
	e, prep := got.Stages[1].Eval, got.Stages[0].Prep
	if got.Pool != "cpu" || got.Seed != 3 || e.Data != "prep/held" || e.Slices != 2 || e.Models[0].From != "run:acme/old/tuned" || e.Models[1].From != "run:acme/old/base" || !prep.Outputs[1].Rows {
		t.Errorf("%+v of %+v", e, prep.Outputs)
	}
	if spec.Stages[0].Prep.Outputs[1].Rows {
		t.Error("the old run's spec was changed")
	}
	spec.Stages = append(spec.Stages, schemas.Stage{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Data: "prep/test", Labels: []string{"a", "b"}, MaxNewTokens: 7, Slices: 5,
		Models: []schemas.EvalModel{{Name: "x", From: "stage:base"}}}})
	if got, err = tr.heldOut(models, common); err != nil {
		t.Fatal(err)
	}
	if e := got.Stages[1].Eval; e.Data != "prep/test" || len(e.Labels) != 2 || e.MaxNewTokens != 7 || e.Slices != 5 || len(e.Models) != 2 || len(e.Measures) != 1 {
		t.Errorf("with an evaluation stage: %+v", e)
	}
	if tr, err = trainedStage(v, "base"); err != nil {
		t.Fatal(err)
	}
	if base, err = tr.before(); err != nil || base.Base == nil || len(base.AdapterRefs) != 1 {
		t.Errorf("base began with %+v (%v)", base, err)
	}
}

// TestTemplateBeyondTheVocabulary: a template whose end of a turn the model has no row for is refused before anything is started, unless the
// vocabulary is grown.
func TestTemplateBeyondTheVocabulary(t *testing.T) {
	p := project(t)
	put(t, p, "data/dataset_info.json", `{"a": {"file_name": "a.json"}}`)
	put(t, p, "data/a.json", `[{"instruction": "x", "output": "y"}, {"instruction": "z", "output": "y"}]`)
	model := filepath.Join(p, "m")
	put(t, model, "config.json", `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
		"num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 64}`)
	put(t, model, "model.safetensors", "\x02\x00\x00\x00\x00\x00\x00\x00{}")
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		raw, err := os.ReadFile(filepath.Join(p, "tokenizer", name))
		if err != nil {
			t.Fatal(err)
		}
		put(t, model, name, string(raw))
	}
	yaml := put(t, p, "lf.yaml", "model_name_or_path: "+model+"\nstage: sft\nfinetuning_type: full\ndo_train: true\ndataset: a\ndataset_dir: "+filepath.Join(p, "data")+"\n")
	gemma, predict := "template=gemma", []string{"do_train=false", "do_predict=true", "predict_with_generate=true", "val_size=0.5"}
	for _, c := range []struct {
		code int
		args []string
		want []string
	}{
		{2, []string{gemma}, []string{"the template gemma writes token 2048 (<end_of_turn>)", "rows for 2048 tokens", "resize_vocab: true"}},
		{2, []string{gemma, "stage=pt"}, []string{"writes token 2048"}}, {0, []string{gemma, "resize_vocab=true"}, nil}, {0, []string{gemma, "resize_vocab=true", "stage=pt"}, nil},
		{0, []string{"template=alpaca"}, nil}, {0, []string{"template=llama3", "stage=pt"}, nil}, {2, []string{"template=llama3"}, []string{"<|eot_id|>"}},
		{2, append(predict, gemma), []string{"writes token 2048"}}, {0, append(predict, "template=qwen"), nil},
	} {
		r := cli(t, nil, append([]string{"train", yaml, "--dry-run"}, c.args...)...)
		if r.code != c.code {
			t.Errorf("%v: exit code %d, expected %d: %s", c.args, r.code, c.code, r.err)
		}
		for _, w := range c.want {
			if !strings.Contains(r.err, w) {
				t.Errorf("%v: %q lacks %q", c.args, r.err, w)
			}
		}
	}
	put(t, model, "config.json", `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
		"num_key_value_heads": 2, "vocab_size": 4, "max_position_embeddings": 64}`)
	simple := put(t, p, "simple.yaml", "model: {base_model: "+model+"}\ntraining: {learning_rate: 1e-3, batch_size: 2}\ndata: {train_path: data/a.json, template: tunefleet}\n")
	cli(t, nil, "train", simple, "--dry-run").want(t, 2, "rows for 4 tokens", "a template whose tokens the model knows")
	cli(t, nil, "submit", simple, "--dry-run").want(t, 2, "rows for 4 tokens")
}
