package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/verify"
	"github.com/tunefleet/tunefleet/schemas"
)

// Bars of bench zero: how far from an n-th a rank's model state may be, and what four ranks save.
const (
	zeroShare  = 0.05
	zeroSaving = 0.6
	zeroRanks  = 4
)

// zeroRow is what one number of ranks took.
type zeroRow struct {
	Ranks int `json:"ranks"`
	// Largest is the rank with the most; Predicted is what plan counts for it.
	Largest   train.Footprint `json:"largest"`
	Predicted train.Footprint `json:"predicted"`
	// Share is the largest rank's model state times the number of ranks, over that of one rank; Saving is how much less the rank takes in all
	// than one rank alone.
	Share  float64 `json:"share"`
	Saving float64 `json:"saving"`
	// RSS is the process's resident memory at most so far, all ranks together (0: not known), GoHeap what Go has of it now.
	RSS    int64 `json:"rss"`
	GoHeap int64 `json:"go_heap"`
	OK     bool  `json:"ok"`
}

func state(f train.Footprint) int64 { return f.Weights + f.Gradients + f.Optimizer }

func (a *app) benchZeroCommand() *cobra.Command {
	var seq int
	c := &cobra.Command{
		Use: "zero", Short: "Measure what a rank holds with ZeRO-3 on 1, 2 and 4 ranks, beside what plan predicts", Args: exactArgs(),
		Long: "Runs one step of full fine-tuning of the bench model (34 M parameters, AdamW, fp32) on 1, 2 and 4 ranks with ZeRO-3, each rank a goroutine\n" +
			"with a device of its own. Exits with 1 when a rank's model state (weights, gradients, optimizer) is not within 5 % of its share, when four\n" +
			"ranks do not save 60 % of what one takes in all, or when the prediction is more than 5 % off.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.benchZero(cmd.Context(), seq) },
	}
	c.Flags().IntVar(&seq, "seq", 128, "tokens of a rank's leaf")
	return c
}

func (a *app) benchZero(ctx context.Context, seq int) error {
	s := &schemas.TrainStage{Objective: "sft", Method: "full", MicroBatch: 1, Leaves: zeroRanks, DType: "fp32", Sharding: "zero3", Reduction: "canonical",
		Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "constant"}}
	var rows []zeroRow
	for ranks := 1; ranks <= zeroRanks; ranks *= 2 {
		a.say("%d ranks", ranks)
		c := train.MeasureConfig{Stage: s, Model: verify.BenchConfig(), World: ranks, Seq: seq, Recompute: true}
		took, err := train.MeasureRanks(ctx, c)
		if err != nil {
			return fmt.Errorf("cannot measure %d ranks: %w", ranks, err)
		}
		row := zeroRow{Ranks: ranks, Largest: took[0], GoHeap: goHeap(), RSS: peakRSS()}
		for _, f := range took {
			if state(f) > state(row.Largest) {
				row.Largest = f
			}
		}
		if row.Predicted, err = train.Measure(ctx, c); err != nil {
			return fmt.Errorf("cannot plan %d ranks: %w", ranks, err)
		}
		one := row
		if len(rows) > 0 {
			one = rows[0]
		}
		row.Share = float64(ranks) * float64(state(row.Largest)) / float64(state(one.Largest))
		row.Saving = 1 - float64(row.Largest.Peak)/float64(one.Largest.Peak)
		off := float64(row.Predicted.Peak)/float64(took[0].Peak) - 1
		row.OK = within(row.Share-1) && within(off) && (ranks < zeroRanks || row.Saving >= zeroSaving)
		rows = append(rows, row)
		runtime.GC()
	}
	if err := a.printZero(rows); err != nil {
		return err
	}
	for _, r := range rows {
		if !r.OK {
			return schemas.Errorf(schemas.CodeVerify, "", "with %d ranks a rank holds %.3f times its share and takes %.1f %% less in all than one alone", r.Ranks, r.Share, 100*r.Saving)
		}
	}
	return nil
}

func within(x float64) bool { return x <= zeroShare && x >= -zeroShare }

func (a *app) printZero(rows []zeroRow) error {
	if a.json {
		for _, r := range rows {
			if err := a.print(r); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable("RANKS", "STATE A RANK", "OF ITS SHARE", "WINDOW", "ACTIVATIONS", "PEAK A RANK", "PREDICTED", "STAGING", "SAVED A RANK", "RSS OF ALL", "GO HEAP", "")
	for _, r := range rows {
		f, ok := r.Largest, "ok"
		if !r.OK {
			ok = "MISSED"
		}
		t.row(strconv.Itoa(r.Ranks), gib(state(f)), fmt.Sprintf("%.3f", r.Share), gib(f.Window), gib(f.Activations), gib(f.Peak), gib(r.Predicted.Peak), gib(f.Staging),
			fmt.Sprintf("%.1f %%", 100*r.Saving), gib(r.RSS), gib(r.GoHeap), ok)
	}
	return t.write(a.out)
}

// goHeap is the memory of Go's objects, alive or not yet swept.
func goHeap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(s)
	var n int64
	for _, x := range s {
		if x.Value.Kind() == metrics.KindUint64 {
			n += int64(x.Value.Uint64())
		}
	}
	return n
}

// peakRSS is the most resident memory that the process has had, 0 where the system does not tell.
func peakRSS() int64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			var kib int64
			if _, err := fmt.Sscan(string(rest), &kib); err == nil {
				return kib << 10
			}
		}
	}
	return 0
}
