// Command gpucheck checks a kernel backend on a machine that has neither Go nor the references' programs. It is small, so that it can be
// carried there:
//
//	gpucheck ops [--backend cuda] [--dtype f32] [--seed N] [--op NAME]   every operation against the oracle and central differences
//	gpucheck perf [--backend cuda] [--dtype f32]             their times
//	gpucheck models [--dtype fp32] DIR...                    logits, loss and gradients of reference model folders
//	gpucheck train DIR...                                    training runs of reference folders
//	gpucheck bits DIR...                                     the same runs twice: every emitted file has the same bytes
//	gpucheck ranks [--backend cuda]                          ZeRO-3 by several ranks, on one device and on all by NCCL, against one rank
//	gpucheck graphs [--backend cuda]                         a training with recorded graphs against one without: equal bits, and times
//
// On an NVIDIA card, TUNEFLEET_CUDA_ATTENTION=tiles checks attention by our own kernels, =cudnn demands cuDNN's (kernels/cuda/README.md).
//
// Results are JSON lines on standard output; it exits 1 when something failed, 2 when it was called wrongly.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/verify"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// errFailed is a check that did not pass; its lines are out already.
var errFailed = errors.New("failed")

type checker struct {
	backend, dtype, op string
	seed               uint64
	out                *json.Encoder
	text               func(string) // says a line that is no JSON
	failed, count      int
	steps              int // of the training with graphs
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &checker{out: json.NewEncoder(stdout), text: func(s string) { _, _ = io.WriteString(stdout, s) }}
	commands := map[string]func(context.Context, []string) error{"ops": c.ops, "perf": c.perf, "models": c.models, "train": c.train, "bits": c.bits, "ranks": c.ranks, "rank": c.rank,
		"graphs": c.graphs}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(stderr, "usage: gpucheck ops|perf|models|train|bits|ranks|graphs [--backend cuda] [--dtype f32] [--seed N] [DIR...]")
		return 2
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.backend, "backend", kernels.CUDA, "cuda, cpu, or the path of a backend's shared object")
	f.StringVar(&c.dtype, "dtype", "f32", "f32, bf16 or f16")
	f.StringVar(&c.op, "op", "", "one operation only")
	f.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano()), "of random operands")
	f.IntVar(&c.steps, "steps", 30, "of graphs' trainings: 8 let every sequence of operations be measured both ways")
	if err := f.Parse(args[1:]); err != nil {
		return 2
	}
	start := time.Now()
	err := commands[args[0]](ctx, f.Args())
	fmt.Fprintf(stderr, "%s %s: %d checked, %d failed, %.1f s, seed %d\n", args[0], c.dtype, c.count, c.failed, time.Since(start).Seconds(), c.seed)
	if err != nil && !errors.Is(err, errFailed) {
		fmt.Fprintln(stderr, "gpucheck:", err)
	}
	if err != nil || c.failed > 0 || c.count == 0 {
		return 1
	}
	return 0
}

func (c *checker) line(v any, ok bool) {
	c.count++
	if !ok {
		c.failed++
	}
	_ = c.out.Encode(v)
}

func (c *checker) kernels(modes ...kerneltest.Mode) (err error) {
	dt, known := map[string]kernels.DType{"f32": kernels.F32, "bf16": kernels.BF16, "f16": kernels.F16}[c.dtype]
	if !known {
		return fmt.Errorf("no element type %q", c.dtype)
	}
	d, err := kernels.Open(kernels.Options{Backend: c.backend})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for _, mode := range modes {
		_, err := kerneltest.Run(d, mode, kerneltest.Options{Op: c.op, DType: dt, Seed: c.seed, F32: 1e-5, Each: func(r kerneltest.Result) {
			c.line(struct {
				Mode kerneltest.Mode `json:"mode"`
				kerneltest.Result
			}{mode, r}, r.Status == kerneltest.OK)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) ops(_ context.Context, _ []string) error {
	return c.kernels(kerneltest.Support, kerneltest.Test, kerneltest.Grad)
}
func (c *checker) perf(_ context.Context, _ []string) error { return c.kernels(kerneltest.Perf) }

// options of a verification; its names of element types are those of configurations.
func (c *checker) options() verify.Options {
	o := verify.Options{Backend: c.backend, DType: c.dtype}
	if o.DType == "f32" {
		o.DType = "fp32"
	}
	return o
}

// report writes what failed and how near the limit the rest came.
func (c *checker) report(dir string, r *verify.Report, err error) {
	type row struct {
		Dir      string       `json:"dir"`
		Pass     bool         `json:"pass"`
		Error    string       `json:"error,omitempty"`
		Compared int          `json:"compared"`
		Worst    *verify.Row  `json:"worst,omitempty"`
		Bad      []verify.Row `json:"bad,omitempty"`
	}
	if err != nil {
		c.line(row{Dir: dir, Error: err.Error()}, false)
		return
	}
	bad := slices.DeleteFunc(slices.Clone(r.Rows), func(x verify.Row) bool { return x.OK })
	c.line(row{Dir: dir, Pass: r.Pass, Compared: r.Compared, Worst: r.Worst, Bad: bad}, r.Pass)
}

func (c *checker) models(ctx context.Context, dirs []string) error {
	for _, d := range dirs {
		// An architecture that the engine lacks says nothing about the device.
		if config, err := os.ReadFile(filepath.Join(d, "config.json")); err == nil {
			if _, err := zoo.New(config); err != nil {
				_ = c.out.Encode(map[string]string{"dir": d, "skipped": err.Error()})
				continue
			}
		}
		r, err := verify.VerifyModel(ctx, d, c.options())
		c.report(d, r, err)
	}
	return nil
}

func (c *checker) train(ctx context.Context, dirs []string) error {
	for _, d := range dirs {
		o := c.options()
		o.DType = ""
		r, err := verify.VerifyTrain(ctx, d, o)
		c.report(d, r, err)
	}
	return nil
}

func (c *checker) bits(ctx context.Context, dirs []string) (err error) {
	tmp, err := os.MkdirTemp("", "gpucheck-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	for _, d := range dirs {
		var emitted [2]string
		for i := range emitted {
			emitted[i] = filepath.Join(tmp, fmt.Sprint(i), filepath.Base(d))
			if err := os.MkdirAll(emitted[i], 0o755); err != nil {
				return err
			}
			o := c.options()
			o.DType, o.Emit = "", emitted[i]
			if _, err := verify.VerifyTrain(ctx, d, o); err != nil {
				return err
			}
		}
		files, different, err := compare(emitted[0], emitted[1])
		if err != nil {
			return err
		}
		c.line(map[string]any{"dir": d, "files": files, "different": different}, files > 0 && len(different) == 0)
	}
	return nil
}

// compare names the files below a that b lacks or has with other bytes.
func compare(a, b string) (files int, different []string, err error) {
	err = fs.WalkDir(os.DirFS(a), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		one, err := os.ReadFile(filepath.Join(a, p))
		if err != nil {
			return err
		}
		two, err := os.ReadFile(filepath.Join(b, p))
		if err != nil || !bytes.Equal(one, two) {
			different = append(different, strings.TrimPrefix(p, "./"))
		}
		return nil
	})
	return files, different, err
}
