// Command bench compares the preparation of data with LLaMA-Factory's own (from PyPI, in its own environment, with 2 processes) and with a
// floor, the raw encode_batch of the same tokenizer on 2 threads, in one run: alpaca rows made unique by seeded changes of words, through
// template, label mask and packing. Contenders alternate, each in a process of its own, with their caches off. It prints rows per second,
// CPU time and peak memory, checks that both give the same ids and labels, measures MinHash, and writes a report to kernels/bench/results.
// It exits 1 under a bar: 90 % of the floor, a tenth of LLaMA-Factory's memory, 50,000 rows/s of MinHash.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/kernels/bench/record"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// The bars, and the target beyond them.
const (
	barFloor   = 0.90
	barMemory  = 0.10
	barMinHash = 50_000
	goalFactor = 3.0
)

// child is the process that prepares.
type child struct {
	servers, yaml, scratch string
	threads                int
	digest                 bool
}

// options of the benchmark.
type options struct {
	rows, threads, rounds, cutoff int
	python, tokenizer, base, dir  string
	results, only, scripts        string
	clean                         bool
	changed                       float64
}

// report is the file that is written.
type report struct {
	Date    string                `json:"date"`
	Commit  string                `json:"commit"`
	Device  string                `json:"device"`
	Threads int                   `json:"threads"`
	Rows    int                   `json:"rows"`
	Bytes   int64                 `json:"bytes"`
	Cutoff  int                   `json:"cutoff_len"`
	Load    string                `json:"load_average"`
	Runs    map[string][]measured `json:"runs"`
	// Medians are rows per second of wall time, and of CPU time for PerCPU.
	Medians map[string]float64 `json:"rows_per_second"`
	PerCPU  map[string]float64 `json:"rows_per_cpu_second"`
	Ratios  map[string]float64 `json:"ratios"`
	Equal   *bool              `json:"same_ids_and_labels,omitempty"`
	MinHash float64            `json:"minhash_rows_per_second"`
	// MinHashCPU is per second of CPU time on two cores.
	MinHashCPU float64 `json:"minhash_rows_per_two_cpu_seconds"`
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var c child
	fs := flag.NewFlagSet("bench data", flag.ContinueOnError)
	fs.IntVar(&o.rows, "rows", 1_000_000, "rows to prepare")
	fs.IntVar(&o.threads, "threads", min(2, runtime.NumCPU()), "threads of tunefleet and of the floor, processes of LLaMA-Factory")
	fs.IntVar(&o.rounds, "rounds", 1, "how often each contender runs, alternating")
	fs.IntVar(&o.cutoff, "cutoff", 2048, "cutoff_len")
	fs.BoolVar(&o.clean, "clean", false, "clean the rows by every filter first, which only tunefleet does (-only tunefleet)")
	fs.Float64Var(&o.changed, "changed", 0.10, "share of the words that become others: at 0.1 rows of one origin are alike and share bands of MinHash, at 1 none is like another")
	fs.StringVar(&o.python, "python", "", "a Python with llamafactory (go tool task llamafactory makes one)")
	fs.StringVar(&o.tokenizer, "tokenizer", "", "folder of a Qwen tokenizer (tokenizer.json, tokenizer_config.json)")
	fs.StringVar(&o.base, "base", "", "alpaca rows to start from (alpaca_en_demo.json)")
	fs.StringVar(&o.dir, "dir", "", "scratch folder; default: a temporary one")
	fs.StringVar(&o.results, "results", "kernels/bench/results", "where the report is written; empty: nowhere")
	fs.StringVar(&o.scripts, "scripts", "gpuworker/prep/bench", "folder of this benchmark's Python scripts")
	fs.StringVar(&o.only, "only", "tunefleet,floor,llamafactory", "contenders")
	fs.StringVar(&c.servers, "child-servers", "", "internal: the object store's data directory")
	fs.StringVar(&c.yaml, "child-yaml", "", "internal: the configuration")
	fs.StringVar(&c.scratch, "child-scratch", "", "internal: scratch folder")
	fs.BoolVar(&c.digest, "child-digest", false, "internal: hash the result")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if c.servers != "" {
		c.threads = o.threads
		return c.run(ctx)
	}
	if o.clean && o.only != "tunefleet" {
		return errors.New("cannot compare what is cleaned with what is not: add -only tunefleet")
	}
	if o.tokenizer == "" || o.base == "" || o.python == "" && o.only != "tunefleet" {
		return errors.New("cannot run without -tokenizer, -base and -python")
	}
	return compare(ctx, o, out)
}

func compare(ctx context.Context, o options, out io.Writer) (err error) {
	// The embedded object store changes the working directory.
	for _, p := range []*string{&o.scripts, &o.results, &o.tokenizer, &o.base, &o.dir} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return fmt.Errorf("cannot find %s: %w", *p, err)
		}
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "bench-data-*"); err != nil {
			return fmt.Errorf("cannot create a scratch folder: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	rows := filepath.Join(o.dir, "rows.jsonl")
	fmt.Fprintf(os.Stderr, "writing %d rows\n", o.rows)
	if err := generate(o.base, rows, o.rows, o.changed); err != nil {
		return err
	}
	yaml, err := o.configure(rows)
	if err != nil {
		return err
	}
	info, err := os.Stat(rows)
	if err != nil {
		return fmt.Errorf("cannot read the rows: %w", err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = nil // not on this system
	}
	rep := report{Date: time.Now().UTC().Format(time.RFC3339), Commit: record.Commit(ctx), Device: record.CPU(), Threads: o.threads, Rows: o.rows, Bytes: info.Size(), Cutoff: o.cutoff,
		Load: strings.TrimSpace(string(load)), Runs: map[string][]measured{}, Medians: map[string]float64{}, PerCPU: map[string]float64{}, Ratios: map[string]float64{}}
	names := strings.Split(o.only, ",")
	for r := range o.rounds {
		for _, n := range names {
			m, err := o.contender(ctx, n, r, yaml, rows)
			if err != nil {
				return err
			}
			rep.Runs[n] = append(rep.Runs[n], m)
			fmt.Fprintf(os.Stderr, "round %d %-13s %7.0f rows/s (%.1f s), %7.0f rows per CPU second, peak %5.0f MiB\n", r+1, n, float64(o.rows)/m.Seconds, m.Seconds, float64(o.rows)/m.CPUS,
				float64(m.PeakBytes)/(1<<20))
		}
	}
	rep.MinHash, rep.MinHashCPU = minhashSpeed()
	failed := judge(&rep)
	print(out, rep)
	if o.results != "" {
		if err := save(o.results, rep); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("under the bar: %s", strings.Join(failed, "; "))
	}
	return nil
}

// configure writes a LLaMA-Factory configuration that both read.
func (o options) configure(rows string) (string, error) {
	model := filepath.Join(o.dir, "model")
	if err := os.MkdirAll(model, 0o755); err != nil {
		return "", fmt.Errorf("cannot create a folder: %w", err)
	}
	for _, n := range []string{"tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join(o.tokenizer, n))
		if err == nil {
			err = os.WriteFile(filepath.Join(model, n), b, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("cannot copy the tokenizer: %w", err)
		}
	}
	files := map[string]string{
		// A model is needed by tunefleet's check of the vocabulary only; no weights are read.
		"model/config.json":       `{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","vocab_size":151936,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2}`,
		"model/model.safetensors": "",
		"dataset_info.json":       `{"rows":{"file_name":"` + filepath.Base(rows) + `"}}`,
		"train.yaml": fmt.Sprintf("model_name_or_path: %s\nstage: sft\ndo_train: true\nfinetuning_type: lora\ndataset: rows\ndataset_dir: %s\ntemplate: qwen\ncutoff_len: %d\npacking: true\n"+
			"preprocessing_num_workers: %d\noverwrite_cache: true\noutput_dir: %s\nreport_to: none\n", model, o.dir, o.cutoff, o.threads, filepath.Join(o.dir, "out")),
	}
	if o.clean {
		files["train.yaml"] += "clean: {normalize: true, boilerplate: true, broken: true, min_chars: 2, max_chars: 100000, languages: [en, es, pt], blocklist: [casino], pii: mask, dedup: true, near_dup: 0.8, contamination: 0.8, " +
			"mislabelled: drop}\nval_size: 0.001\n"
	}
	for n, text := range files {
		if err := os.WriteFile(filepath.Join(o.dir, n), []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("cannot write %s: %w", n, err)
		}
	}
	return filepath.Join(o.dir, "train.yaml"), nil
}

// contender runs one of them in a fresh state.
func (o options) contender(ctx context.Context, name string, round int, yaml, rows string) (_ measured, err error) {
	scratch := filepath.Join(o.dir, fmt.Sprintf("%s-%d", name, round))
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return measured{}, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	th := strconv.Itoa(o.threads)
	switch name {
	case "floor":
		return command(ctx, o.dir, []string{"RAYON_NUM_THREADS=" + th, "TOKENIZERS_PARALLELISM=true"}, o.python, filepath.Join(o.scripts, "floor.py"), filepath.Join(o.dir, "model", "tokenizer.json"), rows)
	case "llamafactory":
		args := []string{filepath.Join(o.scripts, "llamafactory_prep.py"), yaml}
		if round == 0 {
			args = append(args, "--digest")
		}
		return command(ctx, o.dir, []string{"HF_HOME=" + scratch, "HF_DATASETS_CACHE=" + scratch, "TMPDIR=" + scratch}, o.python, args...)
	case "tunefleet":
		srv, err := embedded.Start(ctx, embedded.Options{Dir: filepath.Join(scratch, "servers"), Parts: []embedded.Part{embedded.S3}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return measured{}, err
		}
		defer srv.Close()
		self, err := os.Executable()
		if err != nil {
			return measured{}, fmt.Errorf("cannot find this program: %w", err)
		}
		args := []string{"-threads", th, "-child-servers", filepath.Join(scratch, "servers"), "-child-yaml", yaml, "-child-scratch", scratch}
		if round == 0 {
			args = append(args, "-child-digest")
		}
		return command(ctx, o.dir, nil, self, args...)
	}
	return measured{}, fmt.Errorf("cannot run %q: the contenders are tunefleet, floor, llamafactory", name)
}

// judge fills medians and ratios and lists the bars that are missed.
func judge(rep *report) (failed []string) {
	mem := map[string]float64{}
	for n, runs := range rep.Runs {
		var wall, cpu, peak []float64
		for _, m := range runs {
			wall, cpu, peak = append(wall, float64(rep.Rows)/m.Seconds), append(cpu, float64(rep.Rows)/m.CPUS), append(peak, float64(m.PeakBytes))
		}
		rep.Medians[n], rep.PerCPU[n], mem[n] = median(wall), median(cpu), median(peak)
	}
	check := func(name string, value float64, ok bool) {
		rep.Ratios[name] = value
		if !ok {
			failed = append(failed, fmt.Sprintf("%s is %.2f", name, value))
		}
	}
	ours := rep.Medians["tunefleet"]
	if f := rep.Medians["floor"]; f > 0 && ours > 0 {
		check("tunefleet / floor", ours/f, ours/f >= barFloor)
	}
	if l := rep.Medians["llamafactory"]; l > 0 && ours > 0 {
		check("tunefleet / llamafactory", ours/l, true)
		rep.Ratios["tunefleet / llamafactory, CPU time"] = rep.PerCPU["tunefleet"] / rep.PerCPU["llamafactory"]
		rep.Ratios["target tunefleet / llamafactory"] = goalFactor
		m := mem["tunefleet"] / mem["llamafactory"]
		check("memory of tunefleet / llamafactory", m, m <= barMemory)
		a, b := rep.Runs["tunefleet"][0].Digest, rep.Runs["llamafactory"][0].Digest
		same := a == b && a != ""
		if rep.Equal = &same; !same {
			failed = append(failed, "ids and labels differ")
		}
	}
	if best := max(rep.MinHash, rep.MinHashCPU); best < barMinHash {
		failed = append(failed, fmt.Sprintf("MinHash reads %.0f rows/s", best))
	}
	return failed
}

// minhashSpeed signs and compares random rows of 100 words on all threads.
func minhashSpeed() (perSecond, perCPU float64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	texts := make([]string, 100_000)
	var b strings.Builder
	for i := range texts {
		b.Reset()
		for range 100 {
			b.WriteString("w" + strconv.Itoa(rng.IntN(50_000)) + " ")
		}
		texts[i] = b.String()
	}
	start, cpu := time.Now(), cpuSeconds()
	minhash.Duplicates(texts, 0.8, 1, 1)
	return float64(len(texts)) / time.Since(start).Seconds(), 2 * float64(len(texts)) / (cpuSeconds() - cpu)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[n/2]
}

func print(out io.Writer, rep report) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d rows, %d MB, cutoff_len %d, packing\trows/s\trows per CPU second\tpeak MiB\tversion\n", rep.Rows, rep.Bytes/1_000_000, rep.Cutoff)
	for _, n := range []string{"tunefleet", "floor", "llamafactory"} {
		if runs := rep.Runs[n]; len(runs) > 0 {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%s\n", n, rep.Medians[n], rep.PerCPU[n], float64(runs[0].PeakBytes)/(1<<20), runs[0].Version)
		}
	}
	for _, n := range slices.Sorted(func(yield func(string) bool) {
		for k := range rep.Ratios {
			if !yield(k) {
				return
			}
		}
	}) {
		fmt.Fprintf(w, "%s\t%.3f\n", n, rep.Ratios[n])
	}
	if rep.Equal != nil {
		fmt.Fprintf(w, "same ids and labels\t%t\n", *rep.Equal)
	}
	fmt.Fprintf(w, "MinHash, rows/s\t%.0f\t(by CPU time on two cores: %.0f)\n", rep.MinHash, rep.MinHashCPU)
	w.Flush()
}

func save(dir string, rep report) error {
	name, err := record.Save(dir, fmt.Sprintf("data-%d", rep.Rows), rep)
	if err == nil {
		fmt.Fprintln(os.Stderr, "report:", name)
	}
	return err
}
