package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// checkModels refuses base models that the engine has no architecture for, and weights that are not whole, before anything is uploaded or
// prepared. It reads configurations and headers only.
func checkModels(r *config.Resolved) error {
	for _, st := range r.Spec.Stages {
		for _, base := range bases(&st) {
			if err := checkArchitecture(r, base); err != nil {
				return err
			}
		}
	}
	if err := checkVocabularies(r); err != nil {
		return err
	}
	folders := map[string][]string{}
	for _, in := range r.Inputs {
		dir := filepath.Dir(in.Local)
		folders[dir] = append(folders[dir], filepath.Base(in.Local))
	}
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		if err := safetensors.CheckFolder(dir, folders[dir]); err != nil {
			return err
		}
	}
	return nil
}

// bases are the base models that a stage names by their files.
func bases(st *schemas.Stage) (out []*schemas.Ref) {
	var models []*schemas.ModelSpec
	switch {
	case st.Train != nil:
		models = append(models, &st.Train.Model)
	case st.Eval != nil && st.Eval.Predict != nil:
		models = append(models, &st.Eval.Predict.Model)
	case st.Eval != nil && st.Eval.Choice != nil:
		models = append(models, &st.Eval.Choice.Model)
	}
	for _, m := range models {
		if m.Base != nil {
			out = append(out, m.Base)
		}
	}
	if st.Eval != nil {
		for _, m := range st.Eval.Models {
			if m.Base != nil {
				out = append(out, m.Base)
			}
		}
	}
	return out
}

// checkArchitecture reads the config.json of a base model.
func checkArchitecture(r *config.Resolved, base *schemas.Ref) error {
	for _, f := range base.Files {
		i := slices.IndexFunc(r.Inputs, func(in config.Input) bool { return in.File.SHA256 == f.SHA256 })
		if f.Path != "config.json" || i < 0 || f.Bytes > 1<<20 {
			continue
		}
		at := r.Inputs[i].Local
		data, err := os.ReadFile(at)
		if err != nil {
			return schemas.Errorf(schemas.CodeModel, at, "cannot read: %v", schemas.Reason(err))
		}
		if err := zoo.Supported(data); err != nil {
			why := schemas.AsErrorInfo(err)
			return schemas.Errorf(schemas.CodeModel, at, "%s", why.Message).WithHint("%s", nonEmpty(why.Hint, "tunefleet models lists the architectures"))
		}
	}
	return nil
}

// architecture is one line of the models command.
type architecture struct {
	zoo.Listing
	// Methods that train it: they are transforms of the module tree that know no architecture.
	Methods []string `json:"methods"`
	// Precisions in which logits, loss and every gradient have been compared with transformers.
	Precisions []string `json:"precisions"`
}

func (a *app) modelsCommand() *cobra.Command {
	return &cobra.Command{Use: "models", Short: "List architectures with the names that are mapped, methods, and the known model names", Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			known, err := zoo.Catalog()
			if err != nil {
				return err
			}
			list := make([]architecture, len(known))
			t := newTable("ARCHITECTURE", "MODEL TYPE", "NAMES MAPPED", "METHODS", "PRECISIONS", "OWN DROPOUT", "MODULES FOR ADAPTERS")
			for i, l := range known {
				list[i] = architecture{Listing: l, Methods: schemas.Methods(), Precisions: []string{"fp32", "bf16"}}
				t.row(l.Architecture, strings.Join(l.ModelTypes, " "), strconv.Itoa(len(l.Parameters)), strings.Join(list[i].Methods, " "),
					strings.Join(list[i].Precisions, " "), strings.Join(l.Dropout, " "), strings.Join(l.Modules, " "))
			}
			if a.json {
				return a.print(map[string]any{"architectures": list, "methods": adapter.Methods(), "names": config.Models()})
			}
			if err := t.write(a.out); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
			t = newTable("METHOD", "RUN SPEC", "PRECISIONS", "MERGES", "FILES", "COMPARED WITH")
			for _, m := range adapter.Methods() {
				t.row(m.Name, m.Spec, strings.Join(m.Precisions, ", "), strconv.FormatBool(m.Mergeable), m.Files, m.Reference)
			}
			if err := t.write(a.out); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
			t = newTable("NAME", "HUGGING FACE HUB", "TEMPLATE")
			for _, m := range config.Models() {
				t.row(m.Alias, m.Hub, m.Template)
			}
			return t.write(a.out)
		}}
}
