package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/verify"
	"github.com/tunefleet/tunefleet/schemas"
)

// envProcessStart is set by the bench driver: when it started this process, in nanoseconds since 1970, so that loading counts too.
const envProcessStart = "BENCH_PROCESS_START"

func (a *app) benchCommand() *cobra.Command {
	var o verify.BenchOptions
	c := &cobra.Command{
		Use: "bench", Short: "Train a llama of 34 M parameters on random tokens and measure speed, memory and start-up", Args: exactArgs(),
		Long: "Train a llama of 34 M parameters (512 hidden, 8 layers, vocabulary 8192) on random tokens, 4 x 512 a step, AdamW, clipping at 1.0,\n" +
			"fp32, through the same engine as training stages. `go tool task bench` runs it alternating with PyTorch and prints the ratios.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.ProcessStart = time.Now()
			if v := os.Getenv(envProcessStart); v != "" {
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil {
					return schemas.Errorf(schemas.CodeUsage, envProcessStart, "%q is not a time in nanoseconds", v)
				}
				o.ProcessStart = time.Unix(0, n)
			}
			r, err := verify.Bench(cmd.Context(), o)
			if err != nil {
				return err
			}
			if a.json {
				return a.print(r)
			}
			_, err = fmt.Fprintf(a.out, "%.0f tokens/s on %d threads; first step began after %.2f s and ended after %.2f s; peak memory %d MiB\n",
				r.TokensPerSecond, r.Threads, r.ReadyS, r.FirstStepS, r.PeakRSSBytes>>20)
			return err
		},
	}
	c.AddCommand(a.benchZeroCommand())
	c.Flags().IntVar(&o.Threads, "threads", 0, "CPU threads (0: all)")
	c.Flags().IntVar(&o.Steps, "steps", 4, "timed steps; one more comes first")
	c.Flags().StringVar(&o.Backend, "backend", "", "shared object of another kernel backend")
	return c
}
