package config

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

func scheduleNames() []string { return schemas.Schedules() }

// train makes the train stage.
func (b *factoryBuilder) train(ctx context.Context, prep *schemas.PrepStage) (*schemas.TrainStage, error) {
	v := b.v
	world, err := b.world()
	if err != nil {
		return nil, err
	}
	t := &schemas.TrainStage{Objective: v.text("stage"), Data: "prep/train", Model: schemas.ModelSpec{Base: b.base}, Epochs: v.number("num_train_epochs"),
		Steps: max(0, int64(v.number("max_steps"))), MicroBatch: v.whole("per_device_train_batch_size"), Leaves: v.whole("gradient_accumulation_steps") * world.Nominal,
		DType: "fp32", Sharding: v.text("sharding"), Reduction: "canonical", World: world, EvalBatch: v.whole("per_device_eval_batch_size"), EvalReduce: "batches"}
	switch {
	case v.truth("fp16") && (v.truth("bf16") || v.truth("pure_bf16")):
		v.bad("fp16", "cannot be combined with bf16 or pure_bf16")
	case v.given("precision") && (v.truth("fp16") || v.truth("bf16") || v.truth("pure_bf16")):
		v.bad("precision", "cannot be combined with fp16, bf16 or pure_bf16")
	case v.truth("bf16") || v.truth("pure_bf16"):
		t.DType, t.PureBF16 = "bf16", v.truth("pure_bf16")
	case v.truth("fp16"):
		t.DType = "fp16"
	default:
		t.DType = v.text("precision")
	}
	if kind := v.text("rope_scaling"); kind != "" && b.base != nil {
		t.Model.RopeScaling = &schemas.RopeScaling{Type: kind, Length: v.whole("cutoff_len")}
	}
	if b.base != nil {
		t.Model.ShortAttention, t.Model.RouterAux, t.Model.Vocab = v.truth("shift_attn"), v.number("moe_aux_loss_coef"), b.vocab
	}
	t.World.Max = min(t.World.Max, t.Leaves)
	t.Order = &schemas.SampleOrder{Kind: "torch", Seed: uint64(v.number("seed")), Deal: world.Nominal, DropLast: v.truth("dataloader_drop_last")}
	t.Init = &schemas.InitialDraw{Kind: "torch", Seed: uint64(v.number("seed"))}
	if v.given("data_seed") {
		t.Order.Seed = uint64(v.number("data_seed"))
	}
	switch {
	case v.truth("disable_shuffling") || v.truth("streaming"): // a stream has its order already
		t.Order.Kind, t.Order.Stream = "sequential", v.truth("streaming")
	case v.truth("group_by_length"): // transformers' sampler for it has no generator of its own, and knows no data_seed
		t.Order.Kind, t.Order.Seed = "torch_global", uint64(v.number("seed"))
	}
	if n := v.number("save_steps"); n < 1 {
		t.CommitEvery = int64(math.Ceil(n * float64(t.Steps))) // the steps are not known yet when epochs are given
	} else {
		t.CommitEvery = int64(n)
	}
	if t.CommitEvery < 1 || strategy(v.text("save_strategy")) != "steps" {
		t.CommitEvery = 500
	}
	if t.Objective == "rm" || t.Objective == "dpo" || t.Objective == "kto" {
		t.EvalReduce = "rows" // upstream's trainers of preferences weigh batches by their rows, the others do not
	}
	b.method(t)
	b.optim(t)
	b.features(t)
	if err := b.preference(ctx, t); err != nil {
		return nil, err
	}
	if err := b.adapters(ctx, t); err != nil {
		return nil, err
	}
	if err := b.valueHead(ctx, t); err != nil {
		return nil, err
	}
	if err := b.ppo(ctx, t); err != nil {
		return nil, err
	}
	if err := b.scratch(ctx, t); err != nil {
		return nil, err
	}
	if err := b.padding(t); err != nil {
		return nil, err
	}
	if err := b.evaluation(t, prep); err != nil {
		return nil, err
	}
	if !v.truth("do_train") {
		b.evalOnly(t)
		return t, nil
	}
	b.notes = append(b.notes, fmt.Sprintf("batch: %d sequences a step = %d a device x %d accumulated x %d nominal device(s), fixed; dealt over whatever number of workers there is",
		t.MicroBatch*t.Leaves, t.MicroBatch, t.Leaves/world.Nominal, world.Nominal))
	return t, nil
}

// world reads {min, max, nominal}.
func (b *factoryBuilder) world() (schemas.World, error) {
	w := schemas.World{Min: 1, Max: b.v.whole("num_workers"), Nominal: 1}
	n := b.v.node("world")
	if n == nil {
		return w, nil
	}
	if !n.isMap {
		b.v.bad("world", "is %s, expected {min, max, nominal}", n.kind())
		return w, b.v.p.err()
	}
	for _, k := range n.keys {
		dst := map[string]*int{"min": &w.Min, "max": &w.Max, "nominal": &w.Nominal}[k]
		f, ok := number64(n.values[k])
		switch {
		case dst == nil:
			b.v.bad("world", "has an unknown key %q%s", k, didYouMean(k, []string{"min", "max", "nominal"}))
		case !ok || f < 1 || f > 4096 || f != float64(int(f)):
			b.v.bad("world", "%s is %q, expected a whole number from 1", k, n.values[k].text)
		default:
			*dst = int(f)
		}
	}
	w.Max = max(w.Max, w.Min)
	return w, b.v.p.err()
}

// method fills finetuning_type and its options.
func (b *factoryBuilder) method(t *schemas.TrainStage) {
	v := b.v
	t.Method = v.text("finetuning_type")
	switch t.Method {
	case "lora":
		t.LoRA = &schemas.LoRA{Rank: v.whole("lora_rank"), Alpha: v.number("lora_alpha"), Dropout: v.number("lora_dropout"), Targets: v.list("lora_target"), RSLoRA: v.truth("use_rslora"),
			DoRA: v.truth("use_dora"), PiSSA: v.truth("pissa_init"), ModulesToSave: v.list("additional_target")}
		if v.given("loraplus_lr_ratio") {
			t.LoRA.PlusRatio, t.LoRA.PlusEmbeddingLR = v.number("loraplus_lr_ratio"), v.number("loraplus_lr_embedding")
		}
		if v.truth("use_llama_pro") {
			t.LoRA.LlamaPro = v.whole("freeze_trainable_layers")
		}
		if t.LoRA.PiSSA {
			t.LoRA.PiSSAIter = v.whole("pissa_iter")
		}
	case "oft":
		t.OFT = &schemas.OFT{Rank: v.whole("oft_rank"), BlockSize: v.whole("oft_block_size"), Targets: v.list("oft_target"), ModulesToSave: v.list("additional_target")}
		if t.OFT.Rank > 0 {
			t.OFT.BlockSize = 0
		}
		if v.truth("use_llama_pro") {
			t.OFT.LlamaPro = v.whole("freeze_trainable_layers")
		}
	case "freeze":
		t.Freeze = &schemas.Freeze{TrainableLayers: v.whole("freeze_trainable_layers"), Modules: v.list("freeze_trainable_modules"), Extra: v.list("freeze_extra_modules"), LlamaPro: v.truth("use_llama_pro")}
	}
	if v.given("quantization_bit") {
		t.Quant = &schemas.Quantization{Bits: v.whole("quantization_bit"), Type: v.text("quantization_type"), Double: v.truth("double_quantization")}
		if t.Quant.Bits == 8 {
			t.Quant.Type, t.Quant.Double = "int8", false
		}
	}
}

// optimizers maps transformers' names to ours.
func optimizers() map[string]string {
	return map[string]string{"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "paged_adamw": "adamw", "paged_adamw_32bit": "adamw", "adamw_bnb_8bit": "adamw_8bit",
		"adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "adamw_8bit", "adafactor": "adafactor", "lion_32bit": "lion", "paged_lion_32bit": "lion", "sgd": "sgd"}
}

// optim fills the optimizer and its schedule.
func (b *factoryBuilder) optim(t *schemas.TrainStage) {
	v := b.v
	o := schemas.OptimSpec{Name: optimizers()[v.text("optim")], LR: v.number("learning_rate"), Beta1: v.number("adam_beta1"), Beta2: v.number("adam_beta2"), Eps: v.number("adam_epsilon"),
		WeightDecay: v.number("weight_decay"), MaxGradNorm: v.number("max_grad_norm"), Schedule: v.text("lr_scheduler_type"), WarmupRatio: v.number("warmup_ratio"), DecayNoNorms: true}
	if o.Name == "" {
		var names []string
		for n := range optimizers() {
			names = append(names, n)
		}
		v.bad("optim", "%q is not built (%s)%s", v.text("optim"), strings.Join(sorted(names), ", "), didYouMean(v.text("optim"), names))
	}
	if w := v.number("warmup_steps"); w >= 1 {
		o.WarmupSteps, o.WarmupRatio = int64(w), 0
	} else if w > 0 {
		o.WarmupRatio = w
	}
	if o.Schedule == "constant" {
		o.WarmupSteps, o.WarmupRatio = 0, 0 // transformers' constant schedule has no warmup, whatever the file says
	}
	switch {
	case v.truth("use_galore"):
		o.Name, o.Options = "galore", &schemas.OptimOptions{Rank: v.whole("galore_rank"), Interval: int64(v.number("galore_update_interval")), Scale: v.number("galore_scale"),
			ProjType: v.text("galore_proj_type"), Targets: v.list("galore_target")}
	case v.truth("use_apollo"):
		o.Name, o.Options = "apollo", &schemas.OptimOptions{Rank: v.whole("apollo_rank"), Interval: int64(v.number("apollo_update_interval")), Scale: v.number("apollo_scale"),
			ProjType: v.text("apollo_proj_type"), Targets: v.list("apollo_target"), ScaleType: v.text("apollo_scale_type"), ScaleFront: v.truth("apollo_scale_front")}
	case v.truth("use_badam"):
		o.Name, o.Options = "badam", &schemas.OptimOptions{SwitchMode: v.text("badam_switch_mode"), Interval: int64(v.number("badam_switch_interval"))}
		if v.given("badam_start_block") {
			n := v.whole("badam_start_block")
			o.Options.StartBlock = &n
		}
	case v.truth("use_adam_mini"):
		o.Name = "adam_mini"
	case v.truth("use_muon"):
		o.Name, o.Options, o.DecayNoNorms = "muon", &schemas.OptimOptions{Nesterov: true, Moonlight: true}, false
	}
	// The groups that LLaMA-Factory makes itself; BAdam's blocks take the default of torch's AdamW (0.01) for all of them
	// instead, which is not reproduced.
	o.DecayOwnNorms = o.Name == "galore" || o.Name == "apollo" || o.Name == "badam" || t.LoRA != nil && t.LoRA.PlusRatio > 0
	if n := v.node("lr_scheduler_kwargs"); v.given("lr_scheduler_kwargs") {
		o.ScheduleArgs = b.scheduleArgs(n)
	}
	if o.Schedule == "warmup_stable_decay" {
		if o.ScheduleArgs == nil {
			o.ScheduleArgs = &schemas.ScheduleArgs{}
		}
		o.ScheduleArgs.Thirds = true
	}
	o.ByBlock = v.truth("by_block") || v.truth("galore_layerwise") || v.truth("apollo_layerwise")
	o.Offload = v.truth("offload_optimizer")
	t.OffloadActivations = v.truth("offload_activations")
	if o.MaxGradNorm == 0 {
		o.MaxGradNorm = schemas.NoClip // as transformers' Trainer has it
	}
	t.Optim = o
}

// scheduleArgs reads a mapping, or JSON in text as upstream takes it.
func (b *factoryBuilder) scheduleArgs(n *node) *schemas.ScheduleArgs {
	raw := []byte(n.text)
	if n.isMap {
		var err error
		if raw, err = json.Marshal(plain(n)); err != nil {
			b.v.bad("lr_scheduler_kwargs", "cannot be read: %v", err)
			return nil
		}
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	var a schemas.ScheduleArgs
	if err := d.Decode(&a); err != nil {
		b.v.bad("lr_scheduler_kwargs", "cannot be read: %v", err)
		return nil
	}
	return &a
}

// features fills refinements.
func (b *factoryBuilder) features(t *schemas.TrainStage) {
	v := b.v
	smoothing := v.number("label_smoothing_factor")
	if smoothing > 0 && v.truth("use_dft_loss") {
		smoothing = 0 // a loss function of its own takes the place of the smoothing one upstream
		b.notes = append(b.notes, "label_smoothing_factor has no effect with use_dft_loss, as in LLaMA-Factory")
	}
	f := schemas.TrainFeatures{LabelSmoothing: smoothing, LeafMeans: smoothing > 0, DFT: v.truth("use_dft_loss"), NEFTune: v.number("neftune_noise_alpha"), GroupByLength: v.truth("group_by_length")}
	if v.evalStrategy() == "steps" {
		n := v.number("eval_steps")
		if n == 0 {
			n = v.number("logging_steps")
		}
		if n < 1 {
			f.EvalShare = n
		} else {
			f.EvalEvery = int64(n)
		}
		f.EarlyStopping, f.LoadBest = v.whole("early_stopping_steps"), v.truth("load_best_model_at_end")
	} else if v.given("early_stopping_steps") || v.truth("load_best_model_at_end") {
		v.bad("eval_strategy", "must be steps with early_stopping_steps and load_best_model_at_end")
	}
	switch m := strings.TrimPrefix(v.text("metric_for_best_model"), "eval_"); {
	case m == "" || m == "loss":
	case m == "accuracy" && (v.truth("compute_accuracy") || t.Objective == "rm"):
		f.BestMetric = m
	case m == "accuracy":
		v.bad("metric_for_best_model", "is accuracy, which compute_accuracy: true measures")
	default:
		v.bad("metric_for_best_model", "is %q, only loss and accuracy are built", m)
	}
	t.EvalEachEpoch, t.EvalOnStart = v.evalStrategy() == "epoch", v.truth("eval_on_start")
	if f != (schemas.TrainFeatures{}) {
		t.Features = &f
	}
	t.EvalAccuracy = v.truth("compute_accuracy") || t.Objective == "rm" // upstream always measures how often the chosen answer wins
}

// preference fills what dpo and kto need.
func (b *factoryBuilder) preference(ctx context.Context, t *schemas.TrainStage) error {
	v := b.v
	if t.Objective != "dpo" && t.Objective != "kto" {
		return nil
	}
	p := &schemas.Preference{Beta: v.number("pref_beta"), FTX: v.number("pref_ftx"), Desirable: v.number("kto_chosen_weight"), Undesirable: v.number("kto_rejected_weight")}
	if t.Objective == "dpo" {
		p.Loss, p.LabelSmoothing, p.LDAlpha = v.text("pref_loss"), v.number("dpo_label_smoothing"), v.number("ld_alpha")
		if p.Loss == "simpo" {
			g := v.number("simpo_gamma")
			p.Gamma = &g
		}
		if slices.Contains([]string{"hinge", "ipo", "kto_pair"}, p.Loss) {
			switch {
			case v.text("compat") != "llamafactory":
				b.notes = append(b.notes, fmt.Sprintf("pref_loss: %s is computed as its paper has it; LLaMA-Factory with trl >= 0.20 computes sigmoid (compat: llamafactory gives that)", p.Loss))
			default:
				p.Loss, p.Average = "sigmoid", p.Loss == "ipo"
			}
		}
	}
	if v.given("ref_model") {
		folder, _, err := b.c.model(ctx, b.path(v.text("ref_model")), "")
		if err != nil {
			return rename(err, "model.base_model", "ref_model")
		}
		if err := checkModelFolder(folder); err != nil {
			return err
		}
		ref, err := b.c.ref(ctx, folder, modelFile)
		if err != nil {
			return err
		}
		p.Reference = &schemas.ModelSpec{Base: ref}
		if p.ReferenceAdapters, err = b.adapterRefs(ctx, "ref_model_adapters"); err != nil {
			return err
		}
	} else if len(v.list("ref_model_adapters")) > 0 {
		v.bad("ref_model_adapters", "needs ref_model: the model that they are merged into")
	}
	t.Pref = p
	return nil
}

// adapters collects the PEFT folders of adapter_name_or_path.
func (b *factoryBuilder) adapters(ctx context.Context, t *schemas.TrainStage) (err error) {
	t.Adapters, err = b.adapterRefs(ctx, "adapter_name_or_path")
	t.CreateNewAdapter = b.v.truth("create_new_adapter") && len(t.Adapters) > 0
	return err
}

// valueHead finds the value head that a reward model starts from: the one that is named, or the model's own when no adapter brings one.
func (b *factoryBuilder) valueHead(ctx context.Context, t *schemas.TrainStage) error {
	v := b.v
	if t.Objective != "rm" {
		if v.given("value_head") {
			v.bad("value_head", "is only for stage rm, not %s", t.Objective)
		}
		return nil
	}
	folder := b.path(v.text("value_head"))
	if !v.given("value_head") {
		model, _, err := b.c.model(ctx, b.path(v.text("model_name_or_path")), v.text("model_revision"))
		if err != nil || len(t.Adapters) > 0 {
			return err
		}
		if info, err := os.Stat(filepath.Join(model, headFileName)); os.IsNotExist(err) || err == nil && !info.Mode().IsRegular() {
			return nil
		}
		folder = model
	}
	ref, err := b.c.ref(ctx, folder, func(n string) bool { return n == headFileName })
	if err != nil {
		return err
	}
	t.Reward = &schemas.Reward{Head: ref}
	return nil
}

// adapter is the Ref of a PEFT folder.
func (b *factoryBuilder) adapter(ctx context.Context, name string) (*schemas.Ref, error) {
	folder := b.path(name)
	if remote.IsAddress(folder) {
		var err error
		if folder, err = b.c.folder(ctx, folder, adapterFile, nil); err != nil {
			return nil, err
		}
	}
	ref, err := b.c.ref(ctx, folder, adapterFile)
	if err != nil {
		return nil, err
	}
	for _, want := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		if !slices.ContainsFunc(ref.Files, func(f schemas.File) bool { return f.Path == want }) {
			return nil, schemas.Errorf(schemas.CodeModel, name, "has no %s: this is no PEFT adapter", want)
		}
	}
	return ref, nil
}

func adapterFile(name string) bool {
	return name == "adapter_config.json" || name == "adapter_model.safetensors" || name == headFileName
}

// scratch replaces the base by its configuration: training from random weights.
func (b *factoryBuilder) scratch(ctx context.Context, t *schemas.TrainStage) error {
	if !b.v.truth("train_from_scratch") {
		return nil
	}
	folder, _, err := b.c.model(ctx, b.path(b.v.text("model_name_or_path")), b.v.text("model_revision"))
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil || !json.Valid(raw) {
		return schemas.Errorf(schemas.CodeModel, folder, "cannot read config.json: %v", err)
	}
	if t.Model.RopeScaling != nil {
		return schemas.Errorf(schemas.CodeUnsupported, "rope_scaling", "a model that is trained from scratch is not stretched").WithHint("set rope_scaling in its config.json")
	}
	if t.Model.ShortAttention || t.Model.RouterAux > 0 || t.Model.Vocab > 0 {
		return schemas.Errorf(schemas.CodeUnsupported, "train_from_scratch", "shift_attn, moe_aux_loss_coef and resize_vocab change a base model").
			WithHint("set group_size_ratio, router_aux_loss_coef with output_router_logits, or vocab_size in its config.json")
	}
	t.Model = schemas.ModelSpec{Config: raw}
	return nil
}

// evalOnly makes a stage that measures the loss of what it starts from. Where a whole model would be trained, it has an adapter of rank 1 that
// adds nothing in its place: no optimizer's state of all weights is held, and no copy of them is stored.
func (b *factoryBuilder) evalOnly(t *schemas.TrainStage) {
	t.EvalOnly, t.EvalOnStart, t.EvalEachEpoch = true, false, false
	t.Data = t.Eval
	if t.Data == "" && len(t.Evals) > 0 {
		t.Data = t.Evals[0].Data
	}
	if f := t.Features; f != nil {
		t.Features = nil
		if kept := (schemas.TrainFeatures{LabelSmoothing: f.LabelSmoothing, LeafMeans: f.LeafMeans, DFT: f.DFT}); kept != (schemas.TrainFeatures{}) {
			t.Features = &kept
		}
	}
	t.Order = &schemas.SampleOrder{Kind: "sequential", Deal: t.Order.Deal}
	if len(t.Adapters) == 0 {
		t.Method, t.OFT, t.Freeze = "lora", nil, nil
		t.LoRA = &schemas.LoRA{Rank: 1, Alpha: 1, Targets: []string{"all"}}
	}
	if t.Pref != nil && t.Pref.Reference == nil && len(t.Adapters) > 0 {
		// Upstream compares with the model that is evaluated, its adapters merged: losses are those of no difference.
		m := t.Model
		t.Pref.Reference, t.Pref.ReferenceAdapters = &m, t.Adapters
	}
	t.Steps, t.Epochs = 0, 1
}

// evaluation names the held-out data, when the loss on them is measured.
func (b *factoryBuilder) evaluation(t *schemas.TrainStage, prep *schemas.PrepStage) error {
	if !b.v.doEval() {
		return nil
	}
	if b.v.generates() {
		if b.v.truth("do_train") && (b.v.evalStrategy() != "no" || b.v.truth("eval_on_start")) {
			return b.generatingEval(t)
		}
		return nil
	}
	for _, o := range prep.Outputs {
		i := -1
		if o.Form == "predict" {
			continue
		}
		switch _, err := fmt.Sscanf(o.Split, "eval-%d", &i); {
		case err == nil:
			t.Evals = append(t.Evals, schemas.EvalSet{Name: prep.Factory.Eval[i].Name, Data: "prep/" + o.Name})
		case o.Split == "eval":
			t.Eval = "prep/" + o.Name
		}
	}
	return nil
}
