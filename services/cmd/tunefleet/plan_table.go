package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/train"
)

// tableMemory is the memory of one device that the table plans for unless told otherwise: that of an 80 GB GPU.
const tableMemory = 80_000_000_000

// tableWorld is the most devices of the table unless told otherwise.
const tableWorld = 16

// recipe is one way to fine-tune in the table.
type recipe struct {
	name   string
	change func(o *planOptions)
	// upstream is LLaMA-Factory's figure in GB for models of 7 and 70 billion parameters (its README, "Hardware Requirement").
	upstream map[string]int64
}

func recipes() []recipe {
	gb := func(small, large int64) map[string]int64 {
		return map[string]int64{"llama-2-7b": small, "llama-2-70b": large}
	}
	return []recipe{
		{"full, fp32 masters", func(o *planOptions) { o.method, o.byBlock = "full", true }, gb(120, 1200)},
		{"full, pure bf16", func(o *planOptions) { o.method, o.byBlock, o.pure, o.optim = "full", true, true, "adamw_8bit" }, gb(60, 600)},
		{"lora", func(o *planOptions) { o.method = "lora" }, gb(16, 160)},
		{"qlora, int8", func(o *planOptions) { o.method = "int8" }, gb(10, 80)},
		{"qlora, nf4", func(o *planOptions) { o.method = "qlora" }, gb(6, 48)},
	}
}

// tableRow is the first way that fits of one method on one model.
type tableRow struct {
	Model  string `json:"model"`
	Method string `json:"method"`
	Optim  string `json:"optim"`
	// Devices of Memory bytes each are needed; the footprint is that of one of them.
	Devices   int             `json:"devices"`
	Memory    int64           `json:"memory"`
	Recompute bool            `json:"recompute"`
	Fits      bool            `json:"fits"`
	Why       string          `json:"why"`
	Footprint train.Footprint `json:"footprint"`
	// Total is the peak of all devices; Upstream LLaMA-Factory's figure, 0 where its table has none.
	Total    int64 `json:"total"`
	Upstream int64 `json:"upstream,omitempty"`
}

// planTable plans every recipe.
func (a *app) planTable(ctx context.Context, o planOptions, memory int64) error {
	if memory == 0 {
		memory = tableMemory
	}
	models := slices.Sorted(maps.Keys(publicConfigs()))
	if o.model != "" {
		models = []string{o.model}
	}
	var rows []tableRow
	for _, m := range models {
		for _, r := range recipes() {
			a.say("planning %s: %s", m, r.name)
			row, err := planRecipe(ctx, m, r, o, memory)
			if err != nil {
				return err
			}
			if a.json {
				if err := a.print(row); err != nil {
					return err
				}
			}
			rows = append(rows, row)
		}
	}
	if a.json {
		return nil
	}
	fmt.Fprintf(a.out, "1 x %d tokens a device, devices of %s\n", seqOr(o.seq), gigabytes(memory))
	t := newTable("MODEL", "METHOD", "OPTIMIZER", "DEVICES", "RECOMPUTE", "PEAK A DEVICE", "TOTAL", "LLAMA-FACTORY", "")
	for _, r := range rows {
		upstream := ""
		if r.Upstream > 0 {
			upstream = gigabytes(r.Upstream)
		}
		t.row(r.Model, r.Method, r.Optim, strconv.Itoa(r.Devices), yesNo(r.Recompute), gigabytes(r.Footprint.Peak), gigabytes(r.Total), upstream, r.Why)
	}
	return t.write(a.out)
}

func seqOr(seq int) int {
	if seq > 0 {
		return seq
	}
	return 2048
}

// gigabytes words bytes in units of 10^9, as LLaMA-Factory's table has them.
func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

// planRecipe finds the fewest devices that a recipe fits on, and of those ways the one that recomputes nothing if it fits. Where
// LLaMA-Factory has a figure, all devices together may not take more.
func planRecipe(ctx context.Context, model string, r recipe, o planOptions, memory int64) (tableRow, error) {
	o.model, o.dtype, o.optim = model, "bf16", "adamw"
	r.change(&o)
	row := tableRow{Model: model, Method: r.name, Optim: o.optim, Memory: memory, Upstream: r.upstream[model] * 1e9}
	least, without := 0.0, int64(0)
	for world := 1; world <= max(1, o.worlds); world *= 2 {
		if least/float64(world) > float64(memory) && 2*world <= o.worlds {
			continue // the model's state alone is more
		}
		o := o
		o.worlds = world
		p, err := planPublic(o)
		if err != nil {
			return row, err
		}
		for _, recompute := range []bool{false, true} {
			f, err := train.Measure(ctx, train.MeasureConfig{Stage: p[0].stage, Model: p[0].model, World: world, Seq: seqOr(o.seq), Recompute: recompute})
			if err != nil {
				return row, fmt.Errorf("cannot plan %s on %s: %w", r.name, model, err)
			}
			row.Devices, row.Recompute, row.Footprint, row.Total = world, recompute, f, int64(world)*f.Peak
			least = float64(world) * float64(f.Weights+f.Optimizer)
			row.Fits = f.Peak <= memory && (row.Upstream == 0 || row.Total < row.Upstream)
			if row.Fits {
				row.Why = "saves activations: they fit"
				if recompute {
					row.Why = fmt.Sprintf("recomputes: saving activations would take %s a device", gigabytes(without))
				}
				return row, nil
			}
			without = f.Peak
			if least/float64(world) > float64(memory) {
				break
			}
		}
	}
	row.Why = fmt.Sprintf("does not fit %d devices of %s (--max-world, --memory)", row.Devices, gigabytes(memory))
	return row, nil
}
