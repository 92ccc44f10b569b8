package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

// forkCommand begins a new run where another one's train stage has ended.
func (a *app) forkCommand() *cobra.Command {
	var stage, key string
	var follow, dry bool
	c := &cobra.Command{
		Use: "fork RUN [key=value ...]", Short: "Begin a new run with the weights that a train stage of another has ended with",
		Long: "Fork takes the spec of a run, begins its last finished train stage (or that of --stage) with the weights that this stage ended with, and hands\n" +
			"it in as a new run: train stages before it are not done again, preparation is where nothing of it has changed, what comes after it follows.\n" +
			"key=value changes the spec, such as another learning rate, or data of which there is more by now. Steps and the optimizer begin anew.",
		Example: "  tunefleet fork RUN stages.tuned.train.steps=200 stages.tuned.train.optim.lr=1e-4\n  tunefleet fork RUN --stage base stages.prep.prep.data=more.jsonl --follow",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s needs a run", cmd.CommandPath()).WithHint("tunefleet list shows the runs")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				v, err := cl.Get(cmd.Context(), tenant, run)
				if err != nil {
					return err
				}
				spec, err := forked(v, stage)
				if err != nil {
					return err
				}
				spec.Key = key
				return a.handIn(cmd.Context(), cl, spec, args[1:], follow, dry)
			})
		},
	}
	c.Flags().StringVar(&stage, "stage", "", "the train stage to begin with (default: the last that has ended)")
	c.Flags().StringVar(&key, "key", "", "idempotency key: forking again with the same key meets the same run")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "follow the run to its end")
	c.Flags().BoolVar(&dry, "dry-run", false, "print the new spec and submit nothing")
	return c
}

// handIn submits a spec that was made from another run's, with changes of the command line.
func (a *app) handIn(ctx context.Context, cl *client.Client, spec *schemas.RunSpec, overrides []string, follow, dry bool) error {
	r, err := a.changed(ctx, spec, overrides)
	if err != nil {
		return err
	}
	if dry {
		return a.print(r.Spec)
	}
	reply, err := a.submit(ctx, cl, r)
	if err != nil {
		return err
	}
	if follow {
		return a.follow(ctx, cl, reply.Tenant, reply.Run)
	}
	a.sayNext(reply.Run)
	if a.json {
		return a.print(reply)
	}
	_, err = fmt.Fprintln(a.out, reply.Run)
	return err
}

// changed applies changes of the command line to a spec, and checks the result as a file's is.
func (a *app) changed(ctx context.Context, spec *schemas.RunSpec, overrides []string) (*config.Resolved, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the spec: %w", err)
	}
	// Paths of the command line start where the user stands.
	r, err := config.Parse(ctx, filepath.Join(a.cwd, "spec"), data, config.Options{Overrides: overrides, Say: a.sayLine})
	if err != nil {
		return nil, err
	}
	return r, checkModels(r)
}

// runURI names what a train stage of a run has made.
func runURI(v *schemas.RunView, stage string) string {
	return "run:" + v.Tenant + "/" + v.Run + "/" + stage
}

// finishedStage is a run's train stage of that name that has ended; of no name, the last.
func finishedStage(v *schemas.RunView, name string) (string, error) {
	if v.Spec == nil {
		return "", schemas.Errorf(schemas.CodeNotFound, v.Run, "the server has no spec of this run any more")
	}
	for _, s := range slices.Backward(v.Stages) {
		if s.Kind == schemas.KindTrain && (name == "" || s.Name == name) {
			if s.State == schemas.StageSucceeded && s.Manifest != nil {
				return s.Name, nil
			}
			if name != "" {
				return "", schemas.Errorf(schemas.CodeConflict, v.Run, "stage %s is %s: only the weights of a train stage that has ended can be gone on from", name, s.State).WithHint("tunefleet get %s shows its stages", v.Run)
			}
		}
	}
	if name != "" {
		return "", schemas.Errorf(schemas.CodeNotFound, v.Run, "the run has no train stage %q, or has not begun", name).WithHint("tunefleet get %s shows its stages", v.Run)
	}
	return "", schemas.Errorf(schemas.CodeConflict, v.Run, "no train stage of the run has ended yet").WithHint("tunefleet get %s shows its stages", v.Run)
}

// forked is a spec that begins a stage of a run with the weights that it ended with: preparation, the stage, and what needs it. Other train
// stages that these name are the old run's.
func forked(v *schemas.RunView, name string) (*schemas.RunSpec, error) {
	name, err := finishedStage(v, name)
	if err != nil {
		return nil, err
	}
	spec := *v.Spec
	spec.ID, spec.Key, spec.TraceParent = "", "", ""
	kept := map[string]bool{}
	var stages []schemas.Stage
	for _, st := range v.Spec.Stages {
		after := slices.ContainsFunc(st.Needs, func(n string) bool { return kept[n] && n != "" && !isPrep(v.Spec, n) })
		if kept[st.Name] = st.Kind == schemas.KindPrep || st.Name == name || after; kept[st.Name] {
			stages = append(stages, st)
		}
	}
	data, err := json.Marshal(stages)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the stages: %w", err)
	}
	text := string(data)
	for _, st := range v.Spec.Stages {
		if !kept[st.Name] {
			text = strings.ReplaceAll(text, `"stage:`+st.Name+`"`, `"`+runURI(v, st.Name)+`"`)
		}
	}
	spec.Stages = nil
	if err := json.Unmarshal([]byte(text), &spec.Stages); err != nil {
		return nil, fmt.Errorf("cannot decode the stages: %w", err)
	}
	for i := range spec.Stages {
		st := &spec.Stages[i]
		st.Needs = slices.DeleteFunc(st.Needs, func(n string) bool { return !kept[n] })
		if st.Name == name {
			t := *st.Train
			// What was merged or stretched before is in the weights.
			t.Model, t.Adapters, t.CreateNewAdapter = schemas.ModelSpec{From: runURI(v, name)}, nil, false
			st.Train = &t
		}
	}
	return &spec, nil
}

func isPrep(s *schemas.RunSpec, name string) bool {
	st, err := s.StageOf(name)
	return err == nil && st.Kind == schemas.KindPrep
}

// exportCommand writes the weights of a finished stage into a folder.
func (a *app) exportCommand() *cobra.Command {
	var stage, dtype, to string
	var formats []string
	c := &cobra.Command{
		Use: "export RUN --to FOLDER", Short: "Export the weights of a finished train stage into a folder",
		Long: "Export makes merged weights or a PEFT adapter of a train stage that has ended, on a worker of the run's pool, and fetches them. A configuration\n" +
			"of LLaMA-Factory that merges (export_dir) is for: tunefleet train FILE.",
		Example: "  tunefleet export RUN --to ./merged\n  tunefleet export RUN --stage tuned --format peft --to ./adapter",
		Args:    exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if info, err := os.Stat(args[0]); err == nil && !info.IsDir() {
				return schemas.Errorf(schemas.CodeUsage, args[0], "is a file, not a run").WithHint("a configuration that exports is for: tunefleet train %s", args[0])
			}
			if to == "" {
				return schemas.Errorf(schemas.CodeUsage, "--to", "says where the files go, and is missing")
			}
			dir := to
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(a.cwd, dir)
			}
			if err := writable(dir); err != nil {
				return err
			}
			return a.withRun(ctx, args[0], func(cl *client.Client, tenant, run string) error {
				v, err := cl.Get(ctx, tenant, run)
				if err != nil {
					return err
				}
				spec, err := exporting(v, stage, formats, dtype)
				if err != nil {
					return err
				}
				r, err := a.changed(ctx, spec, nil)
				if err != nil {
					return err
				}
				reply, err := a.submit(ctx, cl, r)
				if err != nil {
					return err
				}
				if err := a.follow(ctx, cl, reply.Tenant, reply.Run); err != nil {
					return err
				}
				for _, f := range formats {
					sub := dir
					if len(formats) > 1 {
						sub = filepath.Join(dir, f)
					}
					if err := a.fetchOutputs(ctx, cl, reply.Tenant, reply.Run, "export/"+f+"/", sub); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&stage, "stage", "", "the train stage (default: the last that has ended)")
	c.Flags().StringSliceVar(&formats, "format", []string{"merged"}, "merged, peft or both; each of several has its own folder below --to")
	c.Flags().StringVar(&dtype, "dtype", "auto", "what merged weights are written in: fp32, bf16, fp16, or auto, as the base has them")
	c.Flags().StringVar(&to, "to", "", "the folder to write to")
	return c
}

// exporting is a run of one stage that exports what a stage of another has made, with that one's tokenizer.
func exporting(v *schemas.RunView, stage string, formats []string, dtype string) (*schemas.RunSpec, error) {
	stage, err := finishedStage(v, stage)
	if err != nil {
		return nil, err
	}
	for _, f := range formats {
		if f != "merged" && f != "peft" {
			return nil, schemas.Errorf(schemas.CodeUsage, "--format", "%q is neither merged nor peft", f)
		}
	}
	e := &schemas.ExportStage{From: runURI(v, stage), Formats: formats, DType: dtype}
	for _, st := range v.Spec.Stages {
		if st.Export != nil && st.Export.Tokenizer != nil {
			e.Tokenizer = st.Export.Tokenizer
		}
		if st.Prep != nil && e.Tokenizer == nil && len(st.Prep.Tokenizer.Files) > 0 {
			e.Tokenizer = &st.Prep.Tokenizer
		}
	}
	pool := nonEmpty(v.Spec.AuxPool, v.Spec.Pool)
	return &schemas.RunSpec{Version: v.Spec.Version, Tenant: v.Tenant, Name: v.Spec.Name, Pool: pool, AuxPool: pool, Priority: v.Spec.Priority,
		Stages: []schemas.Stage{{Name: "export", Kind: schemas.KindExport, Export: e}}}, nil
}

// maxSweep is the most runs that one sweep submits.
const maxSweep = 1000

// sweepCommand submits a file once for each combination of values.
func (a *app) sweepCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "sweep FILE key=value,value ...", Short: "Submit a file once for each combination of values",
		Long: "Sweep submits a run spec, or the simpler form, once for each combination of the values that are given with commas. All are checked before the\n" +
			"first is handed in. Each run's id is printed with its values; preparation that does not depend on them is done once.",
		Example: "  tunefleet sweep run.yaml stages.tuned.train.optim.lr=1e-4,3e-4,1e-3 stages.tuned.train.lora.rank=8,16",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return schemas.Errorf(schemas.CodeUsage, "", "%s needs a file and keys with values", cmd.CommandPath()).WithHint("%s run.yaml training.learning_rate=1e-4,3e-4", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			keys, rows, err := combinations(args[1:])
			if err != nil {
				return err
			}
			var all []*config.Resolved
			for _, row := range rows {
				overrides := make([]string, len(keys))
				for i, k := range keys {
					overrides[i] = k + "=" + row[i]
				}
				r, err := config.Load(ctx, args[0], config.Options{Overrides: overrides, Say: a.sayLine})
				if err == nil {
					err = checkModels(r)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", strings.Join(overrides, " "), err)
				}
				a.applyTenant(cmd, r.Spec)
				all = append(all, r)
			}
			if dry {
				for _, r := range all {
					if err := a.print(r.Spec); err != nil {
						return err
					}
				}
				return nil
			}
			cl, err := a.client(ctx)
			if err != nil {
				return err
			}
			defer cl.Close()
			t := newTable(append([]string{"RUN"}, keys...)...)
			for i, r := range all {
				reply, err := a.submit(ctx, cl, r)
				if err != nil {
					return fmt.Errorf("%d of %d runs were submitted: %w", i, len(all), err)
				}
				if a.json {
					values := map[string]string{}
					for k, key := range keys {
						values[key] = rows[i][k]
					}
					if err := a.print(map[string]any{"run": reply.Run, "tenant": reply.Tenant, "values": values}); err != nil {
						return err
					}
				}
				t.row(append([]string{reply.Run}, rows[i]...)...)
			}
			if a.json {
				return nil
			}
			return t.write(a.out)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "print the resolved specs and submit nothing")
	return c
}

// combinations takes key=value,value arguments apart: the keys, and a row of values for each combination, the last key's changing first.
func combinations(args []string) (keys []string, rows [][]string, err error) {
	rows = [][]string{nil}
	for _, arg := range args {
		key, list, ok := strings.Cut(arg, "=")
		if !ok || key == "" {
			return nil, nil, schemas.Errorf(schemas.CodeUsage, arg, "expected key=value,value")
		}
		if slices.Contains(keys, key) {
			return nil, nil, schemas.Errorf(schemas.CodeUsage, key, "is given twice").WithHint("give its values together: %s=a,b", key)
		}
		values := strings.Split(list, ",")
		if len(rows)*len(values) > maxSweep {
			return nil, nil, schemas.Errorf(schemas.CodeUsage, arg, "more than %d combinations", maxSweep).WithHint("sweep fewer values at a time")
		}
		keys = append(keys, key)
		var next [][]string
		for _, row := range rows {
			for _, v := range values {
				next = append(next, append(slices.Clone(row), v))
			}
		}
		rows = next
	}
	return keys, rows, nil
}
