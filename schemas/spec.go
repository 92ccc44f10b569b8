package schemas

import (
	"encoding/json"
	"time"
)

// SpecVersion is the version of RunSpec that this build writes and reads.
const SpecVersion = 1

// MaxSpecBytes is the largest accepted spec in its JSON form (256 KiB).
const MaxSpecBytes = 256 << 10

// RunSpec is one submitted run, fully resolved and immutable: nothing in it is looked up again later. It is stored whole in the open
// object and copied beside HEAD when the run ends.
type RunSpec struct {
	// Version is SpecVersion.
	Version int `json:"version" jsonschema:"minimum=1"`
	// ID is the run id: a ULID, or the hash of tenant and idempotency key (see RunID). Filled by the front when empty.
	ID string `json:"id,omitempty"`
	// Tenant owns the run; lower-case name, see ValidName. Default "default".
	Tenant string `json:"tenant"`
	// Name is a label for people.
	Name string `json:"name,omitempty"`
	// Key is the caller's idempotency key: a second submit with the same tenant and key meets the same run.
	Key string `json:"key,omitempty"`
	// Pool is the worker pool of the train stages.
	Pool string `json:"pool"`
	// AuxPool serves prep, eval and export; default Pool.
	AuxPool string `json:"aux_pool,omitempty"`
	// Priority is 0 (first) to 3 (last).
	Priority int `json:"priority" jsonschema:"minimum=0,maximum=3"`
	// Seed drives every random choice of the run (order, initialization, dropout).
	Seed uint64 `json:"seed"`
	// Stages is the DAG in a topological order.
	Stages []Stage `json:"stages"`
	// NotBefore is the earliest start (UTC).
	NotBefore time.Time `json:"not_before,omitzero"`
	// After lists runs of the same tenant that must have ended first; a run whose parent did not end as it must is skipped.
	After []Dependency `json:"after,omitempty"`
	// MaxRuntimeS fails the run when it has not ended that many seconds after its first transition (0: no bound).
	MaxRuntimeS int64 `json:"max_runtime_s,omitempty"`
	// TraceParent is the W3C trace context of the submitter, continued by control and workers.
	TraceParent string `json:"traceparent,omitempty"`
}

// StageKind says which handler runs a stage.
type StageKind string

// The four kinds of stages.
const (
	KindPrep   StageKind = "prep"
	KindTrain  StageKind = "train"
	KindEval   StageKind = "eval"
	KindExport StageKind = "export"
)

// Kinds lists every stage kind.
func Kinds() []StageKind { return []StageKind{KindPrep, KindTrain, KindEval, KindExport} }

// Stage is a node of the run's DAG. Exactly the member that its Kind names is set.
type Stage struct {
	// Name is unique within the run, see ValidName.
	Name string    `json:"name"`
	Kind StageKind `json:"kind" jsonschema:"enum=prep,enum=train,enum=eval,enum=export"`
	// Needs names the stages that must have succeeded first.
	Needs  []string     `json:"needs,omitempty"`
	Prep   *PrepStage   `json:"prep,omitempty"`
	Train  *TrainStage  `json:"train,omitempty"`
	Eval   *EvalStage   `json:"eval,omitempty"`
	Export *ExportStage `json:"export,omitempty"`
}

// Ref names input files: either uploaded files by content (Files, stored under InputKey), or the output of a stage by URI:
// "stage:<name>" in this run, "run:<tenant>/<id>/<stage>" in another one.
type Ref struct {
	URI   string `json:"uri,omitempty"`
	Files []File `json:"files,omitempty"`
	// Origin is where Files were fetched from, pinned to a revision (hf://owner/name@<commit>); for people, nothing reads it.
	Origin string `json:"origin,omitempty"`
}

// File is one uploaded input file.
type File struct {
	// Path is relative, slash-separated, without "..".
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// PrepStage reads, cleans, splits, templates, tokenizes and packs data sets into token shards.
type PrepStage struct {
	// Data holds the rows, in files of any format.
	Data Ref `json:"data"`
	// Format is json, jsonl, csv, tsv, txt, parquet or arrow; empty: by file name.
	Format string `json:"format,omitempty"`
	// OnBadRow is fail (the default), skip or quarantine: what becomes of rows that cannot be read.
	OnBadRow string `json:"on_bad_row,omitempty" jsonschema:"enum=,enum=fail,enum=skip,enum=quarantine"`
	// Columns maps roles (text, prompt, query, response, system, label, group, explanation) to column names.
	Columns map[string]string `json:"columns,omitempty"`
	// Tokenizer holds tokenizer.json.
	Tokenizer Ref       `json:"tokenizer"`
	Clean     CleanSpec `json:"clean"`
	Split     SplitSpec `json:"split"`
	// Sample picks training rows, Augment adds changed copies of them.
	Sample  *SampleSpec  `json:"sample,omitempty"`
	Augment *AugmentSpec `json:"augment,omitempty"`
	// Outputs are the token data sets made from the rows.
	Outputs []PrepOutput `json:"outputs"`
	// Factory prepares data as LLaMA-Factory does; Data, Format, Columns and Split are unused then. Clean, Sample and Augment work on its
	// conversations: short answers are the labels, and the last question is what augmentation changes.
	Factory *FactorySpec `json:"factory,omitempty"`
	// Parts is the number of prep messages; each writes its own shard of every output.
	Parts int `json:"parts" jsonschema:"minimum=1"`
}

// SplitSpec cuts the rows into train, eval and test. Groups (phrase families) are never cut apart; classes are stratified.
type SplitSpec struct {
	Eval float64 `json:"eval,omitempty"`
	Test float64 `json:"test,omitempty"`
	// Folds, at least 2, makes part Fold (from 0) of that many the eval split: cross-validation, one run a fold.
	Folds int `json:"folds,omitempty"`
	Fold  int `json:"fold,omitempty"`
	// PermuteLabels shuffles the labels of the training rows: the control experiment that must not learn.
	PermuteLabels bool `json:"permute_labels,omitempty"`
}

// PrepOutput is one token data set.
type PrepOutput struct {
	// Name is referred to as "<prep stage>/<name>".
	Name string `json:"name"`
	// Form is "pt" (plain text, every token trained) or "sft" (templated, the response trained); with Factory also "pairwise", "kto" and
	// "predict" (prompts to be answered).
	Form string `json:"form" jsonschema:"enum=pt,enum=sft,enum=pairwise,enum=kto,enum=predict"`
	// Split is "train", "eval" or "test"; with Factory also "eval-<number>", an evaluation set by itself.
	Split string `json:"split"`
	// Template names the chat template (sft).
	Template string `json:"template,omitempty"`
	// CutoffLen is the maximum number of tokens of a sequence.
	CutoffLen int `json:"cutoff_len"`
	// Packing joins samples into sequences of CutoffLen tokens; documents stay separate for attention when Neat.
	Packing bool `json:"packing,omitempty"`
	Neat    bool `json:"neat,omitempty"`
	// Rows also stores the cleaned rows (for eval).
	Rows bool `json:"rows,omitempty"`
}

// TrainStage runs optimizer steps as a gang of seats.
type TrainStage struct {
	// Objective is one of Objectives: pretraining, supervised fine-tuning, reward model, preferences by pairs or single rows, and
	// reinforcement learning from the model's own completions. Pref, Reward and RL configure them.
	Objective string      `json:"objective" jsonschema:"enum=pt,enum=sft,enum=rm,enum=dpo,enum=kto,enum=ppo,enum=grpo"`
	Pref      *Preference `json:"pref,omitempty"`
	Reward    *Reward     `json:"reward,omitempty"`
	RL        *RL         `json:"rl,omitempty"`
	// Features refine the stage.
	Features *TrainFeatures `json:"features,omitempty"`
	// Data is "<prep stage>/<output>".
	Data string `json:"data"`
	// Eval is an optional "<prep stage>/<output>" whose loss is measured at the end.
	Eval string `json:"eval,omitempty"`
	// Evals are evaluation sets that are measured each by itself, beside Eval or without it.
	Evals []EvalSet `json:"evals,omitempty"`
	// EvalBatch is the number of sequences of an evaluation batch (default MicroBatch).
	EvalBatch int `json:"eval_batch,omitempty"`
	// EvalReduce is "tokens" (default), the mean over all labels; "batches", the mean over batches of their means, as transformers' Trainer
	// has it; or "rows", which weighs the means of batches by their rows.
	EvalReduce string `json:"eval_reduce,omitempty" jsonschema:"enum=,enum=tokens,enum=batches,enum=rows"`
	// EvalEachEpoch evaluates after every epoch, beside what Features.EvalEvery says.
	EvalEachEpoch bool `json:"eval_each_epoch,omitempty"`
	// EvalOnStart also evaluates before the first step. EvalOnly trains nothing: the stage evaluates what it would start from, and ends.
	EvalOnStart bool `json:"eval_on_start,omitempty"`
	EvalOnly    bool `json:"eval_only,omitempty"`
	// EvalAccuracy also measures the share of labels that are the likeliest token.
	EvalAccuracy bool `json:"eval_accuracy,omitempty"`
	// EvalGenerate answers the prompts of Eval, an output of the form "predict", and scores the answers (ROUGE, BLEU) in place of a loss.
	EvalGenerate *Generation `json:"eval_generate,omitempty"`
	// EvalPad follows the prompts of EvalGenerate, whose answers then begin behind it, as in LLaMA-Factory's evaluations while it trains; nil:
	// answers follow the prompts. EvalLast, in place of EvalGenerate, is how the last evaluation answers, behind the prompts, unless one of
	// those while it trains is due.
	EvalPad  *Padding    `json:"eval_pad,omitempty"`
	EvalLast *Generation `json:"eval_last,omitempty"`
	// Order says how samples are dealt to leaves; nil: a shuffle by Philox, each epoch cut into global batches.
	Order *SampleOrder `json:"order,omitempty"`
	// Pad, when not nil, fills the sequences of a leaf on the right to one length; nil: no padding is computed.
	Pad *Padding `json:"pad,omitempty"`
	// Init says how new adapters and value heads are drawn; nil: by Philox from the run's seed.
	Init  *InitialDraw `json:"init,omitempty"`
	Model ModelSpec    `json:"model"`
	// Method is one of Methods; the member of its name holds its options.
	Method     string      `json:"method" jsonschema:"enum=full,enum=freeze,enum=lora,enum=oft,enum=bottleneck"`
	LoRA       *LoRA       `json:"lora,omitempty"`
	OFT        *OFT        `json:"oft,omitempty"`
	Bottleneck *Bottleneck `json:"bottleneck,omitempty"`
	Freeze     *Freeze     `json:"freeze,omitempty"`
	// FreezeLayers freezes the first N blocks (with adapters: they get none).
	FreezeLayers int `json:"freeze_layers,omitempty"`
	// Quant stores the frozen base in few bits.
	Quant *Quantization `json:"quant,omitempty"`
	// Adapters are PEFT folders of the base. All but the last are merged into it, and training goes on with the last; with
	// CreateNewAdapter all are merged and a new one is trained.
	Adapters         []Ref `json:"adapters,omitempty"`
	CreateNewAdapter bool  `json:"create_new_adapter,omitempty"`
	// ExpandBlocks inserts this many copies of blocks, spread evenly, that pass their input on until they are trained (LLaMA-Pro,
	// https://arxiv.org/abs/2401.02415).
	ExpandBlocks int `json:"expand_blocks,omitempty"`
	// Epochs or Steps ends the stage; Steps wins when positive.
	Epochs float64 `json:"epochs,omitempty"`
	Steps  int64   `json:"steps,omitempty"`
	// MicroBatch is the number of sequences of a leaf; Leaves the number of leaves of a step: the global batch is their product.
	MicroBatch int       `json:"micro_batch" jsonschema:"minimum=1"`
	Leaves     int       `json:"leaves" jsonschema:"minimum=1"`
	Optim      OptimSpec `json:"optim"`
	// DType is "fp32", or "bf16" or "fp16": activations, products and frozen matrices in 16 bits (a base in fp32 is rounded), trained weights,
	// sums and the optimizer's state in fp32; or "auto": bf16, fp16 or fp32, whichever comes first that the device multiplies.
	DType string `json:"dtype"`
	// PureBF16 holds trained weights in bf16 too, with dtype bf16: an update is computed in fp32 and rounded to the nearest, so that updates
	// below 1/256 to 1/512 of a weight are lost. Gradients, norms and the optimizer's state stay as they are.
	PureBF16 bool `json:"pure_bf16,omitempty"`
	// LossScale is what fp16 begins to multiply the loss by (default 65536), a power of two. A step whose gradient overflows is skipped and
	// halves it, 2,000 good ones in a row double it, as torch.amp.GradScaler does.
	LossScale float64 `json:"loss_scale,omitempty"`
	// Sharding is "none" (every rank holds everything), "zero2" (gradients and optimizer state are shared out), "zero3" (parameters, too), "hybrid"
	// (zero3 within each host, which all have as many ranks, copies between hosts), or "auto": none or zero3.
	Sharding string `json:"sharding"`
	// Reduction is "canonical" (same bits for any number of ranks) or "fast".
	Reduction string `json:"reduction"`
	// CommitEvery is the most steps that a worker lost without notice costs: a segment is shorter by the steps that are made while its
	// checkpoint is stored and committed, and where a commit takes longer than that, training waits for it (up to 5 s at a time: a store that is
	// away stops no training, and a loss costs more then). With CommitAuto it
	// holds until the first checkpoint's cost is known; then segments are as long as costs least for that cost and the losses that the run
	// has seen (Young and Daly).
	CommitEvery int64 `json:"commit_every"`
	CommitAuto  bool  `json:"commit_auto,omitempty"`
	World       World `json:"world"`
	// Recompute keeps only the input of each block and computes it again in the backward pass: "off", "on", or "auto" (default), which
	// does so where saving activations would not fit the device. It never changes a bit of the result.
	Recompute string `json:"recompute,omitempty" jsonschema:"enum=off,enum=on,enum=auto"`
	// OffloadActivations keeps those inputs in the host's memory until the backward pass, on devices that have memory of their own, where it
	// implies Recompute. It never changes a bit of the result.
	OffloadActivations bool `json:"offload_activations,omitempty"`
	// StepDelayMS slows each step down; for demonstrations and fault tests only.
	StepDelayMS int `json:"step_delay_ms,omitempty"`
}

// Padding fills sequences to the longest of their leaf, rounded up to Multiple, with the token ID, which no other token sees. Labels trains the
// model to write it: padding counts among a step's labels. Before that Whole fills packed sequences to that length with tokens that are seen and
// never trained on, as LLaMA-Factory's packing does; 0: not.
type Padding struct {
	ID       int32 `json:"id"`
	Multiple int   `json:"multiple" jsonschema:"minimum=1"`
	Labels   bool  `json:"labels,omitempty"`
	Whole    int   `json:"whole,omitempty" jsonschema:"minimum=0"`
}

// World bounds the number of seats of the gang.
type World struct {
	Min int `json:"min" jsonschema:"minimum=1"`
	Max int `json:"max" jsonschema:"minimum=1"`
	// Nominal is the world that LLaMA-Factory's per-device batch is multiplied by (default 1); it never changes arithmetic later.
	Nominal int `json:"nominal,omitempty"`
}

// ModelSpec says where weights come from: From (a Ref URI of a train stage), Base (a folder of files), or random weights from Config.
type ModelSpec struct {
	// From is "stage:<name>" or "run:<tenant>/<id>/<stage>".
	From string `json:"from,omitempty"`
	// Base holds config.json, *.safetensors, tokenizer files.
	Base *Ref `json:"base,omitempty"`
	// Config is an HF config.json for random initialization.
	Config json.RawMessage `json:"config,omitempty"`
	// RopeScaling stretches the rotary positions of Base.
	RopeScaling *RopeScaling `json:"rope_scaling,omitempty"`
	// ShortAttention trains Base with shifted short attention (S2, LongLoRA): llama only.
	ShortAttention bool `json:"short_attention,omitempty"`
	// RouterAux, when positive, is the weight of the routers' load-balancing loss in the training of Base.
	RouterAux float64 `json:"router_aux,omitempty" jsonschema:"minimum=0"`
	// Vocab, when positive, grows Base's vocabulary to that many tokens. New rows are the mean of the old ones with noise; beside adapters the
	// embedding and the head are then trained whole, unless modules_to_save says otherwise.
	Vocab int `json:"vocab,omitempty" jsonschema:"minimum=0"`
}

// RopeScaling stretches rotary positions to Length: the factor is the least whole one that covers it. A model that is long enough already
// stays as it is.
type RopeScaling struct {
	Type   string `json:"type" jsonschema:"enum=linear,enum=dynamic,enum=yarn,enum=llama3"`
	Length int    `json:"length" jsonschema:"minimum=1"`
}

// RopeScalings lists what RopeScaling.Type may be.
func RopeScalings() []string { return []string{"linear", "dynamic", "yarn", "llama3"} }

// NoClip is the MaxGradNorm from which on no gradient is clipped.
const NoClip = 1e30

// OptimSpec is the optimizer and its schedule, in Hugging Face's terms.
type OptimSpec struct {
	// Name is one of Optimizers; Options are what only some of them know.
	Name        string        `json:"name"`
	Options     *OptimOptions `json:"options,omitempty"`
	LR          float64       `json:"lr"`
	Beta1       float64       `json:"beta1"`
	Beta2       float64       `json:"beta2"`
	Eps         float64       `json:"eps"`
	WeightDecay float64       `json:"weight_decay"`
	// MaxGradNorm clips the gradient's norm; NoClip and more is no clipping, 0 the default of 1.
	MaxGradNorm float64 `json:"max_grad_norm"`
	// Schedule is one of Schedules, ScheduleArgs its arguments.
	Schedule     string        `json:"schedule" jsonschema:"enum=constant,enum=constant_with_warmup,enum=linear,enum=cosine,enum=cosine_with_restarts,enum=polynomial,enum=inverse_sqrt,enum=cosine_with_min_lr,enum=cosine_warmup_with_min_lr,enum=warmup_stable_decay"`
	ScheduleArgs *ScheduleArgs `json:"schedule_args,omitempty"`
	WarmupSteps  int64         `json:"warmup_steps,omitempty"`
	WarmupRatio  float64       `json:"warmup_ratio,omitempty"`
	DecayNoNorms bool          `json:"decay_no_norms,omitempty"`
	// DecayOwnNorms makes norms decay that are not torch.nn.LayerNorm in transformers (RMS norms), although DecayNoNorms is set.
	DecayOwnNorms bool `json:"decay_own_norms,omitempty"`
	// ByBlock applies gradients block by block during the backward pass, so that only one block's are there at a time. Bits are the same:
	// what clipping and anomalies need, the norm of the whole gradient, comes from a forward and backward pass of its own, which doubles the
	// time of a step; without clipping, and where anomalies are kept, one pass does. Steps of several leaves a rank keep their gradients.
	ByBlock bool `json:"by_block,omitempty"`
	// Offload holds the optimizer's state in the host's memory and updates on the host's cores; on the CPU there is nothing to offload.
	Offload bool `json:"offload,omitempty"`
}

// EvalStage scores models on a prep output that stored rows.
type EvalStage struct {
	// Models are compared with the same procedure.
	Models []EvalModel `json:"models,omitempty"`
	// Predict answers the data's prompts instead.
	Predict *Prediction `json:"predict,omitempty"`
	// Choice asks multiple-choice questions instead, of a task's own files.
	Choice *MultipleChoice `json:"choice,omitempty"`
	// Data is "<prep stage>/<output>" with rows; empty with Choice.
	Data string `json:"data,omitempty"`
	// Slices is the number of evaluation messages.
	Slices int `json:"slices" jsonschema:"minimum=1"`
	// MaxNewTokens bounds a generated explanation.
	MaxNewTokens int `json:"max_new_tokens,omitempty"`
	// GenerateRows bounds the number of rows with a generated explanation (0: all).
	GenerateRows int `json:"generate_rows,omitempty"`
	// Measures are what is measured: MeasureClassification, MeasurePerplexity and MeasureGeneration; none are all.
	Measures []string `json:"measures,omitempty"`
	// Labels are the candidate strings of the classification by log-likelihood.
	Labels []string `json:"labels,omitempty"`
	// Scripts are the user's own scores.
	Scripts []EvalScript `json:"scripts,omitempty"`
	// DType is what models are computed in: "fp32", "bf16", "fp16", or "auto" (default): what a stage was trained in, for a folder of files what its
	// configuration (torch_dtype) says as far as the device multiplies it.
	DType string `json:"dtype,omitempty" jsonschema:"enum=auto,enum=fp32,enum=bf16,enum=fp16"`
}

// What an evaluation measures: the class that is likeliest, of rows with a label; how probable the reference answers are; texts that are generated.
const (
	MeasureClassification = "classification"
	MeasurePerplexity     = "perplexity"
	MeasureGeneration     = "generation"
)

// EvalModel names a model to score.
type EvalModel struct {
	Name string `json:"name"`
	// From is a Ref URI of a train stage; or Base names a folder of files, into which Adapters (PEFT folders) are merged in order.
	From     string `json:"from,omitempty"`
	Base     *Ref   `json:"base,omitempty"`
	Adapters []Ref  `json:"adapters,omitempty"`
}

// ExportStage writes what users' tools read.
type ExportStage struct {
	// From is a Ref URI of a train stage; or Model names a folder of files, into which Adapters (PEFT folders) are merged in order.
	From     string     `json:"from,omitempty"`
	Model    *ModelSpec `json:"model,omitempty"`
	Adapters []Ref      `json:"adapters,omitempty"`
	// Formats holds "peft" and "merged".
	Formats []string `json:"formats"`
	// Tokenizer is copied beside the weights.
	Tokenizer *Ref `json:"tokenizer,omitempty"`
	// DType is what merged weights are written in: "fp32", "bf16", "fp16", or "auto" (default): what the base's files hold, tensor by tensor.
	DType string `json:"dtype,omitempty" jsonschema:"enum=auto,enum=fp32,enum=bf16,enum=fp16"`
}
