package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/verify"
)

func (a *app) verifyCommand() *cobra.Command {
	return group("verify", "Compare this build with reference folders",
		a.verifyKind("model", "Compare logits, loss, gradients and generation of one model folder with its golden.safetensors", verify.VerifyModel),
		a.verifyKind("train", "Repeat the training runs of a reference folder and compare each step and the final weights", verify.VerifyTrain),
		a.verifyDataCommand(), a.verifyE2ECommand(), a.verifyMemoryCommand())
}

type verifier func(ctx context.Context, dir string, o verify.Options) (*verify.Report, error)

// sayEach says each thing that is compared when it begins.
func (a *app) sayEach() func(what string, done, total int) {
	last := ""
	return func(what string, _, _ int) {
		if what != last {
			a.say("%s", what)
			last = what
		}
	}
}

// judge shows a report; its verdict is the exit code.
func (a *app) judge(r *verify.Report, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		err = a.print(r)
	} else {
		err = a.showReport(r)
	}
	return cmp.Or(err, r.Err())
}

func (a *app) verifyKind(kind, short string, fn verifier) *cobra.Command {
	var o verify.Options
	c := &cobra.Command{
		Use: kind + " DIR", Short: short, Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Progress = a.sayEach()
			r, err := fn(cmd.Context(), args[0], o)
			return a.judge(r, err)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Emit, "emit", "", "folder to write what was computed into, in the layout of the reference")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads (0: all); results do not depend on it")
	f.StringVar(&o.Backend, "backend", "", "shared object of another kernel backend")
	f.StringVar(&o.Device, "device", "cpu", "cpu or cuda")
	if kind == "model" {
		f.StringVar(&o.DType, "dtype", "fp32", "element type of activations and products: fp32, bf16 or fp16 (wider limits; gradients are reported only)")
	}
	if kind == "train" {
		f.StringVar(&o.Base, "base", "", "folder of the base model (default: beside DIR, see the reference's README)")
		f.StringSliceVar(&o.Runs, "run", nil, "only these run folders")
	}
	return c
}

func (a *app) showReport(r *verify.Report) error {
	t := newTable("", "PLACE", "ERROR", "LIMIT", "NOTE")
	for _, row := range r.Rows {
		mark := "ok"
		if !row.OK {
			mark = "FAIL"
		}
		t.row(mark, row.Place, fmt.Sprintf("%.3g", row.Error), fmt.Sprintf("%.3g", row.Limit), row.Note)
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	for _, u := range r.Unsupported {
		a.say("not built yet, not compared: %s", u)
	}
	word := "passed"
	if !r.Pass {
		word = "FAILED"
	}
	worst := ""
	if r.Worst != nil {
		worst = fmt.Sprintf("; nearest to its limit: %s (%.3g of %.3g)", r.Worst.Place, r.Worst.Error, r.Worst.Limit)
	}
	_, err := fmt.Fprintf(a.out, "%s: %d compared, %d over the limit%s\n", word, r.Compared, r.Failed, worst)
	return err
}
