package config

import (
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate/choice"
	"github.com/tunefleet/tunefleet/schemas"
)

// rules are the cross checks that LLaMA-Factory makes before it starts, and the ranges of single keys.
func (v *factoryValues) rules() {
	v.ranges()
	v.choiceRules()
	stage, method := v.text("stage"), v.text("finetuning_type")
	if v.exportOnly() {
		return
	}
	if v.asks() {
		v.methodRules(stage, method)
		return
	}
	if !v.truth("do_train") && !v.truth("do_eval") && !v.truth("do_predict") {
		v.p.add(nil, "none of do_train, do_eval and do_predict is true: there is nothing to do")
	}
	if v.truth("do_train") && len(v.list("dataset")) == 0 {
		v.bad("dataset", "is missing: training needs data")
	}
	for _, k := range []string{"clean", "sample", "augment", "streaming"} {
		if v.given("tokenized_path") && v.given(k) && !v.isDefault(v.keys[k], v.node(k)) {
			v.bad(k, "cannot be combined with tokenized_path: rows are tokenized already")
		}
	}
	held := v.given("tokenized_path") || len(v.list("eval_dataset")) > 0 || v.number("val_size") > 0
	if v.truth("do_predict") && !held {
		v.bad("do_predict", "needs eval_dataset or val_size")
	}
	if v.doEval() && !held {
		key := "eval_strategy"
		if v.truth("do_eval") {
			key = "do_eval"
		}
		v.bad(key, "needs eval_dataset or val_size")
	}
	if v.truth("eval_on_start") && v.truth("do_train") && !v.doEval() {
		v.bad("eval_on_start", "needs eval_strategy or do_eval: something to evaluate on")
	}
	if v.truth("do_predict") && !v.truth("predict_with_generate") {
		v.bad("do_predict", "needs predict_with_generate")
	}
	if len(v.list("eval_dataset")) > 0 && v.number("val_size") > 0 {
		v.bad("val_size", "cannot be given together with eval_dataset")
	}
	if len(v.list("interleave_probs")) > 0 {
		if !strings.HasPrefix(v.text("mix_strategy"), "interleave") {
			v.bad("interleave_probs", "is only for the interleaving mix strategies")
		} else if n := len(v.list("dataset")); len(v.list("interleave_probs")) != n {
			v.bad("interleave_probs", "has %d shares for %d data sets", len(v.list("interleave_probs")), n)
		} else if e := len(v.list("eval_dataset")); e > 0 && e != n {
			v.bad("interleave_probs", "has %d shares for %d data sets of eval_dataset, which upstream interleaves by them, too", n, e)
		}
	}
	if v.generates() && v.truth("eval_on_each_dataset") {
		v.bad("eval_on_each_dataset", "cannot be combined with predict_with_generate: upstream predicts one set")
	}
	if v.generates() && (v.truth("load_best_model_at_end") || v.given("early_stopping_steps")) {
		v.bad("predict_with_generate", "measures no loss while it trains, which load_best_model_at_end and early_stopping_steps need")
	}
	if stage != "sft" {
		for _, k := range []string{"predict_with_generate", "neat_packing", "train_on_prompt", "mask_history"} {
			if v.truth(k) {
				v.bad(k, "is only for stage sft, not %s", stage)
			}
		}
	}
	if packs := v.truth("packing") || v.truth("neat_packing"); packs && stage == "sft" && v.truth("shift_attn") {
		v.bad("shift_attn", "pads batches, which is not built for packed ones")
	}
	if v.truth("neat_packing") && v.padLoss() && v.truth("do_train") && v.whole("cutoff_len")%collatorMultiple != 0 {
		v.bad("ignore_pad_token_for_loss", "cannot be false with neat_packing and a cutoff_len of %d: upstream's mask lets the padding up to a multiple of %d see every token, later ones too, which is not built; with a multiple of %d there is none",
			v.whole("cutoff_len"), collatorMultiple, collatorMultiple)
	}
	if v.truth("train_on_prompt") && v.truth("mask_history") {
		v.bad("mask_history", "cannot be combined with train_on_prompt")
	}
	if v.truth("predict_with_generate") && v.truth("compute_accuracy") {
		v.bad("compute_accuracy", "cannot be combined with predict_with_generate")
	}
	for _, key := range []string{"disable_gradient_checkpointing", "gradient_checkpointing"} {
		if off := key == "disable_gradient_checkpointing"; v.truth("offload_activations") && v.given(key) && v.truth(key) == off {
			v.bad("offload_activations", "cannot be combined with %s: %t: what is offloaded are the inputs that blocks are computed again from, and without that there are none", key, off)
		}
	}
	v.streamRules()
	v.methodRules(stage, method)
}

// streamRules are those of streaming: LLaMA-Factory's own, and what is not reproduced.
func (v *factoryValues) streamRules() {
	if !v.truth("streaming") {
		return
	}
	if v.truth("do_train") && v.number("max_steps") <= 0 {
		v.bad("max_steps", "must be given with streaming")
	}
	if n := v.number("val_size"); n != float64(int64(n)) {
		v.bad("val_size", "must be a number of rows with streaming, not a share")
	}
	if v.given("max_samples") {
		v.bad("max_samples", "cannot be combined with streaming")
	}
	if v.text("mix_strategy") == "interleave_once" && len(v.list("dataset")) > 1 {
		v.bad("mix_strategy", "interleave_once with streaming is not built: interleave_under, interleave_over or concat")
	}
	if v.whole("dataloader_num_workers") > 1 {
		v.bad("dataloader_num_workers", "above 1 with streaming is not built: every loader would shuffle a part of the data by itself")
	}
	if v.whole("preprocessing_num_workers") > 1 {
		v.bad("preprocessing_num_workers", "has no effect with streaming: leave it out")
	}
}

func (v *factoryValues) methodRules(stage, method string) {
	if method != "lora" && method != "oft" {
		for _, k := range []string{"adapter_name_or_path", "create_new_adapter", "quantization_bit"} {
			if v.given(k) && !v.isDefault(v.keys[k], v.node(k)) {
				v.bad(k, "is only for the finetuning types lora and oft, not %s", method)
			}
		}
	}
	if method != "lora" {
		for _, k := range []string{"use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio"} {
			if v.given(k) && !v.isDefault(v.keys[k], v.node(k)) {
				v.bad(k, "is only for finetuning_type lora, not %s", method)
			}
		}
	}
	if v.truth("use_llama_pro") && method == "full" {
		v.bad("use_llama_pro", "is only for the finetuning types freeze, lora and oft, not full")
	}
	if n := v.whole("freeze_trainable_layers"); v.truth("use_llama_pro") && n < 1 {
		v.bad("freeze_trainable_layers", "is %d, must be positive with use_llama_pro", n)
	}
	var chosen []string
	for _, k := range []string{"use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon"} {
		if v.truth(k) {
			chosen = append(chosen, k)
		}
	}
	if len(chosen) > 1 {
		v.bad(chosen[1], "cannot be combined with %s", chosen[0])
	}
	if len(chosen) > 0 && method == "lora" && chosen[0] != "use_adam_mini" && chosen[0] != "use_muon" {
		v.bad(chosen[0], "cannot be combined with finetuning_type lora")
	}
	if v.number("dpo_label_smoothing") > 0 && v.text("pref_loss") != "sigmoid" {
		v.bad("dpo_label_smoothing", "is only for pref_loss sigmoid, not %s", v.text("pref_loss"))
	}
	if stage == "ppo" {
		v.ppoRules(method)
	}
}

// exportOnly says that the configuration is that of llamafactory-cli export.
func (v *factoryValues) exportOnly() bool {
	return v.given("export_dir") && !v.truth("do_train") && !v.truth("do_eval") && !v.truth("do_predict")
}

// padLoss says that the model is trained, or measured, on padding.
func (v *factoryValues) padLoss() bool {
	stage := v.text("stage")
	return !v.truth("ignore_pad_token_for_loss") && stage != "pt" && stage != "rm" && (v.truth("do_train") || v.doEval() && !v.generates())
}

// generates says that held-out data are answered and scored, in place of a loss on them.
func (v *factoryValues) generates() bool {
	return v.truth("predict_with_generate") && (v.truth("do_predict") || v.doEval())
}

// doEval says whether the loss is measured on held-out data, as transformers decides it.
func (v *factoryValues) doEval() bool { return v.truth("do_eval") || v.evalStrategy() != "no" }

func (v *factoryValues) evalStrategy() string {
	s := v.text("eval_strategy")
	if v.given("evaluation_strategy") && !v.given("eval_strategy") {
		s = v.text("evaluation_strategy")
	}
	return strategy(s)
}

// strategy also takes the truth value that YAML 1.1 makes of an unquoted no.
func strategy(s string) string {
	if strings.EqualFold(s, "false") || strings.EqualFold(s, "off") {
		return "no"
	}
	return strings.ToLower(s)
}

// ranges checks single values.
func (v *factoryValues) ranges() {
	for key, names := range map[string][]string{
		"stage": {"pt", "sft", "rm", "ppo", "dpo", "kto"}, "finetuning_type": {"lora", "oft", "freeze", "full"},
		"mix_strategy": {"concat", "interleave_under", "interleave_over", "interleave_once"}, "on_bad_row": {"fail", "skip", "quarantine"},
		"pref_loss": {"sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"}, "compat": {"", "llamafactory"}, "infer_dtype": {"auto", "float32", "bfloat16", "float16"},
		"rope_scaling": append([]string{""}, schemas.RopeScalings()...),
		"sharding":     {"auto", "none", "zero2", "zero3", "hybrid"}, "precision": {"auto", "fp32", "bf16", "fp16"}, "lr_scheduler_type": append([]string{"reduce_lr_on_plateau"}, scheduleNames()...),
		"galore_proj_type": {"std", "reverse_std", "right", "left", "full"}, "apollo_proj_type": {"std", "reverse_std", "right", "left"}, "apollo_scale_type": {"channel", "tensor"},
		"badam_switch_mode": {"ascending", "descending", "random", "fixed"}, "lang": choice.Languages(),
	} {
		if s := v.text(key); !slices.Contains(names, s) {
			v.bad(key, "is %q, expected one of %s%s", s, strings.Join(names, ", "), didYouMean(s, names))
		}
	}
	for _, key := range []string{"save_strategy", "eval_strategy", "evaluation_strategy"} {
		s := strategy(v.text(key))
		if !slices.Contains([]string{"", "no", "steps", "epoch"}, s) {
			v.bad(key, "is %q, expected no, steps or epoch%s", s, didYouMean(s, []string{"no", "steps", "epoch"}))
		}
	}
	for key, r := range map[string][2]float64{
		"cutoff_len": {2, 1 << 20}, "per_device_train_batch_size": {1, 1 << 16}, "per_device_eval_batch_size": {1, 1 << 16}, "gradient_accumulation_steps": {1, 1 << 16},
		"learning_rate": {0, 100}, "num_train_epochs": {0, 1e6}, "max_steps": {-1, 1 << 40}, "warmup_ratio": {0, 1}, "warmup_steps": {0, 1 << 40}, "weight_decay": {0, 100},
		"adam_beta1": {0, 0.999999999}, "adam_beta2": {0, 0.999999999}, "adam_epsilon": {1e-30, 1}, "max_grad_norm": {0, 1e30}, "seed": {0, 1 << 53}, "data_seed": {0, 1 << 53},
		"lora_rank": {1, 4096}, "lora_alpha": {0, 1e6}, "lora_dropout": {0, 0.999}, "max_samples": {0, 1 << 40}, "val_size": {0, 1 << 40}, "preprocessing_batch_size": {1, 1 << 30},
		"preprocessing_num_workers": {0, 1024}, "num_workers": {1, 64}, "priority": {0, 3}, "eval_steps": {0, 1 << 40}, "save_steps": {0, 1 << 40}, "logging_steps": {0, 1 << 40},
		"max_new_tokens": {1, 1 << 20}, "temperature": {0, 1e6}, "top_p": {0, 1}, "top_k": {0, 1 << 30}, "pref_beta": {0, 1e6}, "simpo_gamma": {0, 1e6}, "pref_ftx": {0, 1e6},
		"early_stopping_steps": {0, 1 << 30}, "ppo_epochs": {1, 1000}, "neftune_noise_alpha": {0, 1e6}, "label_smoothing_factor": {0, 0.999}, "ld_alpha": {0, 1},
		"n_shot": {0, 1 << 16}, "batch_size": {1, 1 << 12},
	} {
		if f := v.number(key); f < r[0] || f > r[1] {
			v.bad(key, "is %v, expected %v to %v", f, r[0], r[1])
		}
	}
	if v.number("val_size") == 1 && !v.truth("streaming") {
		v.bad("val_size", "is 1: a share below 1, or a number of rows above")
	}
	if v.text("lr_scheduler_type") == "reduce_lr_on_plateau" {
		v.bad("lr_scheduler_type", "reduce_lr_on_plateau is not built")
	}
}
