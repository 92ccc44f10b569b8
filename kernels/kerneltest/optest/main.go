// Command optest tests and measures the operations of a kernel backend, one by one:
//
//	go run ./kernels/kerneltest/optest -mode test|grad|perf|support [-backend cpu|cuda-host|PATH] [-op NAME] [-dtype f32] [-json]
//
// Results go to standard output; it exits 1 when a case fails and 2 when it is called wrongly.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("optest", flag.ContinueOnError)
	fs.SetOutput(stderr)
	mode := fs.String("mode", "test", "test: against the oracle; grad: against central differences; perf: time; support: what there is")
	backend := fs.String("backend", "cpu", "cpu, cuda-host (the CUDA kernels on an emulation, built when needed), cuda-host-watched (each access to memory is looked at), or the path of a backend's shared object")
	op := fs.String("op", "", "one operation only, by its name in tunefleet.h")
	dtype := fs.String("dtype", "f32", "element type of operands: f32, bf16, f16")
	threads := fs.Int("threads", 0, "CPU threads (0: all)")
	isa := fs.String("isa", "auto", "instruction set of the CPU backend: auto, scalar, avx2, avx512, neon")
	least := fs.Duration("time", 200*time.Millisecond, "how long perf measures a case")
	asJSON := fs.Bool("json", false, "one JSON object a line")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	dt, ok := map[string]kernels.DType{"f32": kernels.F32, "bf16": kernels.BF16, "f16": kernels.F16}[*dtype]
	set, known := map[string]kernels.ISA{"auto": kernels.ISAAuto, "scalar": kernels.ISAScalar, "avx2": kernels.ISAAVX2, "avx512": kernels.ISAAVX512, "neon": kernels.ISANEON}[*isa]
	if !ok || !known {
		fmt.Fprintf(stderr, "optest: no element type %q or instruction set %q\n", *dtype, *isa)
		return 2
	}
	apart := false
	build, emulated := map[string]func(context.Context) (string, error){"cuda-host": cudahost.Build, "cuda-host-watched": cudahost.BuildWatched}[*backend]
	if emulated {
		path, err := build(context.Background())
		if err != nil {
			fmt.Fprintln(stderr, "optest:", err)
			return 2
		}
		apart = *backend == "cuda-host-watched"
		*backend = path
	}
	d, err := kernels.Open(kernels.Options{Backend: *backend, Threads: *threads, ISA: set})
	if err != nil {
		fmt.Fprintln(stderr, "optest:", err)
		return 2
	}
	defer func() { _ = d.Close() }()
	failed, enc := 0, json.NewEncoder(stdout)
	rs, err := kerneltest.Run(d, kerneltest.Mode(*mode), kerneltest.Options{Op: *op, DType: dt, Apart: apart, MinTime: *least, Each: func(r kerneltest.Result) {
		if r.Status == kerneltest.Failed {
			failed++
		}
		if *asJSON {
			_ = enc.Encode(r)
			return
		}
		fmt.Fprintln(stdout, line(kerneltest.Mode(*mode), r))
	}})
	if err != nil {
		fmt.Fprintln(stderr, "optest:", err)
		return 2
	}
	fmt.Fprintf(stderr, "%d cases, %d failed\n", len(rs), failed)
	if failed > 0 {
		return 1
	}
	return 0
}

func line(mode kerneltest.Mode, r kerneltest.Result) string {
	head := fmt.Sprintf("%-20s %-34s %-5s %-11s", r.Op, r.Case, r.DType, r.Status)
	switch {
	case r.Error != "":
		return head + " " + r.Error
	case mode == kerneltest.Perf:
		return fmt.Sprintf("%s %10.1f us %8.1f GFLOP/s %7.1f GB/s", head, r.Micros, r.GFLOPS, r.GBps)
	case r.Output != "":
		return fmt.Sprintf("%s worst %.2g (%s)", head, r.Worst, r.Output)
	}
	return head
}
