package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
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

// TestEvalMultipleChoice runs a LLaMA-Factory configuration of its evaluator with nothing running.
func TestEvalMultipleChoice(t *testing.T) {
	p := project(t)
	dir, base := t.TempDir(), filepath.Join(p, "model")
	cli(t, nil, "train", filepath.Join(p, "run.yaml"), "--dir", dir, "--output_dir", base, "--log_dir", filepath.Join(p, "logs0"), "--no-color").want(t, 0, "run succeeded")
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
