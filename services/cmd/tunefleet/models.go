package main

import (
	"os"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// checkModels refuses base models that the engine has no architecture for, before anything is uploaded or prepared.
func checkModels(r *config.Resolved) error {
	for _, st := range r.Spec.Stages {
		if st.Train == nil || st.Train.Model.Base == nil {
			continue
		}
		for _, f := range st.Train.Model.Base.Files {
			if f.Path != "config.json" {
				continue
			}
			i := slices.IndexFunc(r.Inputs, func(in config.Input) bool { return in.File.SHA256 == f.SHA256 })
			if i < 0 || f.Bytes > 1<<20 {
				continue
			}
			data, err := os.ReadFile(r.Inputs[i].Local)
			if err != nil {
				return schemas.Errorf(schemas.CodeModel, r.Inputs[i].Local, "cannot read: %v", err)
			}
			if err := zoo.Supported(data); err != nil {
				return schemas.Errorf(schemas.CodeModel, r.Inputs[i].Local, "%v", err)
			}
		}
	}
	return nil
}
