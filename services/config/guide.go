package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// GuideFlags are the command-line flags of the simpler form; zero values leave the file's.
type GuideFlags struct {
	OutputDir, LogDir    string
	DeviceMap            string
	FP16, BF16           bool
	GradientAccumulation int
	NumWorkers           int
	ReportTo             string
}

type guideFile struct {
	Model    guideModel    `json:"model"`
	Training guideTraining `json:"training"`
	Data     guideData     `json:"data"`

	Clean   schemas.CleanSpec    `json:"clean"`
	Sample  *schemas.SampleSpec  `json:"sample"`
	Augment *schemas.AugmentSpec `json:"augment"`
	Split   schemas.SplitSpec    `json:"split"`

	Name       string `json:"name"`
	Tenant     string `json:"tenant"`
	Pool       string `json:"pool"`
	Priority   int    `json:"priority"`
	OutputDir  string `json:"output_dir"`
	LogDir     string `json:"log_dir"`
	DeviceMap  string `json:"device_map"`
	NumWorkers int    `json:"num_workers"`
	ReportTo   string `json:"report_to"`
}

type guideModel struct {
	BaseModel    string   `json:"base_model"`
	LoraRank     int      `json:"lora_rank"`
	LoraAlpha    float64  `json:"lora_alpha"`
	LoraDropout  float64  `json:"lora_dropout"`
	LoraTargets  []string `json:"lora_targets"`
	FreezeLayers int      `json:"freeze_layers"`
}

type guideTraining struct {
	BatchSize            int     `json:"batch_size"`
	MicroBatchSize       int     `json:"micro_batch_size"`
	GradientAccumulation int     `json:"gradient_accumulation_steps"`
	LearningRate         float64 `json:"learning_rate"`
	Epochs               float64 `json:"epochs"`
	MaxSteps             int64   `json:"max_steps"`
	WarmupSteps          int64   `json:"warmup_steps"`
	WarmupRatio          float64 `json:"warmup_ratio"`
	WeightDecay          float64 `json:"weight_decay"`
	MaxGradNorm          float64 `json:"max_grad_norm"`
	Schedule             string  `json:"lr_scheduler_type"`
	Seed                 uint64  `json:"seed"`
	SaveSteps            int64   `json:"save_steps"`
	FP16                 bool    `json:"fp16"`
	BF16                 bool    `json:"bf16"`
	Precision            string  `json:"precision"`
}

type guideData struct {
	TrainPath string            `json:"train_path"`
	EvalPath  string            `json:"eval_path"`
	Format    string            `json:"format"`
	OnBadRow  string            `json:"on_bad_row"`
	Columns   map[string]string `json:"columns"`
	Template  string            `json:"template"`
	CutoffLen int               `json:"cutoff_len"`
	Packing   bool              `json:"packing"`
}

func guideDefaults() guideFile {
	var g guideFile
	g.Tenant, g.Pool = "default", "cpu"
	g.OutputDir, g.LogDir, g.DeviceMap, g.ReportTo = "output", "logs", "auto", "none"
	g.NumWorkers = 1
	g.Training.Epochs, g.Training.MaxGradNorm, g.Training.Schedule, g.Training.Seed, g.Training.SaveSteps = 3, 1, "linear", 42, 50
	return g
}

// loadGuide resolves the model/training/data form to the same RunSpec that a spec file gives.
func loadGuide(ctx context.Context, root *node, p *problems, c *collector, f GuideFlags) (*Resolved, error) {
	g := guideDefaults()
	fileDecoder(ctx, p, c).decode(root, "", reflect.ValueOf(&g).Elem())
	g.apply(f)
	hard := append(g.refuse(), g.missing(c)...)
	micro, leaves, nominal := g.batches(root, p)
	g.check(root, p)
	if err := p.with(hard); err != nil {
		return nil, err
	}
	folder, model, err := c.model(ctx, g.Model.BaseModel, "")
	if err != nil {
		return nil, err
	}
	if err := checkModelFolder(folder); err != nil {
		return nil, err
	}
	base, err := c.ref(ctx, folder, modelFile)
	if err != nil {
		return nil, err
	}
	tokenizer, err := c.ref(ctx, folder, func(n string) bool { return n == "tokenizer.json" || n == "tokenizer_config.json" })
	if err != nil || !slices.ContainsFunc(tokenizer.Files, func(f schemas.File) bool { return f.Path == "tokenizer.json" }) {
		return nil, schemas.Errorf(schemas.CodeModel, folder, "has no tokenizer.json").WithHint("save the fast tokenizer beside the weights")
	}
	if g.Data.CutoffLen == 0 {
		g.Data.CutoffLen = cutoff(folder)
	}
	if g.Data.Template == "" {
		g.Data.Template = nonEmpty(model.Template, "default")
	}
	b := guideBuilder{g: &g, c: c, tokenizer: *tokenizer, base: base, micro: micro, leaves: leaves, nominal: nominal}
	spec, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	if err := validate(p.file, spec); err != nil {
		return nil, err
	}
	notes := []string{
		fmt.Sprintf("base model: %s", folder),
		fmt.Sprintf("batch: %d sequences a step = %d leaves of %d (fixed; dealt over whatever number of workers there is)", micro*leaves, leaves, micro),
		fmt.Sprintf("data: %s form, template %s, at most %d tokens a sequence", b.form, g.Data.Template, g.Data.CutoffLen),
	}
	return &Resolved{Form: FormGuide, Spec: spec, Inputs: c.inputs, Output: g.OutputDir, Logs: g.LogDir, Workers: g.NumWorkers, Device: g.DeviceMap, ReportTo: g.ReportTo, Notes: notes}, nil
}

func (g *guideFile) apply(f GuideFlags) {
	str := func(dst *string, v string) {
		if v != "" {
			*dst = v
		}
	}
	str(&g.OutputDir, f.OutputDir)
	str(&g.LogDir, f.LogDir)
	str(&g.DeviceMap, f.DeviceMap)
	str(&g.ReportTo, f.ReportTo)
	g.Training.FP16 = g.Training.FP16 || f.FP16
	g.Training.BF16 = g.Training.BF16 || f.BF16
	if f.GradientAccumulation != 0 {
		g.Training.GradientAccumulation = f.GradientAccumulation
	}
	if f.NumWorkers != 0 {
		g.NumWorkers = f.NumWorkers
	}
}

// refuse names what is known but not built.
func (g *guideFile) refuse() (errs []error) {
	no := func(place, what, hint string) {
		errs = append(errs, schemas.Errorf(schemas.CodeUnsupported, place, "%s is not supported by this version", what).WithHint("%s", hint))
	}
	switch {
	case g.Training.FP16 && g.Training.BF16:
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "fp16, bf16", "choose one of them"))
	case g.Training.Precision != "" && (g.Training.FP16 || g.Training.BF16):
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "precision", "choose either it or one of fp16, bf16"))
	}
	switch g.ReportTo {
	case "none", "otlp":
	default:
		no("report_to", fmt.Sprintf("reporting to %q", g.ReportTo), "use none, or otlp with the OTEL_EXPORTER_OTLP_* variables")
	}
	switch g.DeviceMap {
	case "auto", "cpu", "cuda":
	default:
		no("device_map", fmt.Sprintf("device map %q", g.DeviceMap), "use auto, cpu or cuda; CUDA_VISIBLE_DEVICES says which GPU")
	}
	return errs
}

// missing names the model, the template and the data files that are not there, as far as that is seen without fetching or reading anything.
func (g *guideFile) missing(c *collector) (errs []error) {
	if name := g.Model.BaseModel; name != "" {
		switch folder := c.localModel(name); {
		case folder != "":
			if err := checkModelFolder(folder); err != nil {
				errs = append(errs, err)
			}
		case isPath(name):
			errs = append(errs, c.noFolder(name))
		}
	}
	for _, p := range []string{g.Data.TrainPath, g.Data.EvalPath} {
		if p == "" || remote.IsAddress(p) {
			continue
		}
		if _, err := os.Stat(c.resolve(p)); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, schemas.Errorf(schemas.CodeNotFound, p, "no such file or folder"))
		}
	}
	if t := g.Data.Template; t != "" {
		if _, err := data.TemplateByName(t); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// batches resolves the three ways to give the batch to (micro-batch, leaves, nominal world); batch_size is global (DESIGN 7).
func (g *guideFile) batches(root *node, p *problems) (micro, leaves, nominal int) {
	t := g.Training
	training := at(root, "training")
	for _, key := range []string{"batch_size", "micro_batch_size", "gradient_accumulation_steps"} {
		// What is left out has a default; 0 has none.
		if n := training.values[key]; n != nil && n.text == "0" {
			p.add(n, "training.%s is 0, expected 1..%d", key, 1<<20)
			return 1, 1, 1
		}
	}
	at := at(root, "training", "batch_size")
	for _, v := range []int{t.BatchSize, t.MicroBatchSize, t.GradientAccumulation} {
		if v < 0 || v > 1<<20 {
			p.add(at, "training: batch_size, micro_batch_size and gradient_accumulation_steps must lie in 1..%d", 1<<20)
			return 1, 1, 1
		}
	}
	batch, micro, accumulate := t.BatchSize, t.MicroBatchSize, t.GradientAccumulation
	switch {
	case batch == 0 && micro == 0:
		micro, batch = 1, 8*max(1, accumulate)
		if accumulate > 0 {
			batch = accumulate
		}
	case batch == 0:
		batch = micro * max(1, accumulate)
	case micro == 0 && accumulate > 0:
		if batch%accumulate != 0 {
			p.add(at, "training.batch_size %d (global) is no multiple of gradient_accumulation_steps %d", batch, accumulate)
			return 1, 1, 1
		}
		micro = batch / accumulate
	case micro == 0:
		micro = 1
	}
	if batch%micro != 0 {
		p.add(at, "training.batch_size %d (global) is no multiple of training.micro_batch_size %d", batch, micro)
		return 1, 1, 1
	}
	leaves, nominal = batch/micro, 1
	if accumulate > 0 {
		if leaves%accumulate != 0 {
			p.add(at, "training.batch_size %d (global) is not micro_batch_size %d x gradient_accumulation_steps %d x a whole number of workers", batch, micro, accumulate)
			return 1, 1, 1
		}
		nominal = leaves / accumulate
	}
	return micro, leaves, nominal
}

func (g *guideFile) check(root *node, p *problems) {
	bad := func(section, key, format string, args ...any) {
		p.add(at(root, section, key), section+"."+key+" "+format, args...)
	}
	t, m := g.Training, g.Model
	if m.BaseModel == "" {
		bad("model", "base_model", "is missing: give a folder or a model name")
	}
	if m.LoraRank < 0 || m.LoraRank > 4096 {
		bad("model", "lora_rank", "is %d, expected 0 (no LoRA) to 4096", m.LoraRank)
	}
	if m.LoraDropout < 0 || m.LoraDropout >= 1 {
		bad("model", "lora_dropout", "is %g, expected 0 <= x < 1", m.LoraDropout)
	}
	if m.FreezeLayers < 0 {
		bad("model", "freeze_layers", "is %d, expected the number of first layers to freeze", m.FreezeLayers)
	}
	if at(root, "training", "learning_rate") == at(root, "training") {
		bad("training", "learning_rate", "is missing: usual are 1e-4 with LoRA and 1e-5 without")
	} else if t.LearningRate <= 0 || t.LearningRate > 1 {
		bad("training", "learning_rate", "is %g, expected 0 < x <= 1", t.LearningRate)
	}
	if t.Epochs <= 0 && t.MaxSteps <= 0 {
		bad("training", "epochs", "is %g, expected a positive number", t.Epochs)
	}
	if t.WarmupSteps < 0 {
		bad("training", "warmup_steps", "is %d, expected 0 or more", t.WarmupSteps)
	}
	if t.WarmupRatio < 0 || t.WarmupRatio > 1 {
		bad("training", "warmup_ratio", "is %g, expected 0..1", t.WarmupRatio)
	}
	if t.WeightDecay < 0 || t.MaxGradNorm < 0 {
		bad("training", "weight_decay", "and max_grad_norm must not be negative")
	}
	if kinds := []string{"constant", "linear", "cosine"}; !slices.Contains(kinds, t.Schedule) {
		bad("training", "lr_scheduler_type", "is %q, expected one of %s%s", t.Schedule, strings.Join(kinds, ", "), didYouMean(t.Schedule, kinds))
	}
	if t.SaveSteps < 0 {
		bad("training", "save_steps", "is %d, expected 1 or more, or 0 for an interval by measured cost", t.SaveSteps)
	}
	if g.Data.TrainPath == "" {
		bad("data", "train_path", "is missing")
	}
	if g.Data.EvalPath != "" && g.splits() {
		bad("data", "eval_path", "cannot be given together with split.eval or split.folds")
	}
	if g.Data.CutoffLen < 0 || g.Data.CutoffLen > 1<<20 {
		bad("data", "cutoff_len", "is %d, expected 1 to %d", g.Data.CutoffLen, 1<<20)
	}
	if g.NumWorkers < 1 || g.NumWorkers > 64 {
		p.add(at(root, "num_workers"), "num_workers is %d, expected 1 to 64", g.NumWorkers)
	}
	if g.Priority < 0 || g.Priority > 3 {
		p.add(at(root, "priority"), "priority is %d, expected 0 (first) to 3 (last)", g.Priority)
	}
}

// splits reports whether rows of the training file are held out.
func (g *guideFile) splits() bool { return g.Split.Eval > 0 || g.Split.Folds > 0 }

func at(root *node, path ...string) *node {
	n := root
	for _, k := range path {
		next := n.values[k]
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

type guideBuilder struct {
	g                      *guideFile
	c                      *collector
	tokenizer              schemas.Ref
	base                   *schemas.Ref
	micro, leaves, nominal int
	form                   string
}

func (b *guideBuilder) build(ctx context.Context) (*schemas.RunSpec, error) {
	g, t := b.g, b.g.Training
	spec := &schemas.RunSpec{Version: schemas.SpecVersion, Tenant: g.Tenant, Name: g.Name, Pool: g.Pool, Priority: g.Priority, Seed: t.Seed}
	if spec.Name == "" {
		spec.Name = strings.TrimSuffix(filepath.Base(g.Data.TrainPath), filepath.Ext(g.Data.TrainPath))
	}
	prep, err := b.prep(ctx, g.Data.TrainPath)
	if err != nil {
		return nil, err
	}
	train := &schemas.TrainStage{
		Objective: b.form, Data: "prep/train", Model: schemas.ModelSpec{Base: b.base}, Method: "full", FreezeLayers: g.Model.FreezeLayers,
		Epochs: t.Epochs, Steps: t.MaxSteps, MicroBatch: b.micro, Leaves: b.leaves, DType: "fp32", Sharding: "auto", Reduction: "canonical",
		CommitEvery: cmp.Or(t.SaveSteps, 50), CommitAuto: t.SaveSteps == 0, World: schemas.World{Min: 1, Max: min(g.NumWorkers, b.leaves), Nominal: b.nominal},
		Optim: schemas.OptimSpec{Name: "adamw", LR: t.LearningRate, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: t.WeightDecay,
			MaxGradNorm: t.MaxGradNorm, Schedule: t.Schedule, WarmupSteps: t.WarmupSteps, WarmupRatio: t.WarmupRatio},
	}
	switch {
	case t.BF16:
		train.DType = "bf16"
	case t.FP16:
		train.DType = "fp16"
	case t.Precision != "":
		train.DType = t.Precision
	}
	if t.MaxGradNorm == 0 {
		train.Optim.MaxGradNorm = schemas.NoClip
	}
	formats := []string{"merged"}
	switch {
	case g.Model.LoraRank > 0:
		alpha := g.Model.LoraAlpha
		if alpha == 0 {
			alpha = 2 * float64(g.Model.LoraRank)
		}
		train.Method, formats = "lora", []string{"peft", "merged"}
		train.LoRA = &schemas.LoRA{Rank: g.Model.LoraRank, Alpha: alpha, Dropout: g.Model.LoraDropout, Targets: g.Model.LoraTargets}
	case g.Model.FreezeLayers > 0:
		train.Method = "freeze"
	}
	q := curation{g.Clean, g.Sample, g.Augment}
	q.apply(prep, true)
	prep.Split = g.Split
	if g.splits() {
		held := prep.Outputs[0]
		held.Name, held.Split = "eval", "eval"
		prep.Outputs = append(prep.Outputs, held)
		train.Eval = "prep/eval"
	}
	stages := []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep, Prep: prep}}
	needs := []string{"prep"}
	if g.Data.EvalPath != "" {
		form := b.form
		held, err := b.prep(ctx, g.Data.EvalPath)
		if err != nil {
			return nil, err
		}
		if b.form != form {
			return nil, schemas.Errorf(schemas.CodeData, g.Data.EvalPath, "has other columns than data.train_path")
		}
		held.Outputs[0].Name = "eval"
		q.apply(held, false)
		stages = append(stages, schemas.Stage{Name: "prep-eval", Kind: schemas.KindPrep, Prep: held})
		needs = append(needs, "prep-eval")
		train.Eval = "prep-eval/eval"
	}
	stages = append(stages,
		schemas.Stage{Name: "train", Kind: schemas.KindTrain, Needs: needs, Train: train},
		schemas.Stage{Name: "export", Kind: schemas.KindExport, Needs: []string{"train"}, Export: &schemas.ExportStage{
			From: "stage:train", Formats: formats, Tokenizer: &b.tokenizer}})
	spec.Stages = stages
	return spec, nil
}

// prep makes the preparation of one data file, with everything that it holds in its train split.
func (b *guideBuilder) prep(ctx context.Context, path string) (*schemas.PrepStage, error) {
	path, err := b.c.data(ctx, path)
	if err != nil {
		return nil, err
	}
	ref, err := b.c.ref(ctx, path, dataFile)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for _, f := range ref.Files {
		total += f.Bytes
	}
	if total == 0 {
		return nil, schemas.Errorf(schemas.CodeData, path, "the data set is empty")
	}
	form, columns := "pt", b.g.Data.Columns
	if len(columns) == 0 {
		if form, columns, err = sniff(ctx, b.c.resolve(path), b.g.Data.Format); err != nil {
			return nil, err
		}
	} else if columns["response"] != "" || columns["label"] != "" {
		form = "sft"
	}
	b.form = form
	out := schemas.PrepOutput{Name: "train", Form: form, Split: "train", CutoffLen: b.g.Data.CutoffLen, Packing: b.g.Data.Packing, Neat: b.g.Data.Packing}
	if form == "sft" {
		out.Template = b.g.Data.Template
	}
	return &schemas.PrepStage{Data: *ref, Format: b.g.Data.Format, OnBadRow: b.g.Data.OnBadRow, Columns: columns, Tokenizer: b.tokenizer,
		Outputs: []schemas.PrepOutput{out}, Parts: int(min(16, 1+total/(4<<20)))}, nil
}

func dataFile(name string) bool {
	return source.FormatOf(name) != "" && filepath.Base(name) != source.InfoName
}

// cutoff is the model's context length, at most 2,048.
func cutoff(folder string) int {
	data, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		return 2048
	}
	n, ok := positions(data)
	if !ok {
		return 2048
	}
	return int(math.Min(2048, float64(n)))
}
