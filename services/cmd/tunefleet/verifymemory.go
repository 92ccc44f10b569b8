package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/nvml"
	"github.com/tunefleet/tunefleet/schemas"
)

// memoryReport is a step that was run, and what it took.
type memoryReport struct {
	Device    string          `json:"device"`
	Model     string          `json:"model"`
	Method    string          `json:"method"`
	Seq       int             `json:"seq"`
	Recompute bool            `json:"recompute"`
	Footprint train.Footprint `json:"footprint"`
	// DeviceUsed is the most that the driver said was in use on the device, by all processes and the driver itself; 0 where it does not tell.
	DeviceUsed int64 `json:"device_used"`
	// RSS is the most memory that this process had resident, GoHeap what Go's runtime holds of it at the end, Before what was resident
	// before the device was opened. On a CPU the device's memory is part of RSS.
	RSS     int64   `json:"rss"`
	GoHeap  int64   `json:"go_heap"`
	Before  int64   `json:"rss_before"`
	Limit   int64   `json:"limit,omitempty"`
	Seconds float64 `json:"seconds"`
	Pass    bool    `json:"pass"`
}

// took is what counts against the limit.
func (r *memoryReport) took() int64 { return max(r.DeviceUsed, r.Footprint.Peak) }

func (a *app) verifyMemoryCommand() *cobra.Command {
	o := planOptions{worlds: 1}
	var device, limit string
	var recompute, force bool
	c := &cobra.Command{
		Use: "memory", Short: "Run one training step of a public model's shape, with random weights, and tell the most memory it took", Args: exactArgs(),
		Long: "Memory runs one real training step of a public model's shape, with random weights, and tells the most memory it took. A model of 7 billion\n" +
			"parameters takes gigabytes, and minutes on a CPU: what is planned is said first, and refused when it does not fit. `tunefleet plan` tells\n" +
			"the same without running anything.",
		Example: "  tunefleet verify memory --model llama-2-7b --method qlora --limit 6GiB\n  tunefleet verify memory --model config.json --method full --seq 512",
		RunE: func(cmd *cobra.Command, _ []string) error {
			most, err := parseBytes(limit)
			if err != nil {
				return err
			}
			stages, err := planStages(cmd.Context(), nil, o)
			if err != nil {
				return err
			}
			st := stages[0]
			if o.seq > 0 {
				st.seq = o.seq
			}
			st.stage.MicroBatch = max(1, o.microBatch)
			r := &memoryReport{Model: o.model, Method: o.method, Seq: st.seq, Recompute: recompute, Limit: most}
			if err := a.measureMemory(cmd.Context(), r, device, st, force); err != nil {
				return err
			}
			if a.json {
				err = a.print(r)
			} else {
				_, err = fmt.Fprintf(a.out, "%s %s, %d tokens on %s: %.2f GiB (allocated %.2f GiB), %.1f s; this process: %s resident, of that %s Go heap\n",
					r.Model, r.Method, r.Seq, r.Device, float64(r.took())/(1<<30), float64(r.Footprint.Peak)/(1<<30), r.Seconds, gib(r.RSS), gib(r.GoHeap))
			}
			if err == nil && !r.Pass {
				err = schemas.Errorf(schemas.CodeVerify, r.Method, "it took %d bytes, %d are the limit", r.took(), r.Limit)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&device, "device", kernels.Auto, "auto, cpu or cuda")
	f.StringVar(&o.model, "model", "llama-2-7b", "public model or config.json")
	f.StringVar(&o.method, "method", "lora", "full, lora, int8 or qlora")
	f.StringVar(&o.dtype, "dtype", "bf16", "fp32 or bf16")
	f.StringVar(&o.optim, "optim", "adamw", "optimizer, such as adamw_8bit")
	f.BoolVar(&o.pure, "pure-bf16", false, "hold trained weights in bf16 too")
	f.BoolVar(&o.byBlock, "by-block", false, "apply gradients block by block during the backward pass")
	f.IntVar(&o.seq, "seq", 0, "tokens of a sequence (default 2048)")
	f.IntVar(&o.microBatch, "micro-batch", 1, "sequences of a leaf")
	f.BoolVar(&recompute, "recompute", false, "keep only the input of each block and compute it again in the backward pass")
	f.StringVar(&limit, "limit", "", "fail above so much, such as 6GiB")
	f.BoolVar(&force, "force", false, "run it also when it is planned to take more memory than is free")
	return c
}

// measureMemory says what the step will take, refuses what does not fit unless force is set, and runs it.
func (a *app) measureMemory(ctx context.Context, r *memoryReport, kind string, st planned, force bool) (err error) {
	r.Before = peakRSS()
	dev, err := kernels.Open(kernels.Options{Backend: kind})
	if err != nil {
		return schemas.Errorf(schemas.CodeUnsupported, kind, "%v", err)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	info, err := dev.Info()
	if err != nil {
		return err
	}
	r.Device = info.Name
	c := train.MeasureConfig{Stage: st.stage, Model: st.model, World: 1, Seq: st.seq, Recompute: r.Recompute}
	need, err := train.Measure(ctx, c)
	if err != nil {
		return err
	}
	free := info.MemoryFree
	a.say("%s %s: one step of %d tokens on %s will take about %s (%s are free)", r.Model, r.Method, r.Seq, r.Device, gib(need.Peak+need.Threads), gib(free))
	if err := fits(need.Peak+need.Threads, free); err != nil && !force {
		return err
	}
	done := a.stepProgress(&c)
	defer done()
	return r.run(ctx, dev, info, c)
}

// fits refuses a step of need bytes where free are left; 0 is not known.
func fits(need, free int64) error {
	if free <= 0 || need <= free {
		return nil
	}
	return schemas.Errorf(schemas.CodeMemory, "", "the step would take %s, %s are free", gib(need), gib(free)).
		WithHint("--recompute, a shorter --seq, --method qlora or a smaller --model take less; --force runs it all the same; tunefleet plan tells what takes how much")
}

// stepProgress says every 5 s what the step does, until done.
func (a *app) stepProgress(c *train.MeasureConfig) (done func()) {
	var at atomic.Pointer[string]
	c.Progress = func(what string, done, total int64) {
		text := what
		if total > 1 {
			text = fmt.Sprintf("%s: %d %% done", what, 100*done/total)
		}
		at.Store(&text)
	}
	start, quit, gone := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				if text := at.Load(); text != nil {
					a.say("%s, %s so far", *text, time.Since(start).Round(time.Second))
				}
			}
		}
	}()
	return func() { close(quit); <-gone }
}

// run runs the step on a device and notes what it took.
func (r *memoryReport) run(ctx context.Context, dev *kernels.Device, info kernels.Info, c train.MeasureConfig) (err error) {
	peak, stop := watchMemory(nvml.Library, info.Backend == kernels.CUDA)
	start := time.Now()
	r.Footprint, err = train.MeasureOn(ctx, dev, c)
	stop()
	r.Seconds, r.DeviceUsed, r.RSS, r.GoHeap = time.Since(start).Seconds(), peak.Load(), peakRSS(), goHeap()
	r.Pass = r.Limit == 0 || r.took() <= r.Limit
	return err
}

// watchMemory notes the most memory that the driver says is in use on the machine's first GPU until stop, every 10 ms.
func watchMemory(library string, gpu bool) (peak *atomic.Int64, stop func()) {
	peak = new(atomic.Int64)
	lib, err := nvml.Open(library)
	if err != nil || !gpu {
		if err == nil {
			lib.Close()
		}
		return peak, func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if s, err := lib.Read(); err == nil && len(s) > 0 {
				peak.Store(max(peak.Load(), s[0].MemoryUsed))
			}
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	}()
	return peak, func() { close(quit); <-done; lib.Close() }
}
