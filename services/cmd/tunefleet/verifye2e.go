package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/verifye2e"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

func (a *app) verifyE2ECommand() *cobra.Command {
	o := verifye2e.Options{Load: loadLocal, Handlers: handlers()}
	c := &cobra.Command{
		Use: "e2e DIR", Args: exactArgs("DIR"), Short: "Repeat a run of LLaMA-Factory from its configuration and data, and compare its losses, predictions or export",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Progress = a.sayEach()
			r, err := verifye2e.Verify(cmd.Context(), args[0], o)
			return a.judge(r, err)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Emit, "emit", "", "folder to write what was computed into: full_log.jsonl, generated_predictions.jsonl, predict_results.json")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads (0: all); results do not depend on it")
	return c
}

// loadLocal resolves a configuration for a run within this process.
func loadLocal(ctx context.Context, file string, overrides []string) (*schemas.RunSpec, []localrun.Input, error) {
	r, err := config.Load(ctx, file, config.Options{Overrides: overrides})
	if err != nil {
		return nil, nil, err
	}
	inputs := make([]localrun.Input, len(r.Inputs))
	for i, in := range r.Inputs {
		inputs[i] = localrun.Input{Local: in.Local, File: in.File}
	}
	return r.Spec, inputs, nil
}
