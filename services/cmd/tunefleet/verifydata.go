package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/verifydata"
)

func (a *app) verifyDataCommand() *cobra.Command {
	var o verifydata.Options
	c := &cobra.Command{
		Use: "data DIR", Args: exactArgs("DIR"),
		Short: "Compute tokenizers, templates, processors and metrics of a reference folder and compare them case by case",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := verifydata.VerifyData(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if a.json {
				err = a.print(r)
			} else {
				err = a.showDataReport(r)
			}
			if err != nil {
				return err
			}
			return r.Err()
		},
	}
	f := c.Flags()
	f.StringVar(&o.Emit, "emit", "", "folder to write the files into, with computed values in place of the expected ones")
	f.StringVar(&o.Base, "base", "", "folder with tokenizers, Jinja files and dictionaries that DIR lacks (default: $TUNEFLEET_FIXTURES/data)")
	f.IntVar(&o.Threads, "threads", 0, "files computed at a time (0: one a CPU)")
	return c
}

func (a *app) showDataReport(r *verifydata.Report) error {
	t := newTable("", "FILE", "CASES", "EQUAL", "FIRST DIFFERENCE")
	for _, f := range r.Files {
		mark := "ok"
		switch {
		case f.First != "":
			mark = "FAIL"
		case f.Cases == 0:
			mark = "-"
		}
		t.row(mark, f.File, fmt.Sprint(f.Cases), fmt.Sprint(f.Equal), f.First)
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	for _, u := range r.Unsupported {
		a.say("not compared: %s", u)
	}
	word := "passed"
	if !r.Pass {
		word = "FAILED"
	}
	_, err := fmt.Fprintf(a.out, "%s: %d of %d cases are equal in %d files\n", word, r.Equal, r.Cases, len(r.Files))
	return err
}
