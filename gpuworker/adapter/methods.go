package adapter

// Method describes one way to train for people: what `tunefleet models` prints.
type Method struct {
	// Name is what people call it.
	Name string `json:"name"`
	// Spec is the run spec's method and the keys that choose it, Factory LLaMA-Factory's.
	Spec    string `json:"spec"`
	Factory string `json:"llamafactory,omitempty"`
	// Files says what is read and written: "hf" folders of weights, "peft" folders that PEFT reads and writes, "own" PEFT-like folders.
	Files string `json:"files"`
	// Mergeable says whether its result becomes part of the base's weights.
	Mergeable bool `json:"mergeable"`
	// Precisions are those that its tests cover; Reference is what they compare with.
	Precisions []string `json:"precisions"`
	Reference  string   `json:"reference"`
	// Paper is where it comes from.
	Paper string `json:"paper,omitempty"`
}

// Methods lists the methods of fine-tuning.
func Methods() []Method {
	fp32, both := []string{"fp32"}, []string{"fp32", "bf16"}
	peft := func(name, spec, factory, paper string) Method {
		return Method{Name: name, Spec: spec, Factory: factory, Files: "peft", Mergeable: true, Precisions: both, Reference: "peft 0.18.1", Paper: paper}
	}
	only32 := func(m Method) Method {
		m.Precisions = fp32
		return m
	}
	return []Method{
		{Name: "full", Spec: "method: full", Factory: "finetuning_type: full", Files: "hf", Mergeable: true, Precisions: both, Reference: "torch 2.9.1, transformers 4.57.6"},
		{Name: "freeze", Spec: "method: freeze, freeze_layers or freeze.{trainable_layers,modules,extra}",
			Factory: "finetuning_type: freeze, freeze_trainable_layers, freeze_trainable_modules, freeze_extra_modules", Files: "hf", Mergeable: true,
			Precisions: fp32, Reference: "torch 2.9.1, transformers 4.57.6"},
		{Name: "LLaMA-Pro", Spec: "method: freeze, expand_blocks, freeze.llama_pro, lora.llama_pro or oft.llama_pro", Factory: "use_llama_pro, freeze_trainable_layers with finetuning_type freeze, lora or oft (the model is expanded already; expand_blocks does it within a run)",
			Files: "hf", Mergeable: true, Precisions: fp32, Reference: "the unexpanded model", Paper: "https://arxiv.org/abs/2401.02415"},
		peft("LoRA", "method: lora", "finetuning_type: lora", "https://arxiv.org/abs/2106.09685"),
		peft("rsLoRA", "lora.rslora", "use_rslora", "https://arxiv.org/abs/2312.03732"),
		peft("DoRA", "lora.dora", "use_dora", "https://arxiv.org/abs/2402.09353"),
		only32(peft("LoRA+", "lora.plus_ratio, lora.plus_embedding_lr", "loraplus_lr_ratio, loraplus_lr_embedding", "https://arxiv.org/abs/2402.12354")),
		peft("PiSSA", "lora.pissa, lora.pissa_iter", "pissa_init, pissa_iter, pissa_convert (always converted)", "https://arxiv.org/abs/2404.02948"),
		peft("LoRA on embeddings and heads", "lora.targets: [embed_tokens, lm_head]", "lora_target", "https://arxiv.org/abs/2106.09685"),
		peft("modules trained whole", "lora.modules_to_save, oft.modules_to_save", "additional_target", ""),
		only32(peft("existing adapters", "adapters, create_new_adapter", "adapter_name_or_path, create_new_adapter", "")),
		peft("OFT", "method: oft, oft.rank or oft.block_size", "finetuning_type: oft, oft_rank, oft_block_size, oft_target", "https://arxiv.org/abs/2306.07280"),
		{Name: "bottleneck adapters", Spec: "method: bottleneck, bottleneck.kind: houlsby or pfeiffer", Files: "own", Precisions: both,
			Reference: "the published layer in torch", Paper: "https://arxiv.org/abs/1902.00751, https://arxiv.org/abs/2005.00247"},
		{Name: "QLoRA (nf4)", Spec: "quant: {bits: 4, type: nf4, double: true} with lora, oft or bottleneck", Factory: "quantization_bit: 4, quantization_type: nf4, double_quantization",
			Files: "peft", Mergeable: true, Precisions: []string{"nf4 base, fp32", "nf4 base, bf16"}, Reference: "bitsandbytes 0.48.2", Paper: "https://arxiv.org/abs/2305.14314"},
		{Name: "QLoRA (int8)", Spec: "quant: {bits: 8, type: int8}", Factory: "quantization_bit: 8", Files: "peft", Mergeable: true,
			Precisions: []string{"int8 base, fp32", "int8 base, bf16"}, Reference: "bitsandbytes 0.48.2 (weights; activations stay fp32)", Paper: "https://arxiv.org/abs/2208.07339"},
	}
}
