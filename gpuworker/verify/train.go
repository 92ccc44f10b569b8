package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Limits of trajectories (the suggestions of the fixtures' README).
const (
	finalLimit = 1e-5 // 99.9 % of all elements of the final weights
	finalMost  = 5e-4 // every element
)

// method is how a run folder trains.
type method struct {
	// prepare changes the module tree; nil trains everything.
	prepare func(m zoo.Model) error
	// lora: the run starts from init (a PEFT folder, relative to the run's folder) and uses the LoRA learning rate.
	lora bool
	init string
	// groups exempts biases and norms from decay; plus multiplies B's learning rate.
	groups bool
	plus   float64
	// noFinal: other fixture sets hold no final weights of this run.
	noFinal bool
}

// methods are the run folders that this build trains.
func methods() map[string]method {
	return map[string]method{
		"full_adamw":             {},
		"full_adamw_hfgroups":    {groups: true, noFinal: true},
		"freeze_layer0":          {prepare: func(m zoo.Model) error { return adapter.FreezeFirst(m, 1) }},
		"freeze_last_layer_only": {prepare: func(m zoo.Model) error { return adapter.TrainLast(m, 1) }, noFinal: true},
		"lora":                   {lora: true, init: "init"},
		"rslora":                 {lora: true, init: "init"},
		"dora":                   {lora: true, init: "init"},
		"lora_modules_to_save":   {lora: true, init: "init"},
		"loraplus":               {lora: true, init: "../lora/init", plus: 16},
	}
}

// notRuns are folders of a training fixture that hold other things.
var notRuns = []string{"pref"}

// train is one verification of a training folder.
type train struct {
	root, base *os.Root
	sum        summary
	rep        *Report
	emit       *emitter
	o          Options
	// trained are the weights after full_adamw, once they are known.
	trained map[string][]float32
}

// VerifyTrain repeats the training runs in dir (batches.safetensors, summary.json, one folder a run) from the base model beside it,
// compares loss and gradient norm of every step and the final weights, and with Emit writes them. See VerifyModel about the results.
func VerifyTrain(ctx context.Context, dir string, o Options) (*Report, error) {
	if err := o.device(); err != nil {
		return nil, err
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	t := &train{root: root, rep: &Report{Kind: "train", Dir: dir}, o: o}
	if err := readJSON(root, "summary.json", &t.sum); err != nil {
		return nil, err
	}
	if err := t.sum.validate(); err != nil {
		return nil, err
	}
	if t.base, err = openRoot(baseDir(dir, t.sum.BaseModel, o.Base)); err != nil {
		return nil, err
	}
	defer t.base.Close()
	if t.emit, err = newEmitter(o.Emit, t.rep); err != nil {
		return nil, err
	}
	defer t.emit.close()
	runs, err := t.runs()
	if err != nil {
		return nil, err
	}
	for i, name := range runs {
		o.progress(name, i, len(runs))
		if err := t.run(ctx, name, methods()[name]); err != nil {
			return nil, fmt.Errorf("cannot verify run %s: %w", name, err)
		}
	}
	o.progress("runs", len(runs), len(runs))
	if len(o.Runs) == 0 {
		if err := t.accumulation(ctx); err != nil {
			return nil, fmt.Errorf("cannot verify %s: %w", accumName, err)
		}
		if err := t.generation(ctx); err != nil {
			return nil, fmt.Errorf("cannot verify %s: %w", generateName, err)
		}
		if err := t.preferences(ctx); err != nil {
			return nil, fmt.Errorf("cannot verify %s: %w", prefName, err)
		}
	}
	t.rep.finish()
	if len(runs) == 0 || t.rep.Compared == 0 && o.Emit == "" {
		t.rep.Pass = false
	}
	return t.rep, nil
}

func (s *summary) validate() error {
	h := s.HParams
	var errs []error
	bad := func(key string, v any) {
		errs = append(errs, schemas.Errorf(schemas.CodeData, "summary.json:hparams."+key, "%v is not acceptable", v))
	}
	if !(h.LR >= 0) {
		bad("lr", h.LR)
	}
	if h.Steps < 1 || h.Steps > 1<<20 {
		bad("steps", h.Steps)
	}
	if h.Warmup < 0 {
		bad("warmup", h.Warmup)
	}
	c := optim.Config{Beta1: h.Betas[0], Beta2: h.Betas[1], Eps: h.Eps, WeightDecay: h.WD}
	return errors.Join(append(errs, c.Validate())...)
}

// baseDir finds the base model: the override, the path that summary.json names if it is there, or models/<name of the training folder>
// two folders up.
func baseDir(dir, named, override string) string {
	if override != "" {
		return override
	}
	if named != "" && !filepath.IsAbs(named) {
		if p := filepath.Join(dir, filepath.FromSlash(named)); isDir(p) {
			return p
		}
	}
	return filepath.Join(dir, "..", "..", "models", filepath.Base(filepath.Clean(dir)))
}

func isDir(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

// runs decides which folders to train. Folders that hold a method this build lacks are listed as unsupported; named explicitly they fail.
func (t *train) runs() ([]string, error) {
	known := methods()
	if len(t.o.Runs) > 0 {
		var out []string
		for _, name := range t.o.Runs {
			_, ok := known[name]
			switch st, err := t.root.Stat(name); {
			case err != nil || !st.IsDir():
				t.rep.fail(name, "there is no such run folder")
			case !ok:
				t.rep.Unsupported = append(t.rep.Unsupported, name)
				t.rep.fail(name, "this method is not supported yet")
			default:
				out = append(out, name)
			}
		}
		return out, nil
	}
	entries, err := fs.ReadDir(t.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("cannot list runs: %w", err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() || slices.Contains(notRuns, e.Name()) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if _, ok := known[e.Name()]; ok {
			out = append(out, e.Name())
		} else {
			t.rep.Unsupported = append(t.rep.Unsupported, e.Name())
		}
	}
	return out, nil
}

// batches opens batches.safetensors.
func (t *train) batches(vocab int) ([]batch, error) {
	f, err := safetensors.Open(t.root, "batches.safetensors")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	bs, err := readBatches(f, 3, vocab)
	if err != nil {
		return nil, err
	}
	if len(bs) < t.sum.HParams.Steps {
		return nil, schemas.Errorf(schemas.CodeData, "batches.safetensors", "holds %d batches for %d steps", len(bs), t.sum.HParams.Steps)
	}
	return bs[:t.sum.HParams.Steps], nil
}
