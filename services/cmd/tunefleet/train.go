package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

func (a *app) trainCommand() *cobra.Command {
	var file string
	var flags config.GuideFlags
	var dry bool
	c := &cobra.Command{
		Use: "train [FILE] [key=value ...]", Short: "Fine-tune from a configuration and wait for the result",
		Long: "Train resolves a configuration (model:, training:, data:; a YAML or JSON of LLaMA-Factory as it is; or a run spec), hands it to the\n" +
			"queue, follows it, and puts the result into output_dir and the logs into log_dir. Without a configured server everything runs embedded\n" +
			"on this machine. Values can be changed on the command line: key=value, with the keys of the file. Ctrl-C commits and pauses the run,\n" +
			"and the same command goes on with it; Ctrl-C again leaves at once.",
		Example: "  tunefleet train --config finetune.yaml --output_dir ./output --num_workers 2\n" +
			"  tunefleet train finetune.yaml training.learning_rate=1e-4 --dry-run\n" +
			"  tunefleet train examples/train_lora/llama3_lora_sft.yaml learning_rate=1e-4    # LLaMA-Factory's",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				if len(args) == 0 {
					return schemas.Errorf(schemas.CodeUsage, "", "train needs a configuration").WithHint("tunefleet train --config finetune.yaml")
				}
				file, args = args[0], args[1:]
			}
			r, err := config.Load(cmd.Context(), file, config.Options{Overrides: args, Guide: flags, Say: a.sayLine})
			if err != nil {
				return err
			}
			if asksChoices(file, r) == nil {
				return schemas.Errorf(schemas.CodeUsage, file, "this configuration names an evaluation task and trains nothing").WithHint("tunefleet eval %s", file)
			}
			a.applyTenant(cmd, r.Spec)
			if r.Form == config.FormSpec {
				r.Output, r.Logs = nonEmpty(flags.OutputDir, "output"), nonEmpty(flags.LogDir, "logs")
				r.Workers = max(1, flags.NumWorkers)
			}
			for _, n := range r.Notes {
				a.say("%s", n)
			}
			if err := checkModels(r); err != nil {
				return err
			}
			if dry {
				return a.print(r.Spec)
			}
			return a.train(cmd.Context(), r)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "config", "c", "", "the configuration file")
	f.StringVar(&flags.OutputDir, "output_dir", "", "folder for the result")
	f.StringVar(&flags.LogDir, "log_dir", "", "folder for trainer_log.jsonl")
	f.StringVar(&flags.DeviceMap, "device_map", "", "auto (a GPU where there is one), cpu or cuda")
	f.BoolVar(&flags.FP16, "fp16", false, "activations and products in fp16, with dynamic loss scaling")
	f.BoolVar(&flags.BF16, "bf16", false, "activations and products in bf16; weights, sums and optimizer state stay fp32")
	f.IntVar(&flags.GradientAccumulation, "gradient_accumulation_steps", 0, "micro-batches a step and worker")
	f.IntVar(&flags.NumWorkers, "num_workers", 0, "worker processes when everything runs embedded")
	f.StringVar(&flags.ReportTo, "report_to", "", "none or otlp")
	f.BoolVar(&dry, "dry-run", false, "print the resolved spec and train nothing")
	return c
}

// train runs a resolved configuration to its end and fetches what it made.
func (a *app) train(ctx context.Context, r *config.Resolved) error {
	if r.ReportTo == "otlp" && os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return schemas.Errorf(schemas.CodeUsage, "report_to", "otlp needs a collector").WithHint("set OTEL_EXPORTER_OTLP_ENDPOINT, e.g. http://localhost:4318")
	}
	// What cannot be written is found out before the training, not after it.
	for _, dir := range []*string{&r.Output, &r.Logs} {
		var err error
		if *dir, err = filepath.Abs(*dir); err != nil {
			return diskError(*dir, err)
		}
		if err := writable(*dir); err != nil {
			return err
		}
	}
	// A device that is not there is found out before anything is started.
	if _, err := resolveDevice(r.Device); err != nil && !a.configured() {
		return err
	}
	cl, stop, err := a.somewhere(ctx, r)
	if err != nil {
		return err
	}
	defer stop()
	defer cl.Close()
	tenant, run, err := a.begin(ctx, cl, r)
	if err != nil {
		return err
	}
	if a.configured() { // else workers were started
		a.sayWaiting(ctx, cl, tenant, run)
	}
	if err := a.followTraining(ctx, cl, tenant, run, r); err != nil {
		if schemas.IsCode(err, schemas.CodeInterrupted) || schemas.IsCode(err, schemas.CodeUnavailable) {
			return err // it can be gone on with
		}
		return errors.Join(err, finished(r.Output))
	}
	if err := a.collect(context.WithoutCancel(ctx), cl, tenant, run, r); err != nil {
		info := schemas.AsErrorInfo(err)
		return info.WithHint("%s", strings.TrimPrefix(info.Hint+fmt.Sprintf("; the run is done and its files are kept: tunefleet outputs %s --to FOLDER fetches them, with tunefleet up running", run), "; "))
	}
	return finished(r.Output)
}

func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return diskError(dir, err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return diskError(dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// somewhere finds the server to run on: the configured one, the embedded one that is up, or one that is started for this call.
func (a *app) somewhere(ctx context.Context, r *config.Resolved) (cl *client.Client, stop func(), err error) {
	if a.configured() {
		cl, err = a.client(ctx)
		return cl, func() {}, err
	}
	dir, err := a.dir()
	if err != nil {
		return nil, nil, err
	}
	workers := newFleet(dir, a.logLevel)
	workers.device = r.Device
	stop = func() { workers.stop(20 * time.Second) }
	if cl, err = a.client(ctx); err == nil {
		a.say("using the embedded server that is up over %s", dir)
	} else {
		log, err := a.logger()
		if err != nil {
			return nil, nil, err
		}
		s, err := startStack(ctx, dir, upParts, []string{r.Spec.Pool}, log)
		if err != nil {
			return nil, nil, err
		}
		stop = func() { workers.stop(20 * time.Second); s.close() }
		if cl, err = client.New(s.record.APIURL(), s.record.APIToken); err != nil {
			stop()
			return nil, nil, err
		}
		a.say("embedded servers are up over %s", dir)
	}
	live, err := cl.Workers(ctx, r.Spec.Pool)
	if err != nil {
		stop()
		return nil, nil, err
	}
	need := max(r.Workers, worldMin(r.Spec)) - len(live.Workers)
	for range need {
		if _, err := workers.startIn(r.Spec.Pool, threadsFor(need)); err != nil {
			stop()
			return nil, nil, err
		}
	}
	if need > 0 {
		a.say("%d worker process(es) of pool %s started, logs in %s", need, r.Spec.Pool, workers.logs)
		if d, err := resolveDevice(r.Device); err == nil {
			a.say("device: %s", d)
		}
	}
	return cl, stop, nil
}

// worldMin is the largest number of seats that a stage of the run cannot do without.
func worldMin(s *schemas.RunSpec) int {
	n := 1
	for _, st := range s.Stages {
		if st.Train != nil {
			n = max(n, st.Train.World.Min)
		}
	}
	return n
}

// followTraining follows the run and writes trainer_log.jsonl as it goes. Ctrl-C pauses the run, for the same command to go on with; a log
// that cannot be written cancels it: nothing would be left to do the work.
func (a *app) followTraining(ctx context.Context, cl *client.Client, tenant, run string, r *config.Resolved) error {
	log, err := newTrainerLog(r.Logs, r.Output, trainStage(r.Spec), r.Factory)
	if err != nil {
		return err
	}
	final, err := a.watch(ctx, cl, tenant, run, log.event)
	err = errors.Join(err, log.close(err == nil && final.Message == string(schemas.RunSucceeded)))
	if errors.Is(err, context.Canceled) {
		return a.pauseRun(context.WithoutCancel(ctx), cl, tenant, run)
	}
	if err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, cerr := cl.Act(cctx, tenant, run, schemas.RunCancel); cerr != nil && !schemas.IsCode(cerr, schemas.CodeConflict) {
			a.say("run %s could not be cancelled: %v", run, cerr)
		}
		return err
	}
	return ended(run, final)
}

// trainStage is the last train stage of a spec.
func trainStage(s *schemas.RunSpec) *schemas.Stage {
	for _, st := range slices.Backward(s.Stages) {
		if st.Kind == schemas.KindTrain {
			return &st
		}
	}
	return nil
}

// collect fetches the exports: the PEFT adapter into output_dir itself, as users' tools expect it, merged weights beside it.
func (a *app) collect(ctx context.Context, cl *client.Client, tenant, run string, r *config.Resolved) error {
	for _, st := range r.Spec.Stages {
		if st.Eval != nil && st.Eval.Predict != nil {
			if err := a.collectPredictions(ctx, cl, tenant, run, st.Name, r); err != nil {
				return err
			}
		}
		if st.Export == nil {
			continue
		}
		adapter := slices.Contains(st.Export.Formats, "peft")
		for _, f := range st.Export.Formats {
			to := r.Output
			if f == "merged" && adapter {
				to = filepath.Join(r.Output, "merged")
			}
			if err := a.fetchOutputs(ctx, cl, tenant, run, st.Name+"/"+f+"/", to); err != nil {
				return err
			}
		}
	}
	if r.Tokenized != "" {
		if err := a.fetchOutputs(ctx, cl, tenant, run, prep.SavedFolder+"/", r.Tokenized); err != nil {
			return err
		}
	}
	a.say("result in %s, log in %s", r.Output, filepath.Join(r.Logs, trainerLogName))
	if a.json {
		return nil
	}
	_, err := fmt.Fprintln(a.out, run)
	return err
}

// collectPredictions fetches the answers and their scores, and adds the scores to all_results.json as upstream does.
func (a *app) collectPredictions(ctx context.Context, cl *client.Client, tenant, run, stage string, r *config.Resolved) error {
	to := r.Output
	if err := a.fetchOutputs(ctx, cl, tenant, run, stage+"/", to); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(to, evaluate.PredictResultsName))
	if err != nil {
		return diskError(to, err)
	}
	all := map[string]any{}
	if old, err := os.ReadFile(filepath.Join(to, "all_results.json")); err == nil && json.Unmarshal(old, &all) != nil {
		all = map[string]any{}
	}
	scores := map[string]any{}
	if err := json.Unmarshal(raw, &scores); err != nil {
		return schemas.Errorf(schemas.CodeData, evaluate.PredictResultsName, "cannot parse: %v", err)
	}
	f := r.Factory
	var errs []error
	if f != nil && f.Generates {
		eval := map[string]any{}
		for k, v := range scores {
			if k, ok := strings.CutPrefix(k, "predict_"); ok {
				eval["eval_"+k] = v
			}
		}
		maps.Copy(all, eval)
		errs = append(errs, writeJSON(filepath.Join(to, "eval_results.json"), eval))
	}
	if f != nil && f.Generates && !f.Predicts {
		errs = append(errs, os.Remove(filepath.Join(to, evaluate.PredictResultsName)), os.Remove(filepath.Join(to, evaluate.PredictionsName)))
	} else {
		maps.Copy(all, scores)
	}
	return errors.Join(append(errs, writeJSON(filepath.Join(to, "all_results.json"), all), os.RemoveAll(filepath.Join(to, "slices")))...)
}
