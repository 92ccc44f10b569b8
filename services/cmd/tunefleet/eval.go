package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate/choice"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

// evalCommand evaluates: a model or a run on rows, or multiple choice of a LLaMA-Factory configuration.
func (a *app) evalCommand() *cobra.Command {
	f := &evalFlags{}
	c := &cobra.Command{
		Use: "eval RUN|MODEL|FILE [key=value ...]", Short: "Evaluate a model, or a finished stage of a run, on rows or on multiple-choice questions",
		Long: "Eval takes one of three things:\n" +
			"\n" +
			"MODEL, a folder or an address (hf://owner/name), with --data: the model is scored on the rows of a file. Without a configured server everything\n" +
			"runs embedded on this machine.\n" +
			"RUN: what its last finished train stage made is scored, on the rows that the run held out, or on --data. Rows that a LLaMA-Factory run held out\n" +
			"are answered greedily and scored as its do_predict does.\n" +
			"FILE, a configuration of LLaMA-Factory's evaluator (task: mmlu_test, task_dir, lang, n_shot, save_dir): the questions of a task (MMLU, C-Eval,\n" +
			"CMMLU, or one of your own in their form) are asked as it asks them. The share of right answers by category is printed, results.json and\n" +
			"results.log are written into save_dir. key=value changes the file.\n" +
			"\n" +
			"Of rows, accuracy, macro_f1 and mcc are those of the label that the model finds likeliest after the prompt; exact_match, f1, bleu4, rouge1,\n" +
			"rouge2, rougeL, chrf and sacrebleu compare answers that it writes with the rows' responses (explanations, where rows have labels too);\n" +
			"perplexity is that of the responses, of plain text of all of it. --baseline scores another model in the same way, and --gate ends with exit\n" +
			"code 1 when a condition does not hold.",
		Example: "  tunefleet eval ./output/merged --data test.jsonl --baseline ./model --gate 'f1>=baseline' --gate 'perplexity<=20'\n" +
			"  tunefleet eval RUN --baseline base\n  tunefleet eval RUN --data new.jsonl --metrics accuracy,perplexity --json\n  tunefleet eval eval.yaml n_shot=0 save_dir=./mmlu",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s needs a configuration, a run or a model", cmd.CommandPath()).WithHint("%s --help tells what", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			what, rest := args[0], args[1:]
			if what == "-" || isFile(what) {
				if err := f.forRows(cmd, what); err != nil {
					return err
				}
				return a.evalFile(cmd, what, rest)
			}
			if len(rest) > 0 {
				return schemas.Errorf(schemas.CodeUsage, rest[0], "is for a configuration; what %s is evaluated on is said by flags", what).WithHint("%s --help shows them", cmd.CommandPath())
			}
			if err := f.check(); err != nil {
				return err
			}
			if isModel(what) {
				return a.evalModel(cmd.Context(), what, f)
			}
			return a.evalRun(cmd.Context(), what, f)
		},
	}
	f.add(c.Flags())
	return c
}

// isFile says that a word is a configuration: a file, or what is written as one.
func isFile(what string) bool {
	if info, err := os.Stat(what); err == nil {
		return !info.IsDir()
	}
	ext := strings.ToLower(filepath.Ext(what))
	return ext == ".yaml" || ext == ".yml" || ext == ".json"
}

// evalFile evaluates by a configuration file.
func (a *app) evalFile(cmd *cobra.Command, file string, overrides []string) error {
	r, err := config.Load(cmd.Context(), file, config.Options{Overrides: overrides, Say: a.sayLine})
	if err != nil {
		return err
	}
	if err := asksChoices(file, r); err != nil {
		return err
	}
	a.applyTenant(cmd, r.Spec)
	for _, n := range r.Notes {
		a.say("%s", n)
	}
	if err := checkModels(r); err != nil {
		return err
	}
	if r.Output != "" {
		if r.Output, err = newFolder(r.Output); err != nil {
			return err
		}
	}
	return a.evaluated(cmd.Context(), r, func(ctx context.Context, cl *client.Client, tenant, run string) error {
		return a.showChoices(ctx, cl, tenant, run, r.Spec.Stages[0].Name, r.Output)
	})
}

// asksChoices refuses configurations that eval is not for, and says which command is.
func asksChoices(file string, r *config.Resolved) error {
	refuse := func(what, hint string, args ...any) error {
		return schemas.Errorf(schemas.CodeUsage, file, "%s", what).WithHint(hint, args...)
	}
	var last *schemas.EvalStage
	for _, st := range r.Spec.Stages {
		if st.Eval != nil {
			last = st.Eval
		}
	}
	switch {
	case r.Form == config.FormFactory && last != nil && last.Choice != nil:
		return nil
	case r.Form == config.FormFactory && len(r.Spec.Stages) == 2 && r.Spec.Stages[1].Train != nil && r.Spec.Stages[1].Train.EvalOnly, r.Form == config.FormFactory && last != nil:
		return refuse("this configuration evaluates on data sets (do_eval, do_predict); eval asks multiple-choice questions, which it names by task", "tunefleet train %s does what it says, evaluation and predictions included", file)
	case r.Form == config.FormSpec && last != nil:
		return refuse("this is a run spec with an evaluation stage of its own", "tunefleet submit %s --follow runs it, tunefleet eval RUN evaluates a finished stage of a run", file)
	}
	return refuse("this configuration trains and names no evaluation task", "tunefleet train %s trains; a configuration for eval has model_name_or_path and task, such as task: mmlu_test", file)
}

// newFolder makes a folder that must not be there yet, and gives its absolute path.
func newFolder(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", diskError(dir, err)
	}
	if _, err := os.Lstat(abs); err == nil {
		return "", schemas.Errorf(schemas.CodeUsage, dir, "save_dir already exists").WithHint("name another folder, so that no results are lost")
	}
	return abs, writable(filepath.Dir(abs))
}

// evaluated runs a resolved evaluation to its end and hands the run to show. The run is submitted like any other; without a configured server
// everything runs embedded.
func (a *app) evaluated(ctx context.Context, r *config.Resolved, show func(ctx context.Context, cl *client.Client, tenant, run string) error) error {
	if _, err := resolveDevice(r.Device); err != nil && !a.configured() {
		return err
	}
	cl, stop, err := a.somewhere(ctx, r)
	if err != nil {
		return err
	}
	defer stop()
	defer cl.Close()
	return a.runEvaluation(ctx, cl, r, func(ctx context.Context, tenant, run string) error { return show(ctx, cl, tenant, run) })
}

// runEvaluation submits an evaluation, follows it to its end and hands the run to show.
func (a *app) runEvaluation(ctx context.Context, cl *client.Client, r *config.Resolved, show func(ctx context.Context, tenant, run string) error) error {
	reply, err := a.submit(ctx, cl, r)
	if err != nil {
		return err
	}
	if a.configured() { // else workers were started
		a.sayWaiting(ctx, cl, reply.Tenant, reply.Run)
	}
	// With --json standard output holds the result only.
	talking := *a
	talking.json = false
	final, err := talking.watch(ctx, cl, reply.Tenant, reply.Run, func(schemas.Event) error { return nil })
	if err != nil {
		return errors.Join(err, a.giveUp(ctx, cl, reply.Tenant, reply.Run))
	}
	if err := ended(reply.Run, final); err != nil {
		return err
	}
	return show(context.WithoutCancel(ctx), reply.Tenant, reply.Run)
}

// giveUp cancels a run that nobody waits for any more.
func (a *app) giveUp(ctx context.Context, cl *client.Client, tenant, run string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := cl.Act(ctx, tenant, run, schemas.RunCancel); err != nil && !schemas.IsCode(err, schemas.CodeConflict) {
		return fmt.Errorf("cannot cancel run %s: %w", run, err)
	}
	return nil
}

// stageReport reads the report that an evaluation stage's result holds.
func stageReport(ctx context.Context, cl *client.Client, tenant, run, stage string, to any) error {
	v, err := cl.Stage(ctx, tenant, run, stage)
	if err != nil {
		return err
	}
	if v.Result == nil {
		return schemas.Errorf(schemas.CodeInternal, run, "stage %s has no result", stage)
	}
	// The report travels as a JSON value within the result.
	raw, err := json.Marshal(v.Result.Values["report"])
	if err == nil {
		err = json.Unmarshal(raw, to)
	}
	if err != nil {
		return schemas.Errorf(schemas.CodeInternal, run, "stage %s has no report: %v", stage, err)
	}
	return nil
}

// showChoices prints the table that LLaMA-Factory prints and fetches its files to the folder.
func (a *app) showChoices(ctx context.Context, cl *client.Client, tenant, run, stage, folder string) error {
	var rep evaluate.ChoiceReport
	if err := stageReport(ctx, cl, tenant, run, stage, &rep); err != nil {
		return err
	}
	if folder != "" {
		if err := os.Mkdir(folder, 0o755); err != nil {
			return diskError(folder, err)
		}
		if err := a.fetchFiles(ctx, cl, tenant, run, stage, folder, evaluate.ChoiceResultsName, evaluate.ChoiceLogName); err != nil {
			return err
		}
		a.say("%s and %s are in %s", evaluate.ChoiceResultsName, evaluate.ChoiceLogName, folder)
	}
	if a.json {
		return a.print(&rep)
	}
	_, err := fmt.Fprintln(a.out, strings.TrimRight(choice.Log(rep.Categories), "\n"))
	return err
}

// fetchFiles puts some files of a stage's result into a folder.
func (a *app) fetchFiles(ctx context.Context, cl *client.Client, tenant, run, stage, folder string, names ...string) (err error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return diskError(folder, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range names {
		if err := fetchOne(ctx, cl, tenant, run, stage+"/"+name, root, name); err != nil {
			return err
		}
	}
	return nil
}
