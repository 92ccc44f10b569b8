// Command queuebench measures what the queue costs: submissions acknowledged through one front beside the store's raw writes, the time from
// a message to the first step, the queue's share of a step, workers that hold and heartbeat seats on one consumer and one Redis, the rebuilding
// of control's memory, and a simulated day. It prints a table, writes a JSON report, and exits 1 when a figure misses what it must be.
//
// Everything runs on this machine: the servers, their clients and what is measured share its cores. Figures say whether they are real (real
// servers, real processes, real clock) or simulated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tunefleet/tunefleet/kernels/bench/record"
)

// figure is one measured value and what it must be.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// AtLeast and AtMost bound the value where they are set.
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	// Simulated: some server or clock was not real.
	Simulated bool   `json:"simulated,omitempty"`
	Note      string `json:"note,omitempty"`
}

func (f figure) ok() bool {
	return (f.AtLeast == 0 || f.Value >= f.AtLeast) && (f.AtMost == 0 || f.Value <= f.AtMost)
}

// report is the file that a run writes.
type report struct {
	Date    string   `json:"date"`
	Commit  string   `json:"commit"`
	Go      string   `json:"go"`
	Cores   int      `json:"cores"`
	Figures []figure `json:"figures"`
}

// bench is one run.
type bench struct {
	dir     string
	out     io.Writer
	quick   bool
	runs    int // of rebuild
	figures []figure
}

func (b *bench) add(f figure) {
	b.figures = append(b.figures, f)
	word := "ok"
	if !f.ok() {
		word = "MISSED"
	}
	fmt.Fprintf(os.Stderr, "%s: %.4g %s (%s) %s\n", f.Name, f.Value, f.Unit, word, f.Note)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if role := os.Getenv(envRole); role != "" {
		if err := play(ctx, role); err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "queuebench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	fs := flag.NewFlagSet("queuebench", flag.ContinueOnError)
	dir := fs.String("results", "kernels/bench/results", "where the report is written")
	quick := fs.Bool("quick", false, "a tenth of the load; nothing is written")
	runs := fs.Int("runs", 100_000, "open runs that rebuild has")
	only := fs.String("only", "", "comma-separated: submit, step, seats, rebuild, simulate (default all)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "queuebench-*")
	if err != nil {
		return fmt.Errorf("cannot make a scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	b := &bench{dir: scratch, out: out, quick: *quick, runs: *runs}
	want := strings.Split(*only, ",")
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"submit", b.submit}, {"step", b.step}, {"seats", b.seats}, {"rebuild", b.rebuild}, {"simulate", b.simulate}} {
		if *only != "" && !slices.Contains(want, part.name) {
			continue
		}
		runtime.GC() // no part pays for what another one left
		if perr := part.do(ctx); perr != nil {
			err = errors.Join(err, fmt.Errorf("cannot measure %s: %w", part.name, perr))
		}
	}
	return errors.Join(err, b.finish(ctx, *dir, !*quick))
}

// finish prints the table and writes the report.
func (b *bench) finish(ctx context.Context, dir string, keep bool) error {
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tVALUE\tMUST\t\tKIND\tNOTE")
	missed := 0
	for _, f := range b.figures {
		must, word, kind := "", "", "real"
		switch {
		case f.AtLeast != 0:
			must = fmt.Sprintf(">= %.4g", f.AtLeast)
		case f.AtMost != 0:
			must = fmt.Sprintf("<= %.4g", f.AtMost)
		}
		if must != "" {
			word = "ok"
		}
		if !f.ok() {
			word = "MISSED"
			missed++
		}
		if f.Simulated {
			kind = "simulated"
		}
		fmt.Fprintf(t, "%s\t%.4g %s\t%s\t%s\t%s\t%s\n", f.Name, f.Value, f.Unit, must, word, kind, f.Note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if keep {
		r := report{Date: time.Now().UTC().Format(time.RFC3339), Commit: record.Commit(ctx), Go: runtime.Version(), Cores: runtime.NumCPU(), Figures: b.figures}
		path, err := record.Save(dir, "queue", r)
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, "written:", path)
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d figures miss what they must be", missed, len(b.figures))
	}
	return nil
}

// percentile is the value that a share of the sorted values does not exceed.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}
