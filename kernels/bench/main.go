// Command bench trains one llama in tunefleet and in PyTorch + transformers, alternating in one run, and prints median tokens per second,
// peak resident memory and time to the first step with their ratios. It exits 1 when tunefleet is under a target.
//
// Every contender is a process of its own that prints one JSON line (see result), so that memory and start-up are counted whole.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tunefleet/tunefleet/kernels/bench/record"
)

// result is what a contender prints, and, by medians, what is compared.
type result struct {
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"`
	Threads    int    `json:"threads"`
	Parameters int64  `json:"parameters"`
	// ReadyS is the time from the start of the process until the first step begins, FirstStepS until it ends.
	ReadyS          float64   `json:"ready_s"`
	FirstStepS      float64   `json:"first_step_s"`
	StepS           []float64 `json:"step_s"`
	TokensPerSecond float64   `json:"tokens_per_second"`
	PeakRSSBytes    int64     `json:"peak_rss_bytes"`
	Losses          []float64 `json:"losses,omitempty"`
}

// contender is a command to run.
type contender struct {
	name string
	argv []string
}

// report is the file written to kernels/bench/results.
type report struct {
	Date    string              `json:"date"`
	Commit  string              `json:"commit"`
	Device  string              `json:"device"`
	Threads int                 `json:"threads"`
	Rounds  int                 `json:"rounds"`
	Medians []result            `json:"medians"`
	Ratios  map[string]float64  `json:"ratios"`
	Raw     map[string][]result `json:"raw"`
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := fs.String("tunefleet", "bin/tunefleet", "the tunefleet binary")
	python := fs.String("python", "", "a Python with torch and transformers (see go tool task venv)")
	threads := fs.Int("threads", min(2, runtime.NumCPU()), "CPU threads of every contender")
	rounds := fs.Int("rounds", 3, "how often each contender runs, alternating")
	steps := fs.Int("steps", 4, "timed steps of a run (one more comes first)")
	compile := fs.Bool("compile", true, "also run torch.compile")
	dir := fs.String("results", "kernels/bench/results", "where the report is written")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *python == "" {
		return errors.New("cannot compare without PyTorch: give --python (go tool task bench makes the environment)")
	}
	th, st := strconv.Itoa(*threads), strconv.Itoa(*steps)
	script := filepath.Join(filepath.Dir(*dir), "pytorch_llama.py")
	all := []contender{
		{"tunefleet", []string{*bin, "bench", "--json", "--threads", th, "--steps", st}},
		{"torch eager", []string{*python, script, "--threads", th, "--steps", st}},
	}
	if *compile {
		all = append(all, contender{"torch.compile", []string{*python, script, "--compile", "--threads", th, "--steps", st}})
	}
	rep := report{Date: time.Now().UTC().Format(time.RFC3339), Commit: record.Commit(ctx), Device: record.CPU(), Threads: *threads, Rounds: *rounds,
		Raw: map[string][]result{}}
	for r := range *rounds {
		for _, c := range all {
			got, err := once(ctx, c)
			if err != nil {
				return fmt.Errorf("cannot run %s: %w", c.name, err)
			}
			rep.Raw[c.name] = append(rep.Raw[c.name], got)
			fmt.Fprintf(os.Stderr, "round %d %-14s %7.0f tokens/s, first step after %5.2f s, done after %5.2f s, peak %4.0f MiB\n", r+1, c.name, got.TokensPerSecond,
				got.ReadyS, got.FirstStepS, float64(got.PeakRSSBytes)/(1<<20))
		}
	}
	for _, c := range all {
		rep.Medians = append(rep.Medians, median(c.name, rep.Raw[c.name]))
	}
	failed := judge(&rep)
	print(out, rep)
	if err := save(*dir, rep); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("under target: %s", strings.Join(failed, "; "))
	}
	return nil
}

// once runs a contender and reads its JSON line.
func once(ctx context.Context, c contender) (result, error) {
	var r result
	argv := c.argv
	if strings.HasSuffix(argv[0], "python") || strings.Contains(filepath.Base(argv[0]), "python") {
		argv = append(slices.Clone(argv), "--process-start", strconv.FormatFloat(float64(time.Now().UnixNano())/1e9, 'f', 6, 64))
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "BENCH_PROCESS_START="+strconv.FormatInt(start.UnixNano(), 10))
	b, err := cmd.Output()
	if err != nil {
		return r, err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return r, fmt.Errorf("cannot read its result: %w", err)
	}
	return r, nil
}

// median takes the median of each figure over the rounds.
func median(name string, rs []result) result {
	pick := func(f func(result) float64) float64 {
		v := make([]float64, 0, len(rs))
		for _, r := range rs {
			v = append(v, f(r))
		}
		slices.Sort(v)
		if n := len(v); n%2 == 0 {
			return (v[n/2-1] + v[n/2]) / 2
		}
		return v[len(v)/2]
	}
	return result{Name: name, Version: rs[0].Version, Threads: rs[0].Threads, Parameters: rs[0].Parameters,
		TokensPerSecond: pick(func(r result) float64 { return r.TokensPerSecond }),
		ReadyS:          pick(func(r result) float64 { return r.ReadyS }),
		FirstStepS:      pick(func(r result) float64 { return r.FirstStepS }),
		PeakRSSBytes:    int64(pick(func(r result) float64 { return float64(r.PeakRSSBytes) }))}
}

// judge computes the ratios and lists the targets that are missed: tokens/s at least the faster PyTorch, the wait for the first step at
// most a fifth of the quicker one's, peak memory at most half of the smaller one's.
func judge(rep *report) []string {
	us, speed, ready, first, rss := rep.Medians[0], 0.0, 1e30, 1e30, 1e30
	for _, o := range rep.Medians[1:] {
		speed, rss = max(speed, o.TokensPerSecond), min(rss, float64(o.PeakRSSBytes))
		ready, first = min(ready, o.ReadyS), min(first, o.FirstStepS)
	}
	rep.Ratios = map[string]float64{"tokens_per_second": us.TokensPerSecond / speed, "ready": us.ReadyS / ready,
		"first_step_done": us.FirstStepS / first,
		"peak_rss":        float64(us.PeakRSSBytes) / rss}
	var failed []string
	if rep.Ratios["tokens_per_second"] < 1 {
		failed = append(failed, fmt.Sprintf("tokens/s is %.2fx the faster PyTorch, target 1.00x", rep.Ratios["tokens_per_second"]))
	}
	if rep.Ratios["ready"] > 0.2 {
		failed = append(failed, fmt.Sprintf("time to the first step is %.2fx, target 0.20x", rep.Ratios["ready"]))
	}
	if rep.Ratios["peak_rss"] > 0.5 {
		failed = append(failed, fmt.Sprintf("peak memory is %.2fx, target 0.50x", rep.Ratios["peak_rss"]))
	}
	return failed
}

func print(out io.Writer, rep report) {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s, %d threads, median of %d rounds\n\t\n", rep.Device, rep.Threads, rep.Rounds)
	fmt.Fprintln(w, "\ttokens/s\tto first step s\tfirst step done s\tpeak RSS MiB\t")
	for _, m := range rep.Medians {
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%.0f\t\n", m.Name, m.TokensPerSecond, m.ReadyS, m.FirstStepS, float64(m.PeakRSSBytes)/(1<<20))
	}
	fmt.Fprintf(w, "ratio\t%.2fx\t%.2fx\t%.2fx\t%.2fx\t\n", rep.Ratios["tokens_per_second"], rep.Ratios["ready"], rep.Ratios["first_step_done"], rep.Ratios["peak_rss"])
	fmt.Fprintln(w, "target\t>= 1.00x\t<= 0.20x\t\t<= 0.50x\t")
	_ = w.Flush()
}

func save(dir string, rep report) error {
	_, err := record.Save(dir, "llama34m", rep)
	return err
}
