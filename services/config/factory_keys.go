package config

// keyKind is the type of a key's value.
type keyKind int

// Kinds: a list may be written with commas or as YAML; numbers is a list of numbers; textOrMap is text or a mapping; anything is checked
// where it is used.
const (
	text keyKind = iota
	whole
	number
	truth
	list
	numbers
	textOrMap
	anything
)

// keyStatus says what this build does with a key.
type keyStatus int

// A key works; it has no effect here, for the reason given; or another value than its default is refused, for the reason given.
const (
	works keyStatus = iota
	noEffect
	refused
)

// factoryKey is one key of LLaMA-Factory's configuration.
type factoryKey struct {
	// group is the argument class upstream.
	group, name string
	kind        keyKind
	// def is the default as it would be written; "" is none.
	def    string
	status keyStatus
	note   string
}

// factoryKeys is every key that LLaMA-Factory 0.9.6 and transformers' training arguments know, with our own at the end. The table in
// LLAMAFACTORY.md is made from it.
func factoryKeys() []factoryKey { return append(dataAndModelKeys(), trainingKeys()...) }

func dataAndModelKeys() []factoryKey {
	return []factoryKey{
		// Data
		{"Data", "template", text, "", works, "None -> parse tokenizer chat_template, else `empty`"},
		{"Data", "dataset", list, "", works, "comma list"},
		{"Data", "eval_dataset", list, "", works, "comma list; mutually exclusive with val_size"},
		{"Data", "dataset_dir", textOrMap, "data", works, ""},
		{"Data", "media_dir", text, "", noEffect, "there are no images, video or audio here"},
		{"Data", "cutoff_len", whole, "2048", works, "-1 applied at init iff packing/neat_packing explicitly true"},
		{"Data", "train_on_prompt", truth, "false", works, "SFT only; rejected for efficient_eos templates"},
		{"Data", "mask_history", truth, "false", works, "SFT only; train last turn; excl. with train_on_prompt"},
		{"Data", "streaming", truth, "false", refused, "data are prepared once, by part, in constant memory: there is nothing to stream; leave it out (max_steps then counts steps of shuffled epochs)"},
		{"Data", "buffer_size", whole, "16384", refused, "not built"},
		{"Data", "mix_strategy", text, "concat", works, "concat|interleave_under|interleave_over|interleave_once"},
		{"Data", "interleave_probs", numbers, "", works, "comma floats"},
		{"Data", "overwrite_cache", truth, "false", noEffect, "prepared data are addressed by their content: a change of data, tokenizer, template or settings is never served from an old cache"},
		{"Data", "preprocessing_batch_size", whole, "1000", works, "SEMANTIC: packing/PT/KTO group by this"},
		{"Data", "preprocessing_num_workers", whole, "", works, "SEMANTIC for packing/PT/KTO (contiguous shards)"},
		{"Data", "max_samples", whole, "", works, "per dataset, first N"},
		{"Data", "eval_num_beams", whole, "", refused, "beam search is not built"},
		{"Data", "ignore_pad_token_for_loss", truth, "true", refused, "padding is never trained on"},
		{"Data", "val_size", number, "0.0", works, "<1 ratio, >1 absolute"},
		{"Data", "eval_on_each_dataset", truth, "false", works, ""},
		{"Data", "packing", truth, "", works, "None => true only for pt (no -1)"},
		{"Data", "neat_packing", truth, "false", works, "sft only; block-diagonal attention"},
		{"Data", "tool_format", text, "", works, "override template tools"},
		{"Data", "default_system", text, "", works, ""},
		{"Data", "enable_thinking", truth, "true", works, "True|False|None; reasoning templates only"},
		{"Data", "preserve_thinking", truth, "false", works, ""},
		{"Data", "tokenized_path", text, "", refused, "prepared data are cached by content; leave it out"},
		{"Data", "data_shared_file_system", truth, "false", noEffect, "prepared data lie in the object store, which all workers share"},
		// Model
		{"Model", "model_name_or_path", text, "", works, ""},
		{"Model", "adapter_name_or_path", list, "", works, "comma list; all but last merged when training"},
		{"Model", "adapter_folder", text, "", works, ""},
		{"Model", "cache_dir", text, "", noEffect, "files lie in the object store; a hub cache is found by HF_HOME"},
		{"Model", "use_fast_tokenizer", truth, "true", noEffect, "there is one tokenizer implementation; tokenizer.json is always used where there is one"},
		{"Model", "resize_vocab", truth, "false", refused, "changing the vocabulary is not built yet"},
		{"Model", "split_special_tokens", truth, "false", refused, "not built"},
		{"Model", "add_tokens", list, "", refused, "not built"},
		{"Model", "add_special_tokens", list, "", refused, "not built"},
		{"Model", "new_special_tokens_config", anything, "", refused, "not built"},
		{"Model", "init_special_tokens", text, "noise_init", refused, "not built"},
		{"Model", "model_revision", text, "main", noEffect, "local folders have no revision; a hub address may name one: hf://owner/name@revision"},
		{"Model", "low_cpu_mem_usage", truth, "true", noEffect, "weights are always read by ranges, never whole"},
		{"Model", "rope_scaling", text, "", refused, "stretching positions from a configuration is not built yet; set rope_scaling in the model's config.json"},
		{"Model", "flash_attn", text, "auto", noEffect, "there is one attention kernel, which never holds the matrix of scores"},
		{"Model", "shift_attn", truth, "false", refused, "S2 attention is not built yet"},
		{"Model", "mixture_of_depths", text, "", refused, "not built"},
		{"Model", "use_unsloth", truth, "false", refused, "the engine is our own"},
		{"Model", "use_unsloth_gc", truth, "false", noEffect, "where activations are kept is the planner's decision"},
		{"Model", "enable_liger_kernel", truth, "false", noEffect, "losses never hold full logits here"},
		{"Model", "moe_aux_loss_coef", number, "", refused, "set router_aux_loss_coef in the model's config.json"},
		{"Model", "disable_gradient_checkpointing", truth, "false", noEffect, "recomputation is the planner's decision and never changes a bit of the result"},
		{"Model", "use_reentrant_gc", truth, "true", noEffect, "recomputation has one form here"},
		{"Model", "upcast_layernorm", truth, "false", noEffect, "norms are always computed in fp32"},
		{"Model", "upcast_lmhead_output", truth, "false", noEffect, "losses are always computed in fp32"},
		{"Model", "train_from_scratch", truth, "false", works, "random init from config"},
		{"Model", "infer_backend", text, "huggingface", noEffect, "generation runs in our own engine"},
		{"Model", "offload_folder", text, "offload", noEffect, "what is offloaded is the planner's decision"},
		{"Model", "use_kv_cache", truth, "true", noEffect, "generation always uses a cache of keys and values; training never does"},
		{"Model", "use_v1_kernels", truth, "false", refused, "the engine is our own"},
		{"Model", "infer_dtype", text, "auto", noEffect, "generation runs in the dtype of the training"},
		{"Model", "hf_hub_token", text, "", noEffect, "tokens come from the environment (HF_TOKEN), never from a configuration that is stored"},
		{"Model", "ms_hub_token", text, "", noEffect, "tokens come from the environment"},
		{"Model", "om_hub_token", text, "", noEffect, "tokens come from the environment"},
		{"Model", "print_param_status", truth, "false", noEffect, "tunefleet plan prints parameters, what trains and where it lies"},
		{"Model", "trust_remote_code", truth, "false", noEffect, "no code is ever loaded from a model folder"},
		// Quantization
		{"Quantization", "quantization_method", text, "bnb", refused, "only nf4 and int8 in bitsandbytes' form (bnb)"},
		{"Quantization", "quantization_bit", whole, "", works, ""},
		{"Quantization", "quantization_type", text, "nf4", works, ""},
		{"Quantization", "double_quantization", truth, "true", works, ""},
		{"Quantization", "quantization_device_map", text, "", refused, "not built"},
		// Processor
		{"Processor", "image_max_pixels", whole, "589824", refused, "images, video and audio are not read"},
		{"Processor", "image_min_pixels", whole, "1024", refused, "images, video and audio are not read"},
		{"Processor", "image_do_pan_and_scan", truth, "false", refused, "images, video and audio are not read"},
		{"Processor", "crop_to_patches", truth, "false", refused, "images, video and audio are not read"},
		{"Processor", "video_max_pixels", whole, "65536", refused, "images, video and audio are not read"},
		{"Processor", "video_min_pixels", whole, "256", refused, "images, video and audio are not read"},
		{"Processor", "video_fps", number, "2.0", refused, "images, video and audio are not read"},
		{"Processor", "video_maxlen", whole, "128", refused, "images, video and audio are not read"},
		{"Processor", "use_audio_in_video", truth, "false", refused, "images, video and audio are not read"},
		{"Processor", "audio_sampling_rate", whole, "16000", refused, "images, video and audio are not read"},
		// Export
		{"Export", "export_dir", text, "", works, ""},
		{"Export", "export_size", whole, "5", refused, "not built"},
		{"Export", "export_device", text, "cpu", noEffect, "merging runs where the worker runs; its result does not depend on it"},
		{"Export", "export_quantization_bit", text, "", refused, "not built"},
		{"Export", "export_quantization_dataset", text, "", refused, "not built"},
		{"Export", "export_quantization_nsamples", whole, "128", refused, "not built"},
		{"Export", "export_quantization_maxlen", whole, "1024", refused, "not built"},
		{"Export", "export_legacy_format", truth, "false", refused, "not built"},
		{"Export", "export_hub_model_id", text, "", refused, "not built"},
		// Vllm
		{"Vllm", "vllm_maxlen", whole, "4096", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_gpu_util", number, "0.7", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_enforce_eager", truth, "false", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_max_lora_rank", whole, "32", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_config", anything, "", refused, "generation runs in our own engine"},
		// SGLang
		{"SGLang", "sglang_maxlen", whole, "4096", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_mem_fraction", number, "0.7", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_tp_size", whole, "-1", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_config", anything, "", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_lora_backend", text, "triton", refused, "generation runs in our own engine"},
		// KTransformers
		{"KTransformers", "use_kt", truth, "false", refused, "the engine is our own"},
		{"KTransformers", "kt_cpu_activation", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_weight_path", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_non_expert_weight_path", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_expert_checkpoint_path", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_use_lora_experts", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_lora_expert_num", text, "", refused, "the engine is our own"},
		{"KTransformers", "kt_lora_expert_intermediate_size", text, "", refused, "the engine is our own"},
		// Freeze
		{"Freeze", "freeze_trainable_layers", whole, "2", works, ">0 last n, <0 first n"},
		{"Freeze", "freeze_trainable_modules", list, "all", works, ""},
		{"Freeze", "freeze_extra_modules", list, "", works, ""},
		// Lora
		{"Lora", "additional_target", list, "", works, "peft modules_to_save"},
		{"Lora", "lora_alpha", number, "", works, "None -> 2*lora_rank"},
		{"Lora", "lora_dropout", number, "0.0", works, ""},
		{"Lora", "lora_rank", whole, "8", works, ""},
		{"Lora", "lora_target", list, "all", works, "'all' = every linear but lm_head"},
		{"Lora", "loraplus_lr_ratio", number, "", works, ""},
		{"Lora", "loraplus_lr_embedding", number, "1e-06", works, ""},
		{"Lora", "use_rslora", truth, "false", works, ""},
		{"Lora", "use_dora", truth, "false", works, ""},
		{"Lora", "pissa_init", truth, "false", works, ""},
		{"Lora", "pissa_iter", whole, "16", works, "-1 = full SVD"},
		{"Lora", "pissa_convert", truth, "false", works, ""},
		{"Lora", "create_new_adapter", truth, "false", works, ""},
		// OFT
		{"OFT", "module_dropout", number, "0.0", refused, "not built"},
		{"OFT", "oft_rank", whole, "0", works, ""},
		{"OFT", "oft_block_size", whole, "32", works, ""},
		{"OFT", "oft_target", list, "all", works, ""},
		// RLHF
		{"RLHF", "pref_beta", number, "0.1", works, ""},
		{"RLHF", "pref_ftx", number, "0.0", works, ""},
		{"RLHF", "pref_bco_weight", number, "0.0", refused, "the running-mean classifier of BCO is not built"},
		{"RLHF", "pref_loss", text, "sigmoid", works, "sigmoid|hinge|ipo|kto_pair|orpo|simpo"},
		{"RLHF", "dpo_label_smoothing", number, "0.0", works, ""},
		{"RLHF", "kto_chosen_weight", number, "1.0", works, ""},
		{"RLHF", "kto_rejected_weight", number, "1.0", works, ""},
		{"RLHF", "simpo_gamma", number, "0.5", works, ""},
		{"RLHF", "ppo_buffer_size", whole, "1", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ppo_epochs", whole, "4", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ppo_score_norm", truth, "false", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ppo_target", number, "6.0", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ppo_whiten_rewards", truth, "false", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ref_model", text, "", works, ""},
		{"RLHF", "ref_model_adapters", list, "", refused, "merge the adapters into the reference model first"},
		{"RLHF", "ref_model_quantization_bit", text, "", refused, "the reference is not quantized"},
		{"RLHF", "reward_model", text, "", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "reward_model_adapters", list, "", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "reward_model_quantization_bit", text, "", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "reward_model_type", text, "lora", refused, "stage ppo is configured by a run spec (objective: ppo)"},
		{"RLHF", "ld_alpha", number, "", works, ""},
		// Galore
		{"Galore", "use_galore", truth, "false", works, ""},
		{"Galore", "galore_target", list, "all", works, ""},
		{"Galore", "galore_rank", whole, "16", works, ""},
		{"Galore", "galore_update_interval", whole, "200", works, ""},
		{"Galore", "galore_scale", number, "2.0", works, ""},
		{"Galore", "galore_proj_type", text, "std", works, "std|reverse_std|right|left|full"},
		{"Galore", "galore_layerwise", truth, "false", refused, "gradients are always reduced block by block; leave it out"},
		// Apollo
		{"Apollo", "use_apollo", truth, "false", works, ""},
		{"Apollo", "apollo_target", list, "all", works, ""},
		{"Apollo", "apollo_rank", whole, "16", works, ""},
		{"Apollo", "apollo_update_interval", whole, "200", works, ""},
		{"Apollo", "apollo_scale", number, "32.0", works, ""},
		{"Apollo", "apollo_proj", text, "random", refused, "only random"},
		{"Apollo", "apollo_proj_type", text, "std", works, ""},
		{"Apollo", "apollo_scale_type", text, "channel", works, ""},
		{"Apollo", "apollo_layerwise", truth, "false", refused, "gradients are always reduced block by block; leave it out"},
		{"Apollo", "apollo_scale_front", truth, "false", works, ""},
		// BAdam
		{"BAdam", "use_badam", truth, "false", works, ""},
		{"BAdam", "badam_mode", text, "layer", refused, "only layer"},
		{"BAdam", "badam_start_block", whole, "", works, ""},
		{"BAdam", "badam_switch_mode", text, "ascending", works, ""},
		{"BAdam", "badam_switch_interval", whole, "50", works, ""},
		{"BAdam", "badam_update_ratio", number, "0.05", refused, "belongs to badam_mode ratio"},
		{"BAdam", "badam_mask_mode", text, "adjacent", refused, "belongs to badam_mode ratio"},
		{"BAdam", "badam_verbose", whole, "0", noEffect, "the log level is --log-level"},
		// SwanLab
		{"SwanLab", "use_swanlab", truth, "false", refused, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_project", text, "llamafactory", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_workspace", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_run_name", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_mode", text, "cloud", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_api_key", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_logdir", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_lark_webhook_url", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_lark_secret", text, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		// Finetuning
		{"Finetuning", "pure_bf16", truth, "false", refused, "training in bf16 is not built yet"},
		{"Finetuning", "stage", text, "sft", works, "pt|sft|rm|ppo|dpo|kto"},
		{"Finetuning", "finetuning_type", text, "lora", works, "lora|oft|freeze|full"},
		{"Finetuning", "use_llama_pro", truth, "false", works, ""},
		{"Finetuning", "use_adam_mini", truth, "false", works, ""},
		{"Finetuning", "use_mca", truth, "false", refused, "not built"},
		{"Finetuning", "use_megatron_bridge", truth, "false", refused, "not built"},
		{"Finetuning", "use_hyper_parallel", truth, "false", refused, "not built"},
		{"Finetuning", "hyper_parallel_args", text, "", refused, "not built"},
		{"Finetuning", "hyper_parallel_cp_size", whole, "1", refused, "not built"},
		{"Finetuning", "use_muon", truth, "false", works, ""},
		{"Finetuning", "use_dft_loss", truth, "false", works, "weight CE by p"},
		{"Finetuning", "use_asft_loss", truth, "false", refused, "not built"},
		{"Finetuning", "asft_alpha", number, "0.1", noEffect, "belongs to use_asft_loss"},
		{"Finetuning", "use_eaft_loss", truth, "false", refused, "not built"},
		{"Finetuning", "eaft_alpha", number, "1.0", noEffect, "belongs to use_eaft_loss"},
		{"Finetuning", "freeze_vision_tower", truth, "true", noEffect, "there is no vision tower"},
		{"Finetuning", "freeze_multi_modal_projector", truth, "true", noEffect, "there is no projector"},
		{"Finetuning", "freeze_language_model", truth, "false", refused, "not built"},
		{"Finetuning", "compute_accuracy", truth, "false", works, "token accuracy at eval"},
		{"Finetuning", "disable_shuffling", truth, "false", works, "sequential sampler"},
		{"Finetuning", "early_stopping_steps", whole, "", works, "patience in evals"},
		{"Finetuning", "plot_loss", truth, "false", noEffect, "the dashboard and TensorBoard draw every metric; trainer_log.jsonl holds the numbers"},
		{"Finetuning", "include_effective_tokens_per_second", truth, "false", noEffect, "throughput is always logged"},
	}
}
