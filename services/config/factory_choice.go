package config

import (
	"context"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate/choice"
	"github.com/tunefleet/tunefleet/schemas"
)

// asks says that the configuration is that of llamafactory-cli eval: multiple choice.
func (v *factoryValues) asks() bool { return v.given("task") }

// task takes the name of a task apart as upstream does: mmlu_test is the split test of mmlu.
func (v *factoryValues) task() (name, split string) {
	parts := strings.Split(v.text("task"), "_")
	if len(parts) < 2 {
		return v.text("task"), ""
	}
	return parts[0], parts[1]
}

// choiceRules are the checks of a configuration of llamafactory-cli eval, and of its keys elsewhere.
func (v *factoryValues) choiceRules() {
	if !v.asks() {
		for _, k := range []string{"task_dir", "batch_size", "lang", "n_shot", "save_dir", "download_mode"} {
			if v.given(k) && !v.isDefault(v.keys[k], v.node(k)) {
				v.bad(k, "is for multiple choice: name its task, such as task: mmlu_test")
			}
		}
		return
	}
	splits := []string{"test", "validation", "train"}
	if name, split := v.task(); !schemas.ValidPath(name) || strings.Contains(name, "/") || !slices.Contains(splits, split) {
		v.bad("task", "is %q, expected a task and a split (test, validation or train), such as mmlu_test, ceval_validation or cmmlu_test%s", v.text("task"), didYouMean(split, splits))
	}
	for _, k := range []string{"do_train", "do_eval", "do_predict", "train_from_scratch", "export_dir"} {
		if v.given(k) && !v.isDefault(v.keys[k], v.node(k)) {
			v.bad(k, "cannot be combined with task, which asks multiple-choice questions and does nothing else")
		}
	}
	if v.number("seed") > math.MaxUint32 {
		v.bad("seed", "is %v, numpy's generator, which draws the solved questions, takes at most %d", v.number("seed"), uint32(math.MaxUint32))
	}
	if v.given("quantization_bit") {
		v.bad("quantization_bit", "with task is not built: the model is evaluated in infer_dtype")
	}
	if v.given("rope_scaling") {
		v.bad("rope_scaling", "with task is not built: set it in the model's config.json")
	}
}

// choice is the only stage of a configuration of llamafactory-cli eval.
func (b *factoryBuilder) choice(ctx context.Context, spec *schemas.RunSpec) error {
	v := b.v
	name, split := v.task()
	adapters, err := b.adapterRefs(ctx, "adapter_name_or_path")
	if err != nil {
		return err
	}
	dir := b.c.resolve(b.path(filepath.Join(v.text("task_dir"), name)))
	if _, err := os.Stat(filepath.Join(dir, choice.MappingName)); err != nil {
		return schemas.Errorf(schemas.CodeNotFound, dir, "the task %s is not there: no %s", name, choice.MappingName).
			WithHint("task_dir names a folder that holds %s/%s beside %s.zip or CSV files, as LLaMA-Factory's evaluation/ does", name, choice.MappingName, name)
	}
	c := &schemas.MultipleChoice{Model: schemas.ModelSpec{Base: b.base}, Adapters: adapters, Tokenizer: b.tokenizer, Template: b.template, Task: name, Split: split,
		Lang: v.text("lang"), Shots: v.whole("n_shot"), Batch: v.whole("batch_size"), DefaultSystem: v.system(), EnableThinking: v.thinking(), PreserveThinking: v.truth("preserve_thinking")}
	files, err := b.c.ref(ctx, dir, taskFile(name, dir))
	if err != nil {
		return err
	}
	c.Files = *files
	if err := b.lookAtTask(ctx, c, dir, spec.Seed); err != nil {
		return err
	}
	spec.Stages = []schemas.Stage{{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Choice: c, Slices: v.whole("num_workers"), DType: v.predictDType()}}}
	return nil
}

// idle are the keys with another value than their default that multiple choice does not look at: data sets, training and generated text.
func (v *factoryValues) idle() (out []string) {
	used := []string{"seed", "bf16", "fp16", "run_name", "report_to", "stage", "finetuning_type"}
	for _, name := range v.root.keys {
		k := v.keys[name]
		data := k.group == "Data" && !slices.Contains([]string{"template", "default_system", "enable_thinking", "preserve_thinking"}, name)
		if (data || k.group == "Training" || k.group == "Generating") && k.status == works && !slices.Contains(used, name) && v.given(name) && !v.isDefault(k, v.node(name)) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// taskFile selects what belongs to a task: the list of subjects and the archive, or CSV files where there is none.
func taskFile(name, dir string) func(string) bool {
	_, err := os.Stat(filepath.Join(dir, name+".zip"))
	packed := err == nil
	return func(f string) bool {
		return f == choice.MappingName || packed && f == name+".zip" || !packed && path.Ext(f) == ".csv"
	}
}

// localFolder reads the files of a task on this machine.
type localFolder struct{ root *os.Root }

// Read implements choice.Folder.
func (f localFolder) Read(name string, limit int64) ([]byte, bool, error) {
	info, err := f.root.Stat(filepath.FromSlash(name))
	if os.IsNotExist(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, schemas.Errorf(schemas.CodeData, name, "cannot read: %v", schemas.Reason(err))
	}
	if info.Size() > limit {
		return nil, false, schemas.Errorf(schemas.CodeData, name, "has %d bytes, the limit is %d", info.Size(), limit)
	}
	raw, err := f.root.ReadFile(filepath.FromSlash(name))
	if err != nil {
		return nil, false, schemas.Errorf(schemas.CodeData, name, "cannot read: %v", schemas.Reason(err))
	}
	return raw, true, nil
}

// lookAtTask reads all questions once, so that a broken file is told before anything is handed in, and says how many there are.
func (b *factoryBuilder) lookAtTask(ctx context.Context, c *schemas.MultipleChoice, dir string, seed uint64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, dir, "cannot open the task's folder: %v", schemas.Reason(err))
	}
	defer root.Close()
	task, err := choice.Open(c.Task, localFolder{root})
	if err != nil {
		return err
	}
	questions, answered := 0, 0
	err = task.Ask(ctx, choice.Settings{Split: c.Split, Lang: c.Lang, Shots: c.Shots, Seed: seed}, func(q choice.Question) error {
		questions++
		if slices.Contains(choice.Letters(), q.Answer) {
			answered++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if questions == 0 {
		return schemas.Errorf(schemas.CodeData, dir, "the split %s has no questions", c.Split)
	}
	b.note("task: %d questions of %d subjects of %s, %d solved ones before each", questions, len(task.Subjects), b.v.text("task"), c.Shots)
	if answered < questions {
		b.note("%d of the questions have no answer in the files, or none of A to D: they count as answered wrongly, as upstream has it", questions-answered)
	}
	if idle := b.v.idle(); len(idle) > 0 {
		b.note("without effect beside task: %s", strings.Join(idle, ", "))
	}
	return nil
}
