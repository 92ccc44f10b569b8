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

// evalCommand evaluates: multiple choice of a LLaMA-Factory configuration.
func (a *app) evalCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "eval FILE [key=value ...]", Short: "Evaluate a model on multiple-choice questions",
		Long: "Eval asks a model the questions of an evaluation task (MMLU, C-Eval, CMMLU, or one of your own in their form), as LLaMA-Factory's evaluator\n" +
			"does: FILE is its configuration, with task: mmlu_test, task_dir, lang, n_shot, save_dir. It prints the share of right answers by category and\n" +
			"writes results.json and results.log into save_dir.",
		Example: "  tunefleet eval eval.yaml\n  tunefleet eval eval.yaml n_shot=0 save_dir=./mmlu",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s needs a configuration", cmd.CommandPath()).WithHint("%s --help tells what", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.evalFile(cmd, args[0], args[1:])
		},
	}
	return c
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
	return show(context.WithoutCancel(ctx), cl, reply.Tenant, reply.Run)
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
		root, err := os.OpenRoot(folder)
		if err != nil {
			return diskError(folder, err)
		}
		defer root.Close()
		for _, name := range []string{evaluate.ChoiceResultsName, evaluate.ChoiceLogName} {
			if err := fetchOne(ctx, cl, tenant, run, stage+"/"+name, root, name); err != nil {
				return err
			}
		}
		a.say("%s and %s are in %s", evaluate.ChoiceResultsName, evaluate.ChoiceLogName, folder)
	}
	if a.json {
		return a.print(&rep)
	}
	_, err := fmt.Fprintln(a.out, strings.TrimRight(choice.Log(rep.Categories), "\n"))
	return err
}
