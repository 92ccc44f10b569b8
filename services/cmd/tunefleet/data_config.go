package main

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/report"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// dataJob is one data set to look at, and how its rows become tokens.
type dataJob struct {
	config report.Config
	enc    report.Encoding
}

// isConfig reports whether a path is a configuration rather than data.
func isConfig(name string) bool {
	return slices.Contains([]string{".yaml", ".yml"}, strings.ToLower(filepath.Ext(name)))
}

// configJobs are the data sets of a training's configuration, read and encoded as it says; flags of the command win.
func (f *dataFlags) configJobs(a *app, cmd *cobra.Command, args []string) ([]dataJob, error) {
	for _, name := range []string{"dataset-dir", "format", "encoding", "formatting", "column"} {
		if cmd.Flags().Changed(name) {
			return nil, schemas.Errorf(schemas.CodeUsage, "--"+name, "a configuration says itself how its data are read").WithHint("change it by key=value behind the file")
		}
	}
	r, err := config.Load(cmd.Context(), args[0], config.Options{Overrides: args[1:], Say: a.sayLine})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(r.Spec.Stages, func(s schemas.Stage) bool { return s.Prep != nil })
	if i < 0 {
		return nil, schemas.Errorf(schemas.CodeUsage, args[0], "the configuration prepares no data")
	}
	p := r.Spec.Stages[i].Prep
	if !reflect.ValueOf(p.Clean).IsZero() || p.Sample != nil || p.Augment != nil {
		a.say("rows are shown as they are in the files: before cleaning, sampling and augmentation")
	}
	local := map[string]string{}
	for _, in := range r.Inputs {
		local[in.File.SHA256+"/"+in.File.Path] = in.Local
	}
	enc := f.enc
	if enc.Tokenizer == "" {
		enc.Tokenizer = tokenizerFolder(p.Tokenizer, local)
	}
	if len(p.Outputs) > 0 {
		o := &p.Outputs[0]
		if !cmd.Flags().Changed("template") {
			enc.Template = o.Template
		}
		if !cmd.Flags().Changed("cutoff-len") {
			enc.Cutoff = o.CutoffLen
		}
	}
	if p.Factory == nil {
		return f.simpleJobs(r.Spec.Stages, enc, local)
	}
	if p.Factory.Tokenized {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "tokenized_path", "the data are tokens already, there are no rows to show")
	}
	o := p.Factory
	enc.TrainOnPrompt, enc.MaskHistory = enc.TrainOnPrompt || o.TrainOnPrompt, enc.MaskHistory || o.MaskHistory
	enc.Options = &chat.Options{ToolFormat: o.ToolFormat, DefaultSystem: o.DefaultSystem, EnableThinking: o.EnableThinking, PreserveThinking: o.PreserveThinking, Today: o.Day(time.Now())}
	var jobs []dataJob
	for _, set := range slices.Concat(o.Train, o.Eval) {
		if slices.ContainsFunc(jobs, func(j dataJob) bool { return reflect.DeepEqual(*j.config.Set, set) }) {
			continue // held out of what is trained on, or named for both
		}
		c := f.config
		c.Path, c.Format, c.Encoding, c.Set, c.Pretrain = set.Name, set.Format, set.Encoding, &set, o.Stage == "pt"
		for _, file := range set.Data.Files {
			c.Files = append(c.Files, local[file.SHA256+"/"+file.Path])
		}
		c.Base, c.Files = below(c.Files)
		jobs = append(jobs, dataJob{c, enc})
	}
	return jobs, nil
}

// below is the folder that holds all files, and their names in it.
func below(files []string) (base string, names []string) {
	for i, f := range files {
		if d := filepath.Dir(f); i == 0 || len(d) < len(base) {
			base = d
		}
	}
	for _, f := range files {
		n, err := filepath.Rel(base, f)
		if err != nil {
			return "", files
		}
		names = append(names, filepath.ToSlash(n))
	}
	return base, names
}

// simpleJobs are the data of the simpler form, those of training and those of evaluation.
func (f *dataFlags) simpleJobs(stages []schemas.Stage, enc report.Encoding, local map[string]string) ([]dataJob, error) {
	var jobs []dataJob
	for _, s := range stages {
		if s.Prep == nil {
			continue
		}
		c, err := f.simpleSet(s.Prep, local)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, dataJob{c, enc})
	}
	return jobs, nil
}

// simpleSet is one data set of the simpler form: columns by role, where text and label have words of their own. Its files are those that are prepared,
// read as they are there.
func (f *dataFlags) simpleSet(p *schemas.PrepStage, local map[string]string) (report.Config, error) {
	c := f.config
	c.Format, c.Columns, c.Literal = p.Format, map[string]string{}, true
	for role, column := range p.Columns {
		if strings.Contains(column, "{") {
			return c, schemas.Errorf(schemas.CodeUnsupported, "data.columns."+role, "texts that are made of several columns are not shown").WithHint("name the data file itself")
		}
		switch role {
		case "text":
			c.Columns["prompt"] = column
		case "label":
			c.Label = column
		case "prompt", "query", "response", "system":
			c.Columns[role] = column
		}
	}
	if len(p.Data.Files) == 0 {
		return c, schemas.Errorf(schemas.CodeUnsupported, "data", "the data come from another stage")
	}
	for _, file := range p.Data.Files {
		c.Files = append(c.Files, local[file.SHA256+"/"+file.Path])
	}
	c.Base, c.Files = below(c.Files)
	if c.Path = c.Files[0]; len(c.Files) > 1 {
		c.Path = filepath.Base(c.Base)
	}
	return c, nil
}

// tokenizerFolder is where the files of a tokenizer lie, "" when they are not here.
func tokenizerFolder(ref schemas.Ref, local map[string]string) string {
	for _, f := range ref.Files {
		if f.Path == "tokenizer.json" || f.Path == "tokenizer.model" {
			return filepath.Dir(local[f.SHA256+"/"+f.Path])
		}
	}
	return ""
}
