package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/infer"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

// modelFlags say which model answers, and on what.
type modelFlags struct {
	adapters                        []string
	template, system, device, stage string
	threads, context                int
}

func (m *modelFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&m.adapters, "adapter", nil, "PEFT folder(s) over the model (adapter_name_or_path)")
	f.StringVar(&m.template, "template", "", "chat template; default: the tokenizer's own")
	f.StringVar(&m.system, "system", "", "system text (default_system)")
	f.StringVar(&m.device, "device", "auto", "auto (a GPU where there is one), cpu or cuda")
	f.StringVar(&m.stage, "stage", "", "of a run: the train stage (default: the last that has ended)")
	f.IntVar(&m.threads, "threads", 0, "threads of the CPU (default: all cores)")
	f.IntVar(&m.context, "context", 0, "most tokens of a prompt and its answer (default: the model's)")
}

// needsModel is the argument check of commands that answer with a model.
func needsModel(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return schemas.Errorf(schemas.CodeUsage, "", "%s needs a model", cmd.CommandPath()).
			WithHint("%s FOLDER, or a PEFT folder, a name such as Qwen/Qwen2.5-0.5B-Instruct, a YAML of LLaMA-Factory, or a run", cmd.CommandPath())
	}
	return nil
}

// overrides are the flags as keys of a configuration, before those of the command line.
func (m *modelFlags) overrides(cmd *cobra.Command, keys []string) []string {
	var out []string
	if len(m.adapters) > 0 {
		out = append(out, "adapter_name_or_path="+fmt.Sprintf("%q", strings.Join(m.adapters, ",")))
	}
	if cmd.Flags().Changed("template") {
		out = append(out, "template="+fmt.Sprintf("%q", m.template))
	}
	if cmd.Flags().Changed("system") {
		out = append(out, "default_system="+fmt.Sprintf("%q", m.system))
	}
	return append(out, keys...)
}

// inference resolves what the command line names: a file, a folder, a model's name, or a run.
func (a *app) inference(cmd *cobra.Command, m *modelFlags, args []string) (*config.Inference, error) {
	ctx, name := cmd.Context(), args[0]
	over := m.overrides(cmd, args[1:])
	opt := config.Options{Overrides: over, Say: a.sayLine}
	if _, err := os.Stat(name); err == nil || remote.IsAddress(name) {
		return config.LoadInference(ctx, name, opt)
	}
	folder, defaults, err := a.runModel(ctx, name, m.stage)
	switch {
	case err == nil:
		opt.Overrides = append(defaults, over...)
		return config.LoadInference(ctx, folder, opt)
	case m.stage != "" || isRun(name):
		return nil, err
	case !schemas.IsCode(err, schemas.CodeNotFound) && !schemas.IsCode(err, schemas.CodeUnavailable):
		return nil, err
	}
	return config.LoadInference(ctx, name, opt)
}

// isRun reports whether a name can only be a run's: an id of its full length.
func isRun(name string) bool {
	if _, id, ok := strings.Cut(name, "/"); ok {
		name = id
	}
	return len(name) == 26 && schemas.ValidName(strings.ToLower(name))
}

// openModel loads the model, saying what it is.
func (a *app) openModel(ctx context.Context, inf *config.Inference, m *modelFlags) (*infer.Model, error) {
	for _, n := range inf.Notes {
		a.say("%s", n)
	}
	dev, err := resolveDevice(m.device)
	if err != nil {
		return nil, err
	}
	o := infer.Options{Folders: train.Folders{Base: inf.Base, Adapters: inf.Adapters, Head: inf.Rewards}, Template: inf.Template,
		Chat:  chat.Options{ToolFormat: inf.ToolFormat, DefaultSystem: inf.DefaultSystem, EnableThinking: inf.EnableThinking, PreserveThinking: inf.PreserveThinking},
		DType: inf.DType, Backend: dev.backend, Threads: m.threads}
	if q := inf.Quant; q != nil {
		o.Quant = adapter.QuantConfig{Type: adapter.NF4, Double: q.Double}
		if q.Bits == 8 {
			o.Quant = adapter.QuantConfig{Type: adapter.Int8}
		}
	}
	a.say("loading %s", strings.Join(append([]string{inf.Base}, inf.Adapters...), " + "))
	model, err := infer.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	a.say("%s on %s, in %s (%s); template %s; up to %d tokens", model.Architecture(), dev, model.DType, model.Why,
		nonEmpty(model.Encoder.Template.Name, "of the tokenizer"), nonZero(m.context, model.Context))
	return model, nil
}

func nonZero(a, b int) int {
	if a == 0 {
		return b
	}
	return a
}

// sampling is how a configuration draws tokens.
func sampling(inf *config.Inference) generate.Sampling {
	g := inf.Generation
	s := generate.Sampling{RepetitionPenalty: g.RepetitionPenalty}
	if g.Sample {
		s.Temperature, s.TopK, s.TopP = g.Temperature, g.TopK, g.TopP
	}
	return s
}

// seed is the configuration's, or another one each time.
func seed(inf *config.Inference) uint64 {
	if inf.Seed != nil {
		return *inf.Seed
	}
	return rand.Uint64() //nolint:gosec // draws of words, no secret
}

// runModel fetches the merged weights of a run's train stage into the user's cache, once, and gives the folder, and keys of a configuration that the
// run was trained with.
func (a *app) runModel(ctx context.Context, name, stage string) (folder string, keys []string, err error) {
	err = a.withRun(ctx, name, func(cl *client.Client, tenant, run string) error {
		v, err := cl.Get(ctx, tenant, run)
		if err != nil {
			return err
		}
		if stage, err = finishedStage(v, stage); err != nil {
			return err
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			return schemas.Errorf(schemas.CodeUsage, "", "there is no cache folder to put the weights into: %v", err).WithHint("set XDG_CACHE_HOME, or use tunefleet export")
		}
		folder, keys = filepath.Join(cache, "tunefleet", "chat", tenant, run, stage), trainedWith(v.Spec, stage)
		if _, err := os.Stat(filepath.Join(folder, "config.json")); err == nil {
			return nil
		}
		return a.fetchModel(ctx, cl, v, stage, folder)
	})
	return folder, keys, err
}

// fetchModel fetches merged weights: those of an export stage of the run, or of one that is submitted for it.
func (a *app) fetchModel(ctx context.Context, cl *client.Client, v *schemas.RunView, stage, folder string) (err error) {
	tenant, run, from := v.Tenant, v.Run, ""
	for _, st := range v.Spec.Stages {
		if e := st.Export; e != nil && e.From == "stage:"+stage && slices.Contains(e.Formats, "merged") && e.Tokenizer != nil && hasEnded(v, st.Name) {
			from = st.Name
		}
	}
	if from == "" {
		a.say("the weights of stage %s are exported first", stage)
		spec, err := exporting(v, stage, []string{"merged"}, "auto")
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
		quiet := *a
		quiet.out, quiet.json = a.err, false // answers alone are on standard output
		if err := quiet.follow(ctx, cl, reply.Tenant, reply.Run); err != nil {
			return err
		}
		tenant, run, from = reply.Tenant, reply.Run, "export"
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return diskError(folder, err)
	}
	// What was fetched in part is not taken for a model.
	part, err := os.MkdirTemp(filepath.Dir(folder), ".part-*")
	if err != nil {
		return diskError(folder, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	if err := a.fetchOutputs(ctx, cl, tenant, run, from+"/merged/", part); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(part, "config.json")); err != nil {
		return schemas.Errorf(schemas.CodeNotFound, run, "its export has no merged model").WithHint("tunefleet export %s --to FOLDER", v.Run)
	}
	if err := os.Rename(part, folder); err != nil && !isFolder(folder) {
		return diskError(folder, err)
	}
	return nil
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// hasEnded reports whether a stage of a run has succeeded.
func hasEnded(v *schemas.RunView, stage string) bool {
	return slices.ContainsFunc(v.Stages, func(s schemas.StageState) bool { return s.Name == stage && s.State == schemas.StageSucceeded })
}

// trainedWith are the keys of the template that a stage's data were written with.
func trainedWith(spec *schemas.RunSpec, stage string) []string {
	st, err := spec.StageOf(stage)
	if err != nil || st.Train == nil {
		return nil
	}
	prep, output, _ := strings.Cut(st.Train.Data, "/")
	ps, err := spec.StageOf(prep)
	if err != nil || ps.Prep == nil {
		return nil
	}
	var keys []string
	for _, o := range ps.Prep.Outputs {
		if o.Name == output && o.Template != "" {
			keys = append(keys, "template="+fmt.Sprintf("%q", o.Template))
		}
	}
	if f := ps.Prep.Factory; f != nil {
		if f.ToolFormat != "" {
			keys = append(keys, "tool_format="+fmt.Sprintf("%q", f.ToolFormat))
		}
		if f.DefaultSystem != nil {
			keys = append(keys, "default_system="+fmt.Sprintf("%q", *f.DefaultSystem))
		}
		if f.EnableThinking != nil {
			keys = append(keys, fmt.Sprintf("enable_thinking=%t", *f.EnableThinking))
		}
	}
	return keys
}
