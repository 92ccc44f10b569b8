package adapter_test

import "github.com/tunefleet/tunefleet/gpuworker/adapter"

// tinyMixtures are models whose experts are linear modules of their own, or slices of one parameter, with routers that are linear modules or
// not.
var tinyMixtures = map[string]string{
	"mixtral": `{"architectures":["MixtralForCausalLM"],"model_type":"mixtral","vocab_size":53,"hidden_size":24,"intermediate_size":20,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":5,"num_experts_per_tok":2,"max_position_embeddings":64,"initializer_range":0.2,"tie_word_embeddings":false}`,
	"qwen2_moe": `{"architectures":["Qwen2MoeForCausalLM"],"model_type":"qwen2_moe","vocab_size":53,"hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,
"num_attention_heads":4,"num_key_value_heads":2,"num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":14,"shared_expert_intermediate_size":18,
"decoder_sparse_step":1,"max_position_embeddings":64,"initializer_range":0.2,"tie_word_embeddings":true}`,
	"deepseek_v3": `{"architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","vocab_size":53,"hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,
"num_attention_heads":4,"num_key_value_heads":4,"q_lora_rank":12,"kv_lora_rank":10,"qk_nope_head_dim":4,"qk_rope_head_dim":4,"v_head_dim":6,"n_routed_experts":6,
"n_shared_experts":1,"n_group":2,"topk_group":1,"num_experts_per_tok":2,"first_k_dense_replace":1,"moe_intermediate_size":14,"routed_scaling_factor":2.5,
"norm_topk_prob":true,"max_position_embeddings":64,"initializer_range":0.2,"tie_word_embeddings":false}`,
	"granitemoeshared": `{"architectures":["GraniteMoeSharedForCausalLM"],"model_type":"granitemoeshared","vocab_size":53,"hidden_size":24,"intermediate_size":20,
"shared_intermediate_size":18,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":4,"num_experts_per_tok":2,
"max_position_embeddings":64,"initializer_range":0.2,"tie_word_embeddings":false}`,
	"gpt_oss": `{"architectures":["GptOssForCausalLM"],"model_type":"gpt_oss","vocab_size":53,"hidden_size":24,"intermediate_size":20,"num_hidden_layers":2,"head_dim":6,
"num_attention_heads":4,"num_key_value_heads":2,"num_local_experts":4,"num_experts_per_tok":2,"sliding_window":4,"layer_types":["sliding_attention","full_attention"],
"max_position_embeddings":64,"rope_scaling":null,"initializer_range":0.2,"tie_word_embeddings":false}`,
}

// mixtureCases are adapters of those: what PEFT reaches, under names by which it finds the same modules again.
func mixtureCases() []*peftCase {
	all := []string{"all"}
	return []*peftCase{
		{Name: "experts", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, Targets: all}},
		{Name: "experts-dora", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, DoRA: true, Targets: []string{"w2", "gate"}}},
		{Name: "experts-rslora", Base: "qwen2_moe", config: adapter.Config{Rank: 3, Alpha: 6, RSLoRA: true, Targets: []string{"all-linear"}}},
		{Name: "experts-some-layers", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"w1", "q_proj"}, Layers: func(b int) bool { return b != 1 }}},
		{Name: "llama-pro-experts", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, Spread: 1, Targets: []string{"w1", "q_proj"}}},
		{Name: "one-expert", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"experts.3.w2", "layers.2.block_sparse_moe.gate"}}},
		{Name: "experts-oft", Base: "qwen2_moe", config: adapter.Config{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 2}, Targets: []string{"up_proj", "gate"}}},
		{Name: "latent", Base: "deepseek_v3", config: adapter.Config{Rank: 3, Alpha: 6, Targets: all}},
		{Name: "router-saved", Base: "deepseek_v3", config: adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"q_b_proj", "down_proj"}, Save: []string{"gate"}}},
		{Name: "linear-router-saved", Base: "mixtral", config: adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"w2"}, Save: []string{"gate"}}},
		{Name: "stacked-beside-shared", Base: "granitemoeshared", config: adapter.Config{Rank: 3, Alpha: 6, Targets: all}},
		{Name: "stacked", Base: "gpt_oss", config: adapter.Config{Rank: 3, Alpha: 6, DoRA: true, Targets: all}},
	}
}
