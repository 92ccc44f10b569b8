package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// maxPlanned is the most ranks that are planned: a pool has up to 10,000 workers.
const maxPlanned = 1 << 17

// planOptions are the flags of plan.
type planOptions struct {
	model, method, dtype    string
	optim                   string
	pure, byBlock, offload  bool
	away                    bool
	seq, microBatch, worlds int
	memory                  string
	table                   bool
}

func (a *app) planCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan [FILE] [key=value ...]", Short: "Tell the memory of training per rank before anything starts",
		Example: "  tunefleet plan run.yaml --memory 24GiB\n  tunefleet plan --model llama-2-7b --method full --pure-bf16 --optim adamw_8bit --by-block\n  tunefleet plan --table",
		Long: "Plan runs one step of every train stage of a file on a device without memory: the code that trains, with allocations counted. Without a\n" +
			"file it plans a method on a public model's shape: --model " + strings.Join(slices.Sorted(maps.Keys(publicConfigs())), ", ") + ", or the path of a config.json.",
		RunE: func(cmd *cobra.Command, args []string) error {
			memory, err := parseBytes(o.memory)
			if err != nil {
				return err
			}
			if o.worlds < 1 || o.worlds > maxPlanned {
				return schemas.Errorf(schemas.CodeUsage, "--max-world", "%d is not in 1..%d", o.worlds, maxPlanned)
			}
			if o.table {
				if len(args) > 0 {
					return schemas.Errorf(schemas.CodeUsage, "--table", "plans public models; a file has its own table without it")
				}
				if !cmd.Flags().Changed("max-world") {
					o.worlds = tableWorld
				}
				return a.planTable(cmd.Context(), o, memory)
			}
			stages, err := planStages(cmd.Context(), args, o)
			if err != nil {
				return err
			}
			for _, st := range stages {
				if err := a.planStage(cmd.Context(), st, o, memory); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.model, "model", "", "public model or config.json, instead of a file")
	f.StringVar(&o.method, "method", "lora", "with --model: full, lora, int8 or qlora")
	f.StringVar(&o.dtype, "dtype", "bf16", "with --model: fp32 or bf16")
	f.StringVar(&o.optim, "optim", "adamw", "with --model: optimizer, such as adamw_8bit")
	f.BoolVar(&o.pure, "pure-bf16", false, "with --model: hold trained weights in bf16 too")
	f.BoolVar(&o.offload, "offload-optimizer", false, "with --model: hold the optimizer's state in the host's memory")
	f.BoolVar(&o.away, "offload-activations", false, "with --model: hold the inputs of blocks in the host's memory until the backward pass, which computes blocks again")
	f.BoolVar(&o.byBlock, "by-block", false, "with --model: apply gradients block by block during the backward pass (one leaf a rank)")
	f.IntVar(&o.seq, "seq", 0, "tokens of a sequence (default: the file's cutoff, else 2048)")
	f.IntVar(&o.microBatch, "micro-batch", 0, "sequences of a leaf (default: the file's, else 1)")
	f.IntVar(&o.worlds, "max-world", 8, "most ranks to look at")
	f.BoolVar(&o.table, "table", false, "plan every method on every public model (or that of --model), beside LLaMA-Factory's own table")
	f.StringVar(&o.memory, "memory", "", "memory of one device, such as 24GiB: the first row that fits is marked")
	return c
}

// planned is one train stage to plan.
type planned struct {
	name  string
	stage *schemas.TrainStage
	model []byte
	seq   int
}

func planStages(ctx context.Context, args []string, o planOptions) ([]planned, error) {
	if len(args) == 0 {
		if o.model == "" {
			return nil, schemas.Errorf(schemas.CodeUsage, "", "plan needs a file or --model").WithHint("tunefleet plan run.yaml, or tunefleet plan --model llama-2-7b --method lora")
		}
		return planPublic(o)
	}
	r, err := config.Load(ctx, args[0], config.Options{Overrides: args[1:]})
	if err != nil {
		return nil, err
	}
	cutoff := map[string]int{}
	for _, st := range r.Spec.Stages {
		if st.Prep != nil {
			for _, out := range st.Prep.Outputs {
				cutoff[st.Name+"/"+out.Name] = out.CutoffLen
			}
		}
	}
	models := map[string][]byte{}
	var out []planned
	for i := range r.Spec.Stages {
		st := &r.Spec.Stages[i]
		if st.Train == nil {
			continue
		}
		model := []byte(st.Train.Model.Config)
		if from, ok := strings.CutPrefix(st.Train.Model.From, "stage:"); ok {
			model = models[from]
		}
		if base := st.Train.Model.Base; base != nil {
			if model, err = baseConfig(r, base); err != nil {
				return nil, err
			}
		}
		if len(model) == 0 {
			return nil, schemas.Errorf(schemas.CodeUnsupported, st.Name, "the shape of its model is not known before the run that it comes from is read").
				WithHint("tunefleet plan --model config.json plans from a model's config.json")
		}
		models[st.Name] = model
		if st.Train.Method == "" {
			st.Train.Method = "full"
		}
		out = append(out, planned{name: st.Name, stage: st.Train, model: model, seq: max(1, cutoff[st.Train.Data])})
	}
	return out, nil
}

// baseConfig reads the config.json of a base model given by its files.
func baseConfig(r *config.Resolved, base *schemas.Ref) ([]byte, error) {
	for _, f := range base.Files {
		if f.Path != "config.json" || f.Bytes > 1<<20 {
			continue
		}
		if i := slices.IndexFunc(r.Inputs, func(in config.Input) bool { return in.File.SHA256 == f.SHA256 }); i >= 0 {
			data, err := os.ReadFile(r.Inputs[i].Local)
			if err != nil {
				return nil, schemas.Errorf(schemas.CodeModel, r.Inputs[i].Local, "cannot read: %v", err)
			}
			return data, nil
		}
	}
	return nil, nil
}

func planPublic(o planOptions) ([]planned, error) {
	model, ok := publicConfigs()[strings.ToLower(o.model)]
	if !ok {
		data, err := os.ReadFile(o.model)
		if err != nil {
			names := slices.Sorted(maps.Keys(publicConfigs()))
			return nil, schemas.Errorf(schemas.CodeNotFound, o.model, "is neither a public model nor a file").WithHint("models: %s", strings.Join(names, ", "))
		}
		model = string(data)
	}
	s := &schemas.TrainStage{Objective: "sft", Method: "lora", MicroBatch: 1, Leaves: max(1, o.worlds), DType: o.dtype, PureBF16: o.pure, Sharding: "zero3", Reduction: "canonical", OffloadActivations: o.away,
		Optim: schemas.OptimSpec{Name: o.optim, LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1, Schedule: "cosine", ByBlock: o.byBlock, Offload: o.offload}, LoRA: &schemas.LoRA{Rank: 8, Alpha: 16}}
	switch o.method {
	case "lora":
	case "int8":
		s.Quant = &schemas.Quantization{Bits: 8, Type: "int8"}
	case "qlora":
		s.Quant = &schemas.Quantization{Bits: 4, Type: "nf4", Double: true}
	case "full":
		s.Method, s.LoRA = "full", nil
	default:
		return nil, schemas.Errorf(schemas.CodeUsage, "--method", "%q is not full, lora, int8 or qlora", o.method)
	}
	if o.dtype != "fp32" && o.dtype != "bf16" {
		return nil, schemas.Errorf(schemas.CodeUsage, "--dtype", "%q is not fp32 or bf16", o.dtype)
	}
	return []planned{{name: o.model + " " + o.method, stage: s, model: []byte(model), seq: 2048}}, nil
}

// planRow is one way to train a stage.
type planRow struct {
	Stage     string          `json:"stage"`
	Recompute bool            `json:"recompute"`
	Seq       int             `json:"seq"`
	Fits      *bool           `json:"fits,omitempty"`
	Footprint train.Footprint `json:"footprint"`
}

func (a *app) planStage(ctx context.Context, p planned, o planOptions, memory int64) error {
	if o.seq > 0 {
		p.seq = o.seq
	}
	s := *p.stage
	if o.microBatch > 0 {
		s.MicroBatch = o.microBatch
	}
	var rows []planRow
	for world := 1; world <= max(1, o.worlds); world *= 2 {
		for _, recompute := range []bool{false, true} {
			if s.OffloadActivations && !recompute {
				continue // there is nothing to offload without
			}
			f, err := train.Measure(ctx, train.MeasureConfig{Stage: &s, Model: p.model, World: world, Seq: p.seq, Recompute: recompute})
			if err != nil {
				return fmt.Errorf("cannot plan %s: %w", p.name, err)
			}
			row := planRow{Stage: p.name, Recompute: recompute, Seq: p.seq, Footprint: f}
			if memory > 0 {
				fits := f.Peak <= memory
				row.Fits = &fits
			}
			rows = append(rows, row)
		}
	}
	if a.json {
		for _, r := range rows {
			if err := a.print(r); err != nil {
				return err
			}
		}
		return nil
	}
	f := rows[0].Footprint
	fmt.Fprintf(a.out, "%s: %s parameters, %s trainable, %d x %d tokens, %s, %s\n", p.name, count(f.Parameters), count(f.Trainable), max(1, s.MicroBatch), p.seq, s.Method, nonEmpty(s.DType, "fp32"))
	t := newTable("RANKS", "SHARDING", "RECOMPUTE", "WEIGHTS", "GRADIENTS", "OPTIMIZER", "WINDOW", "ACTIVATIONS", "WORKSPACE", "PEAK A RANK", "")
	chosen := false
	for _, r := range rows {
		mark := ""
		if r.Fits != nil && *r.Fits && !chosen {
			mark, chosen = "<- fits first", true
		}
		x := r.Footprint
		t.row(strconv.Itoa(x.World), x.Sharding, yesNo(r.Recompute), gib(x.Weights), gib(x.Gradients), gib(x.Optimizer), gib(x.Window), gib(x.Activations), gib(x.Workspace), gib(x.Peak), mark)
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	if f.Host > 0 {
		fmt.Fprintf(a.out, "the optimizer's state is the host's: %s of its memory for the rank of %d, where the device has memory of its own\n", gib(f.Host), f.World)
	}
	if f.HostActivations > 0 {
		fmt.Fprintf(a.out, "the inputs of blocks are the host's until the backward pass: %s of its memory for each rank, where the device has memory of its own\n", gib(f.HostActivations))
	}
	switch {
	case memory > 0 && !chosen:
		fmt.Fprintf(a.out, "none of these fits into %s a device: more ranks (--max-world), shorter sequences, LoRA or a quantized base\n", gib(memory))
	case memory > 0:
		fmt.Fprintln(a.out, "fewest ranks first, and of those recomputing only where saving activations does not fit: it costs about a third of the time")
	}
	return nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// gib words bytes for people.
func gib(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

func count(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f B", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", float64(n)/1e6)
	}
	return strconv.FormatInt(n, 10)
}

// parseBytes reads "24GiB", "24GB" (taken for GiB, as device sizes are), "512MiB" or bytes; "" is 0.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	text, unit := strings.ToUpper(strings.TrimSpace(s)), int64(1)
	for _, u := range []struct {
		name string
		size int64
	}{{"TIB", 1 << 40}, {"GIB", 1 << 30}, {"MIB", 1 << 20}, {"KIB", 1 << 10}, {"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}, {"G", 1 << 30}, {"M", 1 << 20}} {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || !(x > 0) || x*float64(unit) > 1<<60 {
		return 0, schemas.Errorf(schemas.CodeUsage, "--memory", "%q is no size such as 24GiB", s)
	}
	return int64(x * float64(unit)), nil
}
