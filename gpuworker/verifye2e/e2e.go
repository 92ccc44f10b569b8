package verifye2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/verify"
	"github.com/tunefleet/tunefleet/schemas"
)

// Limits of the comparison (README of the fixtures).
const (
	stepRel  = 1e-4
	finalRel = 1e-3
)

// Options of a verification.
type Options struct {
	// Load resolves a configuration with overrides to a spec and the files that it names.
	Load func(ctx context.Context, file string, overrides []string) (*schemas.RunSpec, []localrun.Input, error)
	// Handlers by kind, those of production.
	Handlers map[schemas.StageKind]consume.Handler
	// Emit, when not empty, is a folder that receives what was computed.
	Emit string
	// Threads of the CPU device, 0: all.
	Threads int
	// Progress, when not nil, is called as work goes on; Logger receives the handlers' log.
	Progress func(what string, done, total int)
	Logger   *slog.Logger
}

// Verify runs one folder: train.yaml, predict.yaml or export.yaml. The error is about running at all; whether results agree is Report.Pass.
func Verify(ctx context.Context, dir string, o Options) (_ *verify.Report, err error) {
	v := &verification{dir: dir, o: o, rep: &verify.Report{Kind: "e2e", Dir: dir}}
	scratch, err := os.MkdirTemp("", "tunefleet-e2e-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	v.scratch = scratch
	switch {
	case isFile(filepath.Join(dir, "train.yaml")):
		err = v.train(ctx)
	case isFile(filepath.Join(dir, "predict.yaml")):
		err = v.predict(ctx)
	case isFile(filepath.Join(dir, "export.yaml")):
		err = v.export(ctx)
	default:
		err = schemas.Errorf(schemas.CodeNotFound, dir, "there is no train.yaml, predict.yaml or export.yaml")
	}
	if err != nil {
		return nil, err
	}
	v.rep.Finish()
	return v.rep, nil
}

type verification struct {
	dir, scratch string
	o            Options
	rep          *verify.Report
	// generates says that evaluations while it trains are by generating.
	generates bool
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}

// overrides are what the folder adds to its configuration: the adapter that the run began with, and the number of devices.
func (v *verification) overrides() []string {
	var out []string
	switch {
	case isFile(filepath.Join(v.dir, "init_adapter", "adapter_config.json")):
		out = append(out, "adapter_name_or_path=./init_adapter")
	case isFile(filepath.Join(v.dir, "init_adapter", "value_head.safetensors")):
		out = append(out, "value_head=./init_adapter")
	}
	if n := devices(v.dir); n > 1 {
		out = append(out, "world.nominal="+strconv.Itoa(n))
	}
	return out
}

// devices counts the ranks that left files, else reads the folder's name.
func devices(dir string) int {
	n := 1
	files, err := filepath.Glob(filepath.Join(dir, "*_rank*.*"))
	if err == nil {
		re := regexp.MustCompile(`_rank(\d+)\.`)
		for _, f := range files {
			if m := re.FindStringSubmatch(filepath.Base(f)); m != nil {
				if r, err := strconv.Atoi(m[1]); err == nil {
					n = max(n, r+1)
				}
			}
		}
	}
	if m := regexp.MustCompile(`_ddp(\d+)$`).FindStringSubmatch(filepath.Base(filepath.Clean(dir))); m != nil && n == 1 {
		if r, err := strconv.Atoi(m[1]); err == nil {
			n = r
		}
	}
	return n
}

// start resolves a configuration and makes its run.
func (v *verification) start(ctx context.Context, file string, overrides []string) (*localrun.Run, error) {
	spec, inputs, err := v.o.Load(ctx, filepath.Join(v.dir, file), overrides)
	if err != nil {
		return nil, err
	}
	return localrun.New(ctx, localrun.Config{Spec: spec, Inputs: inputs, Handlers: v.o.Handlers, Dir: v.scratch, Threads: v.o.Threads, Logger: v.o.Logger,
		Phase: func(stage, name string, done, total int64) {
			if v.o.Progress != nil {
				v.o.Progress(stage+" "+name, int(done), int(total))
			}
		}})
}

// train repeats a training run.
func (v *verification) train(ctx context.Context) error {
	// What upstream makes of hinge, ipo and kto_pair is what its runs have.
	run, err := v.start(ctx, "train.yaml", append(v.overrides(), "compat=llamafactory"))
	if err != nil {
		return err
	}
	if err := run.Stage(ctx, "prep"); err != nil {
		return err
	}
	if err := v.compareBatches(ctx, run); err != nil {
		return err
	}
	if err := run.Stage(ctx, trained(run.Spec())); err != nil {
		return err
	}
	got := readEvents(run.Events())
	for _, st := range run.Spec().Stages {
		v.generates = v.generates || st.Train != nil && st.Train.EvalGenerate != nil
	}
	if err := v.emitLog(got); err != nil {
		return err
	}
	why, err := draws(ctx, run)
	if err != nil {
		return err
	}
	return v.compareLog(got, why)
}

// trained is the name of the stage that trains, or only evaluates.
func trained(s *schemas.RunSpec) string {
	for _, st := range s.Stages {
		if st.Train != nil {
			return st.Name
		}
	}
	return "train"
}

// draws says why a run's losses depend on random numbers, which differ from the reference's; "" when they do not.
func draws(ctx context.Context, run *localrun.Run) (string, error) {
	st, err := run.Spec().StageOf(trained(run.Spec()))
	if err != nil {
		return "", err
	}
	t := st.Train
	switch {
	case t.LoRA != nil && t.LoRA.Dropout > 0:
		return "lora_dropout", nil
	case t.Features != nil && t.Features.NEFTune > 0:
		return "neftune_noise_alpha", nil
	case t.Objective != "rm" || t.Model.Base == nil:
		return "", nil
	}
	// The value head's dropout is on unless the model's configuration turns it off.
	for _, f := range t.Model.Base.Files {
		if f.Path != "config.json" {
			continue
		}
		raw, _, err := run.Objects().Get(ctx, schemas.InputKey(run.Spec().Tenant, f.SHA256), 1<<20)
		if err != nil {
			return "", fmt.Errorf("cannot read config.json: %w", err)
		}
		var c struct {
			Dropout *float64 `json:"summary_dropout_prob"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return "", schemas.Errorf(schemas.CodeModel, f.Path, "cannot parse JSON: %v", err)
		}
		if c.Dropout != nil && *c.Dropout == 0 {
			return "", nil
		}
	}
	return "the value head's dropout", nil
}
