package config

// keyKind is the type of a key's value.
type keyKind int

// Kinds: a list may be written with commas or as YAML; numbers is a list of numbers; textOrMap is text or a mapping; anything is checked
// where it is used.
const (
	kText keyKind = iota
	kWhole
	kNumber
	kTruth
	kList
	kNumbers
	kTextOrMap
	kAnything
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
		{"Data", "template", kText, "", works, "None -> parse tokenizer chat_template, else `empty`"},
		{"Data", "dataset", kList, "", works, "comma list"},
		{"Data", "eval_dataset", kList, "", works, "comma list; mutually exclusive with val_size"},
		{"Data", "dataset_dir", kTextOrMap, "data", works, ""},
		{"Data", "media_dir", kText, "", noEffect, "there are no images, video or audio here"},
		{"Data", "cutoff_len", kWhole, "2048", works, "-1 applied at init iff packing/neat_packing explicitly true"},
		{"Data", "train_on_prompt", kTruth, "false", works, "SFT only; rejected for efficient_eos templates"},
		{"Data", "mask_history", kTruth, "false", works, "SFT only; train last turn; excl. with train_on_prompt"},
		{"Data", "streaming", kTruth, "false", works, "order of the shuffle buffer over concatenated or interleaved sets, max_steps, val_size rows from the beginning of the stream; files of a hub's data set are shards; every pass has an order of its own (that of the first where rows are chosen by sample, augment or clean.contamination); what training takes of the stream is prepared before it, by one worker"},
		{"Data", "buffer_size", kWhole, "16384", works, "rows in the shuffle buffer of streaming"},
		{"Data", "mix_strategy", kText, "concat", works, "concat|interleave_under|interleave_over|interleave_once"},
		{"Data", "interleave_probs", kNumbers, "", works, "comma floats"},
		{"Data", "overwrite_cache", kTruth, "false", noEffect, "prepared data are addressed by their content: a change of data, tokenizer, template or settings is never served from an old cache"},
		{"Data", "preprocessing_batch_size", kWhole, "1000", works, "SEMANTIC: packing/PT/KTO group by this"},
		{"Data", "preprocessing_num_workers", kWhole, "", works, "SEMANTIC for packing/PT/KTO (contiguous shards)"},
		{"Data", "max_samples", kWhole, "", works, "per dataset, first N"},
		{"Data", "eval_num_beams", kWhole, "", refused, "give num_beams"},
		{"Data", "ignore_pad_token_for_loss", kTruth, "true", works, "false pads batches as upstream's collator does and trains on the padding (dpo and kto: counts it among an answer's probabilities); it changes nothing in pt, rm and predictions, nor with packing unless cutoff_len is no multiple of 8, which neat_packing refuses then"},
		{"Data", "val_size", kNumber, "0.0", works, "<1 ratio, >1 absolute"},
		{"Data", "eval_on_each_dataset", kTruth, "false", works, ""},
		{"Data", "packing", kTruth, "", works, "None => true only for pt (no -1)"},
		{"Data", "neat_packing", kTruth, "false", works, "sft only; block-diagonal attention"},
		{"Data", "tool_format", kText, "", works, "override template tools"},
		{"Data", "default_system", kText, "", works, ""},
		{"Data", "enable_thinking", kTruth, "true", works, "True|False|None; reasoning templates only"},
		{"Data", "preserve_thinking", kTruth, "false", works, ""},
		{"Data", "tokenized_path", kText, "", works, "a folder that LLaMA-Factory, or tunefleet train, has saved: it is read in place of all other data; where there is none yet, or an empty one, tunefleet train writes it when the run has succeeded"},
		{"Data", "data_shared_file_system", kTruth, "false", noEffect, "prepared data lie in the object store, which all workers share"},
		// Model
		{"Model", "model_name_or_path", kText, "", works, ""},
		{"Model", "adapter_name_or_path", kList, "", works, "comma list; all but last merged when training"},
		{"Model", "adapter_folder", kText, "", works, ""},
		{"Model", "cache_dir", kText, "", noEffect, "files lie in the object store; a hub cache is found by HF_HOME, what is fetched goes to TUNEFLEET_REMOTE_CACHE"},
		{"Model", "use_fast_tokenizer", kTruth, "true", noEffect, "there is one tokenizer implementation; tokenizer.json is always used where there is one"},
		{"Model", "resize_vocab", kTruth, "false", works, "always on where tokens are added; also for a template's stop words that the tokenizer lacks; to a multiple of 64, new rows are the mean of the old ones with the noise that torch draws; needs tokenizer.json"},
		{"Model", "split_special_tokens", kTruth, "false", refused, "not built"},
		{"Model", "add_tokens", kList, "", works, "added to tokenizer.json"},
		{"Model", "add_special_tokens", kList, "", works, "added to tokenizer.json as special tokens"},
		{"Model", "new_special_tokens_config", kAnything, "", refused, "not built"},
		{"Model", "init_special_tokens", kText, "noise_init", refused, "not built"},
		{"Model", "model_revision", kText, "main", works, "branch, tag or commit of a hub's repository; an address may name one itself: hf://owner/name@revision"},
		{"Model", "low_cpu_mem_usage", kTruth, "true", noEffect, "weights are always read by ranges, never whole"},
		{"Model", "rope_scaling", kText, "", works, "linear, dynamic, yarn or llama3; where cutoff_len exceeds the model's length"},
		{"Model", "flash_attn", kText, "auto", noEffect, "there is one attention kernel, which never holds the matrix of scores"},
		{"Model", "shift_attn", kTruth, "false", works, "shifted short attention in training, groups of a quarter of a sequence; llama only; stage sft pads batches to a multiple of 8 as upstream does, and is refused with packing; in other stages all sequences of a batch must have one length that is a multiple of 8, as packed ones of pt"},
		{"Model", "mixture_of_depths", kText, "", refused, "not built"},
		{"Model", "use_unsloth", kTruth, "false", refused, "the engine is our own"},
		{"Model", "use_unsloth_gc", kTruth, "false", noEffect, "where activations are kept is the planner's decision"},
		{"Model", "enable_liger_kernel", kTruth, "false", noEffect, "losses never hold full logits here"},
		{"Model", "moe_aux_loss_coef", kNumber, "", works, "weight of the routers' load-balancing loss; an architecture without one is refused"},
		{"Model", "disable_gradient_checkpointing", kTruth, "false", noEffect, "recomputation is the planner's decision and never changes a bit of the result"},
		{"Model", "use_reentrant_gc", kTruth, "true", noEffect, "recomputation has one form here"},
		{"Model", "upcast_layernorm", kTruth, "false", noEffect, "norms are always computed in fp32"},
		{"Model", "upcast_lmhead_output", kTruth, "false", noEffect, "losses are always computed in fp32"},
		{"Model", "train_from_scratch", kTruth, "false", works, "random weights by config.json: the numbers that torch draws, for models of embeddings, Linear and norms"},
		{"Model", "infer_backend", kText, "huggingface", noEffect, "generation runs in our own engine"},
		{"Model", "offload_folder", kText, "offload", noEffect, "what is offloaded is the planner's decision"},
		{"Model", "use_kv_cache", kTruth, "true", noEffect, "generation always uses a cache of keys and values; training never does"},
		{"Model", "use_v1_kernels", kTruth, "false", refused, "the engine is our own"},
		{"Model", "infer_dtype", kText, "auto", works, "auto, float32, bfloat16 or float16: what predictions without do_train compute in (unless bf16 or fp16 say so) and what export writes; auto is the model's own, for export tensor by tensor (upstream exports float32 as bf16 where a GPU has it)"},
		{"Model", "hf_hub_token", kText, "", noEffect, "tokens come from the environment (HF_TOKEN), never from a configuration that is stored"},
		{"Model", "ms_hub_token", kText, "", noEffect, "tokens come from the environment (MODELSCOPE_API_TOKEN)"},
		{"Model", "om_hub_token", kText, "", noEffect, "openMind is not read"},
		{"Model", "print_param_status", kTruth, "false", noEffect, "tunefleet plan prints parameters, what trains and where it lies"},
		{"Model", "trust_remote_code", kTruth, "false", noEffect, "no code is ever loaded from a model folder"},
		// Quantization
		{"Quantization", "quantization_method", kText, "bnb", refused, "only nf4 and int8 in bitsandbytes' form (bnb)"},
		{"Quantization", "quantization_bit", kWhole, "", works, ""},
		{"Quantization", "quantization_type", kText, "nf4", refused, "fp4, which has another table of 16 values, is not in the kernels, only nf4 is; with quantization_bit 8 upstream does not look at it"},
		{"Quantization", "double_quantization", kTruth, "true", works, ""},
		{"Quantization", "quantization_device_map", kText, "", refused, "not built"},
		// Processor
		{"Processor", "image_max_pixels", kWhole, "589824", refused, "images, video and audio are not read"},
		{"Processor", "image_min_pixels", kWhole, "1024", refused, "images, video and audio are not read"},
		{"Processor", "image_do_pan_and_scan", kTruth, "false", refused, "images, video and audio are not read"},
		{"Processor", "crop_to_patches", kTruth, "false", refused, "images, video and audio are not read"},
		{"Processor", "video_max_pixels", kWhole, "65536", refused, "images, video and audio are not read"},
		{"Processor", "video_min_pixels", kWhole, "256", refused, "images, video and audio are not read"},
		{"Processor", "video_fps", kNumber, "2.0", refused, "images, video and audio are not read"},
		{"Processor", "video_maxlen", kWhole, "128", refused, "images, video and audio are not read"},
		{"Processor", "use_audio_in_video", kTruth, "false", refused, "images, video and audio are not read"},
		{"Processor", "audio_sampling_rate", kWhole, "16000", refused, "images, video and audio are not read"},
		// Export
		{"Export", "export_dir", kText, "", works, ""},
		{"Export", "export_size", kWhole, "5", noEffect, "merged weights are one file"},
		{"Export", "export_device", kText, "cpu", noEffect, "merging runs where the worker runs; its result does not depend on it"},
		{"Export", "export_quantization_bit", kText, "", refused, "not built"},
		{"Export", "export_quantization_dataset", kText, "", refused, "not built"},
		{"Export", "export_quantization_nsamples", kWhole, "128", refused, "not built"},
		{"Export", "export_quantization_maxlen", kWhole, "1024", refused, "not built"},
		{"Export", "export_legacy_format", kTruth, "false", refused, "only safetensors are written"},
		{"Export", "export_hub_model_id", kText, "", refused, "not built"},
		// Vllm
		{"Vllm", "vllm_maxlen", kWhole, "4096", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_gpu_util", kNumber, "0.7", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_enforce_eager", kTruth, "false", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_max_lora_rank", kWhole, "32", refused, "generation runs in our own engine"},
		{"Vllm", "vllm_config", kAnything, "", refused, "generation runs in our own engine"},
		// SGLang
		{"SGLang", "sglang_maxlen", kWhole, "4096", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_mem_fraction", kNumber, "0.7", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_tp_size", kWhole, "-1", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_config", kAnything, "", refused, "generation runs in our own engine"},
		{"SGLang", "sglang_lora_backend", kText, "triton", refused, "generation runs in our own engine"},
		// KTransformers
		{"KTransformers", "use_kt", kTruth, "false", refused, "the engine is our own"},
		{"KTransformers", "kt_cpu_activation", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_weight_path", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_non_expert_weight_path", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_expert_checkpoint_path", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_use_lora_experts", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_lora_expert_num", kText, "", refused, "the engine is our own"},
		{"KTransformers", "kt_lora_expert_intermediate_size", kText, "", refused, "the engine is our own"},
		// Freeze
		{"Freeze", "freeze_trainable_layers", kWhole, "2", works, ">0 last n, <0 first n"},
		{"Freeze", "freeze_trainable_modules", kList, "all", works, ""},
		{"Freeze", "freeze_extra_modules", kList, "", works, ""},
		// Lora
		{"Lora", "additional_target", kList, "", works, "peft modules_to_save"},
		{"Lora", "lora_alpha", kNumber, "", works, "None -> 2*lora_rank"},
		{"Lora", "lora_dropout", kNumber, "0.0", works, ""},
		{"Lora", "lora_rank", kWhole, "8", works, ""},
		{"Lora", "lora_target", kList, "all", works, "'all' = every linear but lm_head"},
		{"Lora", "loraplus_lr_ratio", kNumber, "", works, ""},
		{"Lora", "loraplus_lr_embedding", kNumber, "1e-06", works, ""},
		{"Lora", "use_rslora", kTruth, "false", works, ""},
		{"Lora", "use_dora", kTruth, "false", works, ""},
		{"Lora", "pissa_init", kTruth, "false", works, ""},
		{"Lora", "pissa_iter", kWhole, "16", works, "-1 = full SVD"},
		{"Lora", "pissa_convert", kTruth, "false", noEffect, "the adapter that is exported is always one of the original base"},
		{"Lora", "create_new_adapter", kTruth, "false", works, ""},
		// OFT
		{"OFT", "module_dropout", kNumber, "0.0", refused, "not built"},
		{"OFT", "oft_rank", kWhole, "0", works, ""},
		{"OFT", "oft_block_size", kWhole, "32", works, ""},
		{"OFT", "oft_target", kList, "all", works, ""},
		// RLHF
		{"RLHF", "pref_beta", kNumber, "0.1", works, ""},
		{"RLHF", "pref_ftx", kNumber, "0.0", works, ""},
		{"RLHF", "pref_bco_weight", kNumber, "0.0", refused, "the running-mean classifier of BCO is not built"},
		{"RLHF", "pref_loss", kText, "sigmoid", works, "sigmoid|hinge|ipo|kto_pair|orpo|simpo"},
		{"RLHF", "dpo_label_smoothing", kNumber, "0.0", works, ""},
		{"RLHF", "kto_chosen_weight", kNumber, "1.0", works, ""},
		{"RLHF", "kto_rejected_weight", kNumber, "1.0", works, ""},
		{"RLHF", "simpo_gamma", kNumber, "0.5", works, ""},
		{"RLHF", "ppo_buffer_size", kWhole, "1", refused, "all completions of a step make each of its ppo_epochs updates; a larger batch is gradient_accumulation_steps"},
		{"RLHF", "ppo_epochs", kWhole, "4", works, "updates made of the completions of a step"},
		{"RLHF", "ppo_score_norm", kTruth, "false", refused, "scores are not scaled by their running moments; ppo_whiten_rewards normalizes a step's rewards"},
		{"RLHF", "ppo_target", kNumber, "6.0", refused, "the divergence from the reference weighs 0.2 throughout; upstream's weight begins there and moves by at most a fifth of the batch in 10,000 a step"},
		{"RLHF", "ppo_whiten_rewards", kTruth, "false", works, ""},
		{"RLHF", "ref_model", kText, "", works, ""},
		{"RLHF", "ref_model_adapters", kList, "", works, "merged into ref_model"},
		{"RLHF", "ref_model_quantization_bit", kText, "", refused, "the reference is not quantized"},
		{"RLHF", "reward_model", kText, "", works, "stage ppo: a PEFT folder on the base model (reward_model_type lora) or a model (full), with the value_head.safetensors that stage rm writes"},
		{"RLHF", "reward_model_adapters", kList, "", works, "merged into reward_model; the head is the last one's"},
		{"RLHF", "reward_model_quantization_bit", kText, "", refused, "the reward model is not quantized"},
		{"RLHF", "reward_model_type", kText, "lora", works, "lora or full; api is refused, since workers ask no server for rewards"},
		{"RLHF", "ld_alpha", kNumber, "", works, ""},
		// Galore
		{"Galore", "use_galore", kTruth, "false", works, ""},
		{"Galore", "galore_target", kList, "all", works, ""},
		{"Galore", "galore_rank", kWhole, "16", works, ""},
		{"Galore", "galore_update_interval", kWhole, "200", works, ""},
		{"Galore", "galore_scale", kNumber, "2.0", works, ""},
		{"Galore", "galore_proj_type", kText, "std", works, "std|reverse_std|right|left|full"},
		{"Galore", "galore_layerwise", kTruth, "false", works, "as by_block"},
		// Apollo
		{"Apollo", "use_apollo", kTruth, "false", works, ""},
		{"Apollo", "apollo_target", kList, "all", works, ""},
		{"Apollo", "apollo_rank", kWhole, "16", works, ""},
		{"Apollo", "apollo_update_interval", kWhole, "200", works, ""},
		{"Apollo", "apollo_scale", kNumber, "32.0", works, ""},
		{"Apollo", "apollo_proj", kText, "random", refused, "only random"},
		{"Apollo", "apollo_proj_type", kText, "std", works, ""},
		{"Apollo", "apollo_scale_type", kText, "channel", works, ""},
		{"Apollo", "apollo_layerwise", kTruth, "false", works, "as by_block"},
		{"Apollo", "apollo_scale_front", kTruth, "false", works, ""},
		// BAdam
		{"BAdam", "use_badam", kTruth, "false", works, "weight_decay counts; upstream, badam's blocks take the 0.01 of torch's AdamW, biases and norms too, whatever weight_decay says"},
		{"BAdam", "badam_mode", kText, "layer", refused, "only layer"},
		{"BAdam", "badam_start_block", kWhole, "", works, ""},
		{"BAdam", "badam_switch_mode", kText, "ascending", works, ""},
		{"BAdam", "badam_switch_interval", kWhole, "50", works, ""},
		{"BAdam", "badam_update_ratio", kNumber, "0.05", refused, "belongs to badam_mode ratio"},
		{"BAdam", "badam_mask_mode", kText, "adjacent", refused, "belongs to badam_mode ratio"},
		{"BAdam", "badam_verbose", kWhole, "0", noEffect, "the log level is --log-level"},
		// SwanLab
		{"SwanLab", "use_swanlab", kTruth, "false", refused, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_project", kText, "llamafactory", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_workspace", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_run_name", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_mode", kText, "cloud", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_api_key", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_logdir", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_lark_webhook_url", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		{"SwanLab", "swanlab_lark_secret", kText, "", noEffect, "metrics go to trainer_log.jsonl, TensorBoard and OTLP"},
		// Finetuning
		{"Finetuning", "pure_bf16", kTruth, "false", works, "trained weights in bf16 too; updates are computed in fp32 and rounded to the nearest"},
		{"Finetuning", "stage", kText, "sft", works, "pt|sft|rm|ppo|dpo|kto; ppo computes TRL 0.24's losses (upstream wants 0.8.6 to 0.9.6): log-probabilities at the temperature that completions are drawn at"},
		{"Finetuning", "finetuning_type", kText, "lora", works, "lora|oft|freeze|full"},
		{"Finetuning", "use_llama_pro", kTruth, "false", works, ""},
		{"Finetuning", "use_adam_mini", kTruth, "false", works, ""},
		{"Finetuning", "use_mca", kTruth, "false", refused, "not built"},
		{"Finetuning", "use_megatron_bridge", kTruth, "false", refused, "not built"},
		{"Finetuning", "use_hyper_parallel", kTruth, "false", refused, "not built"},
		{"Finetuning", "hyper_parallel_args", kText, "", refused, "not built"},
		{"Finetuning", "hyper_parallel_cp_size", kWhole, "1", refused, "not built"},
		{"Finetuning", "use_muon", kTruth, "false", works, "in bfloat16, as upstream's"},
		{"Finetuning", "use_dft_loss", kTruth, "false", works, "weight CE by p; label_smoothing_factor has no effect then"},
		{"Finetuning", "use_asft_loss", kTruth, "false", refused, "not built"},
		{"Finetuning", "asft_alpha", kNumber, "0.1", noEffect, "belongs to use_asft_loss"},
		{"Finetuning", "use_eaft_loss", kTruth, "false", refused, "not built"},
		{"Finetuning", "eaft_alpha", kNumber, "1.0", noEffect, "belongs to use_eaft_loss"},
		{"Finetuning", "freeze_vision_tower", kTruth, "true", noEffect, "there is no vision tower"},
		{"Finetuning", "freeze_multi_modal_projector", kTruth, "true", noEffect, "there is no projector"},
		{"Finetuning", "freeze_language_model", kTruth, "false", refused, "not built"},
		{"Finetuning", "compute_accuracy", kTruth, "false", works, "token accuracy at eval"},
		{"Finetuning", "disable_shuffling", kTruth, "false", works, "sequential sampler"},
		{"Finetuning", "early_stopping_steps", kWhole, "", works, "patience in evals"},
		{"Finetuning", "plot_loss", kTruth, "false", noEffect, "the dashboard and TensorBoard draw every metric; trainer_log.jsonl holds the numbers"},
		{"Finetuning", "include_effective_tokens_per_second", kTruth, "false", noEffect, "throughput is always logged"},
	}
}
