package schemas

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Objectives lists what TrainStage.Objective may be.
func Objectives() []string { return []string{"pt", "sft", "rm", "dpo", "kto", "ppo", "grpo"} }

// Optimizers lists what OptimSpec.Name may be.
func Optimizers() []string {
	return []string{"adamw", "adamw_8bit", "adafactor", "lion", "sgd", "galore", "apollo", "badam", "adam_mini", "muon"}
}

// Schedules lists what OptimSpec.Schedule may be: the names of transformers.
func Schedules() []string {
	return []string{"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "cosine_with_min_lr",
		"cosine_warmup_with_min_lr", "warmup_stable_decay"}
}

// PrefLosses lists what Preference.Loss may be.
func PrefLosses() []string {
	return []string{"sigmoid", "hinge", "ipo", "kto_pair", "orpo", "orpo_trl", "simpo", "robust"}
}

// Preference configures dpo and kto. Log-probabilities are sums over the response's tokens, for ipo, orpo and simpo their means.
type Preference struct {
	// Loss of dpo is one of PrefLosses (default sigmoid). hinge, ipo and kto_pair are the losses of their papers.
	Loss string `json:"loss,omitempty"`
	// Average takes the mean of log-probabilities over tokens where the loss would take their sum: with sigmoid it is what LLaMA-Factory
	// computes for ipo.
	Average bool `json:"average,omitempty"`
	// Beta is the temperature (default 0.1).
	Beta float64 `json:"beta,omitempty"`
	// LabelSmoothing is the assumed share of swapped pairs: conservative for sigmoid, unbiased for robust.
	LabelSmoothing float64 `json:"label_smoothing,omitempty"`
	// Gamma is simpo's margin (default 0.5).
	Gamma *float64 `json:"gamma,omitempty"`
	// FTX adds that much of the mean token loss of the chosen response.
	FTX float64 `json:"ftx,omitempty"`
	// LDAlpha weights the tokens beyond the shorter response (LD-DPO, https://arxiv.org/abs/2409.06411); policy only. 0: off.
	LDAlpha float64 `json:"ld_alpha,omitempty"`
	// Desirable and Undesirable weight kto's two kinds of rows (default 1).
	Desirable   float64 `json:"desirable,omitempty"`
	Undesirable float64 `json:"undesirable,omitempty"`
	// Reference is a second model to compare with. Without it the reference is the stage's own start: the base with the adapter off, or a
	// frozen copy when the whole model trains. orpo and simpo have none.
	Reference *ModelSpec `json:"reference,omitempty"`
	// ReferenceAdapters are PEFT folders that are merged into Reference.
	ReferenceAdapters []Ref `json:"reference_adapters,omitempty"`
}

// Reward configures rm.
type Reward struct {
	// Dropout before the value head while training; nil: 0.1 as TRL, unless the model's config.json has summary_dropout_prob.
	Dropout *float64 `json:"dropout,omitempty"`
	// Head is a folder with value_head.safetensors to start from; without it the head is that of the existing adapter, or drawn.
	Head *Ref `json:"head,omitempty"`
}

// RL configures ppo and grpo.
type RL struct {
	// RewardModel is a finished rm stage ("stage:<name>", "run:<tenant>/<id>/<stage>"), RewardFiles a reward model's folders; RewardFunction a
	// built-in function: "length" (number of tokens), "token:<id>" (share of tokens that are this one). Exactly one of them is set.
	RewardModel    string       `json:"reward_model,omitempty"`
	RewardFiles    *RewardFiles `json:"reward_files,omitempty"`
	RewardFunction string       `json:"reward_function,omitempty"`
	// MaxNewTokens, Temperature (default 1), TopK and TopP of the generation.
	MaxNewTokens int     `json:"max_new_tokens"`
	Temperature  float64 `json:"temperature,omitempty"`
	TopK         int     `json:"top_k,omitempty"`
	TopP         float64 `json:"top_p,omitempty"`
	// StopIDs end a completion, beside the configuration's eos_token_id.
	StopIDs []int32 `json:"stop_ids,omitempty"`
	// Group is the number of grpo's completions of a prompt (default 8).
	Group int `json:"group,omitempty"`
	// Epochs is the number of updates made of one generation (default 4 for ppo, 1 for grpo); a step of the stage is one generation.
	Epochs int `json:"epochs,omitempty"`
	// Beta weighs the divergence from the reference (default 0.05 for ppo, 0 for grpo), Clip bounds the ratio (default 0.2), ClipHigh its
	// upper side for grpo (default Clip).
	Beta     *float64 `json:"beta,omitempty"`
	Clip     float64  `json:"clip,omitempty"`
	ClipHigh float64  `json:"clip_high,omitempty"`
	// ValueClip, ValueWeight, Discount and Lambda are ppo's (default 0.2, 0.1, 1, 0.95). Whiten normalizes ppo's rewards.
	ValueClip   float64 `json:"value_clip,omitempty"`
	ValueWeight float64 `json:"value_weight,omitempty"`
	Discount    float64 `json:"discount,omitempty"`
	Lambda      float64 `json:"lambda,omitempty"`
	Whiten      bool    `json:"whiten,omitempty"`
	// LossType of grpo is "bnpo", "grpo", "dr_grpo" or "dapo" (default dapo as TRL), ScaleRewards "group", "batch" or "none" (default group).
	LossType     string `json:"loss_type,omitempty"`
	ScaleRewards string `json:"scale_rewards,omitempty"`
	// Gather is how ranks that share the parameters generate: "model" gathers the whole model for it, "block" each block at every token, "auto"
	// (default) the model where it takes at most half of the free memory on every rank. Results do not depend on it.
	Gather string `json:"gather,omitempty" jsonschema:"enum=auto,enum=model,enum=block"`
}

// RewardFiles is a reward model as rm exports it: a base model, PEFT folders that are merged into it in order, and the folder with its
// value_head.safetensors. It has the trained model's tokenizer.
type RewardFiles struct {
	Base     Ref   `json:"base"`
	Adapters []Ref `json:"adapters,omitempty"`
	Head     Ref   `json:"head"`
}

// TrainFeatures are refinements of a train stage. All are off when zero.
type TrainFeatures struct {
	// LabelSmoothing of sft. DFT weights each token's loss with its probability (https://arxiv.org/abs/2508.05629).
	LabelSmoothing float64 `json:"label_smoothing,omitempty"`
	DFT            bool    `json:"dft,omitempty"`
	// LeafMeans makes the loss of pt and sft the sum over leaves of each one's mean over its targets, instead of the mean over all labels of
	// the step, and smooths the evaluation's labels, too: what transformers' Trainer computes with label smoothing.
	LeafMeans bool `json:"leaf_means,omitempty"`
	// ZLoss adds that much of the squared logarithm of the softmax's denominator a token.
	ZLoss float64 `json:"z_loss,omitempty"`
	// NEFTune is the alpha of noise on embeddings (https://arxiv.org/abs/2310.05914).
	NEFTune float64 `json:"neftune,omitempty"`
	// MaxTokens fills a leaf with sequences up to that many tokens instead of MicroBatch sequences.
	MaxTokens int `json:"max_tokens,omitempty"`
	// GroupByLength orders samples so that those of like length meet in a step, as transformers' LengthGroupedSampler.
	GroupByLength bool `json:"group_by_length,omitempty"`
	// EvalEvery is the number of steps between two evaluations of Eval; EvalShare, in its place, a share of all steps. EarlyStopping ends the stage after that many evaluations without a
	// loss lower by more than EarlyStoppingThreshold; LoadBest makes the best evaluated weights final. BestMetric "accuracy" has the highest
	// accuracy for the best, in place of the lowest loss; it needs EvalAccuracy.
	EvalEvery              int64   `json:"eval_every,omitempty"`
	EvalShare              float64 `json:"eval_share,omitempty"`
	EarlyStopping          int     `json:"early_stopping,omitempty"`
	EarlyStoppingThreshold float64 `json:"early_stopping_threshold,omitempty"`
	LoadBest               bool    `json:"load_best,omitempty"`
	BestMetric             string  `json:"best_metric,omitempty" jsonschema:"enum=,enum=accuracy"`
	// OnAnomaly says what becomes of a step whose loss spikes or whose gradient is an outlier, when computing it again gives the same:
	// "keep" (default), "skip" or "rollback". A loss or gradient that is not finite is never kept: keep fails the run.
	OnAnomaly string `json:"on_anomaly,omitempty" jsonschema:"enum=keep,enum=skip,enum=rollback"`
}

// OptimOptions are the settings of single optimizers; what the named one does not know must be zero.
type OptimOptions struct {
	// Momentum of sgd (default 0) and muon (default 0.95); Nesterov's form of it.
	Momentum float64 `json:"momentum,omitempty"`
	Nesterov bool    `json:"nesterov,omitempty"`
	// Rank, Interval (steps between two projections), Scale, ProjType ("std", "reverse_std", "left", "right") and Targets (module names) of
	// galore and apollo; ScaleType ("channel", "tensor") and ScaleFront of apollo.
	Rank       int      `json:"rank,omitempty"`
	Interval   int64    `json:"interval,omitempty"`
	Scale      float64  `json:"scale,omitempty"`
	ProjType   string   `json:"proj_type,omitempty"`
	Targets    []string `json:"targets,omitempty"`
	ScaleType  string   `json:"scale_type,omitempty"`
	ScaleFront bool     `json:"scale_front,omitempty"`
	// SwitchMode ("ascending", "descending", "random", "fixed") and StartBlock of badam; Interval is the steps of a block.
	SwitchMode string `json:"switch_mode,omitempty"`
	StartBlock *int   `json:"start_block,omitempty"`
	// ScaleParameter, RelativeStep, WarmupInit, ClipThreshold, DecayRate and FirstMoment of adafactor.
	ScaleParameter bool    `json:"scale_parameter,omitempty"`
	RelativeStep   bool    `json:"relative_step,omitempty"`
	WarmupInit     bool    `json:"warmup_init,omitempty"`
	FirstMoment    bool    `json:"first_moment,omitempty"`
	ClipThreshold  float64 `json:"clip_threshold,omitempty"`
	DecayRate      float64 `json:"decay_rate,omitempty"`
	// Iterations and AdjustLR ("original", "match_rms_adamw") of muon.
	Iterations int `json:"iterations,omitempty"`
	// Moonlight computes muon as LLaMA-Factory's copy of Moonlight's example does: in bfloat16, with sums of gradients, for adapters, too.
	Moonlight bool   `json:"moonlight,omitempty"`
	AdjustLR  string `json:"adjust_lr,omitempty"`
}

// ScheduleArgs are transformers' lr_scheduler_kwargs; nil and "" are its defaults.
type ScheduleArgs struct {
	NumCycles    *float64 `json:"num_cycles,omitempty"`
	Power        *float64 `json:"power,omitempty"`
	LREnd        *float64 `json:"lr_end,omitempty"`
	MinLR        *float64 `json:"min_lr,omitempty"`
	MinLRRate    *float64 `json:"min_lr_rate,omitempty"`
	WarmupLRRate *float64 `json:"warmup_lr_rate,omitempty"`
	// Timescale is taken without effect: transformers' get_scheduler does not pass it on.
	Timescale      *float64 `json:"timescale,omitempty"`
	NumDecaySteps  *float64 `json:"num_decay_steps,omitempty"`
	NumStableSteps *float64 `json:"num_stable_steps,omitempty"`
	MinLRRatio     *float64 `json:"min_lr_ratio,omitempty"`
	WarmupType     string   `json:"warmup_type,omitempty"`
	DecayType      string   `json:"decay_type,omitempty"`
	// Thirds makes warmup_stable_decay's default a third of the steps after the warmup for the stable phase and the rest for the decay, as
	// LLaMA-Factory has it.
	Thirds bool `json:"thirds,omitempty"`
}

// Validate reports what the schedule of that name does not take or lacks.
func (a ScheduleArgs) Validate(name string) error {
	var errs []error
	takes := map[string][]string{
		"cosine": {"num_cycles"}, "cosine_with_restarts": {"num_cycles"}, "polynomial": {"power", "lr_end"}, "inverse_sqrt": {"timescale"},
		"cosine_with_min_lr":        {"num_cycles", "min_lr", "min_lr_rate"},
		"cosine_warmup_with_min_lr": {"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"},
		"warmup_stable_decay":       {"num_cycles", "num_decay_steps", "num_stable_steps", "min_lr_ratio", "warmup_type", "decay_type"},
	}[name]
	for _, x := range []struct {
		key string
		v   *float64
	}{{"num_cycles", a.NumCycles}, {"power", a.Power}, {"lr_end", a.LREnd}, {"min_lr", a.MinLR}, {"min_lr_rate", a.MinLRRate}, {"warmup_lr_rate", a.WarmupLRRate},
		{"timescale", a.Timescale}, {"num_decay_steps", a.NumDecaySteps}, {"num_stable_steps", a.NumStableSteps}, {"min_lr_ratio", a.MinLRRatio}} {
		if x.v == nil {
			continue
		}
		if !slices.Contains(takes, x.key) {
			errs = append(errs, Errorf(CodeInvalid, "schedule_args."+x.key, "the schedule %q does not take it", name))
		}
		if !finite(*x.v) || *x.v < 0 {
			errs = append(errs, Errorf(CodeInvalid, "schedule_args."+x.key, "is %g, must not be negative", *x.v))
		}
	}
	for _, x := range []struct{ key, v string }{{"warmup_type", a.WarmupType}, {"decay_type", a.DecayType}} {
		if x.v != "" && (!slices.Contains(takes, x.key) || !slices.Contains([]string{"linear", "cosine", "1-sqrt"}, x.v)) {
			errs = append(errs, Errorf(CodeInvalid, "schedule_args."+x.key, "%q is not possible (linear, cosine or 1-sqrt, with warmup_stable_decay)", x.v))
		}
	}
	if slices.Contains(takes, "min_lr") && (a.MinLR == nil) == (a.MinLRRate == nil) {
		errs = append(errs, Errorf(CodeInvalid, "schedule_args.min_lr", "the schedule %q needs exactly one of min_lr and min_lr_rate", name))
	}
	if a.Thirds && name != "warmup_stable_decay" {
		errs = append(errs, Errorf(CodeInvalid, "schedule_args.thirds", "the schedule %q does not take it", name))
	}
	if name == "warmup_stable_decay" && a.NumDecaySteps == nil && !a.Thirds {
		errs = append(errs, Errorf(CodeInvalid, "schedule_args.num_decay_steps", "the schedule %q needs it", name))
	}
	return errors.Join(errs...)
}

// objectiveDefaults fills what objectives and optimizers leave out.
func (t *TrainStage) objectiveDefaults() {
	num := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	if t.Objective == "dpo" || t.Objective == "kto" {
		if t.Pref == nil {
			t.Pref = &Preference{}
		}
		p := t.Pref
		if p.Loss == "" && t.Objective == "dpo" {
			p.Loss = "sigmoid"
		}
		num(&p.Beta, 0.1)
		num(&p.Desirable, 1)
		num(&p.Undesirable, 1)
		if p.Gamma == nil && p.Loss == "simpo" {
			gamma := 0.5
			p.Gamma = &gamma
		}
	}
	if r := t.RL; r != nil {
		num(&r.Temperature, 1)
		num(&r.Clip, 0.2)
		num(&r.ClipHigh, r.Clip)
		num(&r.ValueClip, 0.2)
		num(&r.ValueWeight, 0.1)
		num(&r.Discount, 1)
		num(&r.Lambda, 0.95)
		beta, epochs := 0.05, 4
		if t.Objective == "grpo" {
			beta, epochs = 0, 1
		}
		if r.Beta == nil {
			r.Beta = &beta
		}
		if r.Epochs == 0 {
			r.Epochs = epochs
		}
		if r.Group == 0 {
			r.Group = 8
		}
		if r.LossType == "" {
			r.LossType = "dapo"
		}
		if r.ScaleRewards == "" {
			r.ScaleRewards = "group"
		}
	}
	if f := t.Features; f != nil && f.OnAnomaly == "" {
		f.OnAnomaly = "keep"
	}
}

// objective checks what the objective needs.
func (p *problems) objective(st *Stage, t *TrainStage, at string, before map[string]*Stage) {
	p.check(slices.Contains(Objectives(), t.Objective), at+".objective", "%q is unknown (%s)", t.Objective, strings.Join(Objectives(), ", "))
	p.check(t.Pref == nil || t.Objective == "dpo" || t.Objective == "kto", at+".pref", "is for the objectives dpo and kto")
	p.check(t.Reward == nil || t.Objective == "rm", at+".reward", "is for the objective rm")
	p.check((t.RL != nil) == (t.Objective == "ppo" || t.Objective == "grpo"), at+".rl", "must be given exactly for the objectives ppo and grpo")
	share := func(v float64, place string) { p.check(v >= 0 && v < 1, place, "is %g, must be in [0, 1)", v) }
	notNegative := func(v float64, place string) { p.check(finite(v) && v >= 0, place, "is %g, must be >= 0", v) }
	if f := t.Pref; f != nil {
		if t.Objective == "dpo" {
			p.check(slices.Contains(PrefLosses(), f.Loss), at+".pref.loss", "%q is unknown (%s)", f.Loss, strings.Join(PrefLosses(), ", "))
			p.check(f.LabelSmoothing == 0 || f.Loss == "sigmoid" || f.Loss == "robust", at+".pref.label_smoothing", "goes with the losses sigmoid and robust only")
			p.check(f.Reference == nil || !slices.Contains([]string{"orpo", "orpo_trl", "simpo"}, f.Loss), at+".pref.reference", "the loss %q has no reference model", f.Loss)
		}
		p.check(finite(f.Beta) && f.Beta > 0, at+".pref.beta", "is %g, must be positive", f.Beta)
		p.check(f.LabelSmoothing >= 0 && f.LabelSmoothing < 0.5, at+".pref.label_smoothing", "is %g, must be in [0, 0.5)", f.LabelSmoothing)
		notNegative(f.FTX, at+".pref.ftx")
		p.check(f.LDAlpha >= 0 && f.LDAlpha <= 1, at+".pref.ld_alpha", "is %g, must be in [0, 1]", f.LDAlpha)
		notNegative(f.Desirable, at+".pref.desirable")
		notNegative(f.Undesirable, at+".pref.undesirable")
		if f.Reference != nil {
			p.model(st, f.Reference, at+".pref.reference", before)
		}
		p.check(len(f.ReferenceAdapters) == 0 || f.Reference != nil, at+".pref.reference_adapters", "need reference: the model that they are merged into")
		for i, a := range f.ReferenceAdapters {
			p.ref(a, fmt.Sprintf("%s.pref.reference_adapters[%d]", at, i))
		}
	}
	if t.Reward != nil && t.Reward.Dropout != nil {
		share(*t.Reward.Dropout, at+".reward.dropout")
	}
	if t.Reward != nil && t.Reward.Head != nil {
		p.ref(*t.Reward.Head, at+".reward.head")
	}
	if t.RL != nil {
		p.rl(st, t, at+".rl", before)
	}
	if f := t.Features; f != nil {
		share(f.LabelSmoothing, at+".features.label_smoothing")
		share(f.EvalShare, at+".features.eval_share")
		p.check(f.EvalShare == 0 || f.EvalEvery == 0, at+".features.eval_share", "cannot be given together with eval_every")
		notNegative(f.ZLoss, at+".features.z_loss")
		notNegative(f.NEFTune, at+".features.neftune")
		p.check(f.MaxTokens >= 0 && f.EvalEvery >= 0 && f.EarlyStopping >= 0, at+".features", "max_tokens, eval_every and early_stopping must not be negative")
		p.check((f.EarlyStopping == 0 && !f.LoadBest && f.EvalEvery == 0 && f.EvalShare == 0) || t.Eval != "" || len(t.Evals) > 0, at+".features.eval_every", "needs eval: the data to measure on")
		p.check((f.EarlyStopping == 0 && !f.LoadBest) || f.EvalEvery > 0 || f.EvalShare > 0, at+".features.eval_every", "must be positive with early_stopping and load_best")
		p.check(f.BestMetric == "" || f.BestMetric == "accuracy" && t.EvalAccuracy, at+".features.best_metric", "%q is not measured (accuracy, with eval_accuracy)", f.BestMetric)
		p.check(slices.Contains([]string{"keep", "skip", "rollback"}, f.OnAnomaly), at+".features.on_anomaly", "%q is unknown (keep, skip, rollback)", f.OnAnomaly)
		p.check((f.LabelSmoothing == 0 && !f.DFT && f.ZLoss == 0 && !f.LeafMeans) || t.Objective == "sft" || t.Objective == "pt", at+".features", "label_smoothing, leaf_means, dft and z_loss go with pt and sft")
	}
}

func (p *problems) rl(st *Stage, t *TrainStage, at string, before map[string]*Stage) {
	r := t.RL
	given := 0
	for _, yes := range []bool{r.RewardModel != "", r.RewardFiles != nil, r.RewardFunction != ""} {
		if yes {
			given++
		}
	}
	p.check(given == 1, at+".reward_model", "exactly one of reward_model, reward_files and reward_function must be given")
	if f := r.RewardFiles; f != nil {
		p.ref(f.Base, at+".reward_files.base")
		for i, a := range f.Adapters {
			p.ref(a, fmt.Sprintf("%s.reward_files.adapters[%d]", at, i))
		}
		p.ref(f.Head, at+".reward_files.head")
	}
	if r.RewardModel != "" {
		p.from(st, r.RewardModel, at+".reward_model", before)
	}
	p.check(r.MaxNewTokens >= 1 && r.MaxNewTokens <= 1<<16, at+".max_new_tokens", "is %d, must be 1 to 65536", r.MaxNewTokens)
	p.check(finite(r.Temperature) && r.Temperature > 0, at+".temperature", "is %g, must be positive", r.Temperature)
	p.check(r.TopK >= 0 && r.TopP >= 0 && r.TopP <= 1, at+".top_p", "top_k must not be negative, top_p in [0, 1]")
	p.check(t.Objective != "grpo" || r.Group >= 2, at+".group", "is %d, must be at least 2", r.Group)
	p.check(r.Epochs >= 1 && r.Epochs <= 1000, at+".epochs", "is %d, must be 1 to 1000", r.Epochs)
	p.check(r.Beta == nil || finite(*r.Beta) && *r.Beta >= 0, at+".beta", "must be >= 0")
	p.check(r.Clip > 0 && r.Clip < 1 && r.ClipHigh > 0, at+".clip", "is %g and %g, must be in (0, 1)", r.Clip, r.ClipHigh)
	p.check(slices.Contains([]string{"bnpo", "grpo", "dr_grpo", "dapo"}, r.LossType), at+".loss_type", "%q is unknown (bnpo, grpo, dr_grpo, dapo)", r.LossType)
	p.check(slices.Contains([]string{"group", "batch", "none"}, r.ScaleRewards), at+".scale_rewards", "%q is unknown (group, batch, none)", r.ScaleRewards)
	p.check(slices.Contains([]string{"", "auto", "model", "block"}, r.Gather), at+".gather", "%q is unknown (auto, model, block)", r.Gather)
}

func (p *problems) optim(o *OptimSpec, at string) {
	p.check(slices.Contains(Optimizers(), o.Name), at+".name", "%q is unknown (%s)", o.Name, strings.Join(Optimizers(), ", "))
	p.check(finite(o.LR) && o.LR > 0, at+".lr", "is %g, must be positive", o.LR)
	p.check(o.Beta1 >= 0 && o.Beta1 < 1, at+".beta1", "is %g, must be in [0, 1)", o.Beta1)
	p.check(o.Beta2 >= 0 && o.Beta2 < 1, at+".beta2", "is %g, must be in [0, 1)", o.Beta2)
	p.check(finite(o.Eps) && o.Eps > 0, at+".eps", "is %g, must be positive", o.Eps)
	p.check(finite(o.WeightDecay) && o.WeightDecay >= 0, at+".weight_decay", "is %g, must be >= 0", o.WeightDecay)
	p.check(finite(o.MaxGradNorm) && o.MaxGradNorm >= 0, at+".max_grad_norm", "is %g, must be >= 0", o.MaxGradNorm)
	p.check(slices.Contains(Schedules(), o.Schedule), at+".schedule", "%q is unknown (%s)", o.Schedule, strings.Join(Schedules(), ", "))
	p.check(o.WarmupSteps >= 0 && o.WarmupRatio >= 0 && o.WarmupRatio <= 1, at+".warmup_steps", "warmup must not be negative and its ratio at most 1")
	args := ScheduleArgs{}
	if o.ScheduleArgs != nil {
		args = *o.ScheduleArgs
	}
	if err := args.Validate(o.Schedule); err != nil {
		p.add(at+".schedule_args", "%v", err)
	}
}
