"""Writes a model of every architecture with options drawn at random from those of its configuration, computed by transformers, in the
layout of the reference fixtures: types on disk, sharded files, padding on either side and in the middle, positions of one's own, tokens of
padding among those attended to, every rotary scaling, windows, odd sizes.

usage: make.py OUT SEED [NAME...]. Each becomes OUT/NAME_SEED. What transformers itself cannot run is said and left out. gen.ids are those
of full passes: transformers' cache keeps other keys than a full pass sees where windows and frequencies change with the length.
"""

import builtins
import json
import random
import sys
import warnings

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging
warnings.filterwarnings("ignore")
logging.set_verbosity_error()
torch.set_num_threads(1)
PreTrainedModel.initialize_weights = lambda self: None


def B(r, p=0.5):
    return r.random() < p


def C(r, *a):
    return r.choice(a)


def rope(r, dim, kinds=("linear", "dynamic", "yarn", "llama3", "longrope")):
    """Keys of rotary scaling and of lengths."""
    if B(r, 0.3):
        return dict(max_position_embeddings=96)
    k = r.choice(kinds)
    key = "rope_type"
    s = {key: k, "factor": C(r, 1.5, 2.0, 4.0, 8.0)}
    more = dict(max_position_embeddings=C(r, 16, 40, 96))
    if k == "yarn":
        if B(r, 0.8): s.update(original_max_position_embeddings=C(r, 8, 12, 20, 64))
        if B(r): s.update(beta_fast=C(r, 4.0, 16.0), beta_slow=C(r, 0.25, 0.5, 1.0))
        if B(r, 0.3): s.update(attention_factor=C(r, 0.7, 1.3))
        if B(r, 0.3): s.update(truncate=B(r))
        if B(r, 0.3): s.update(mscale=C(r, 0.7, 1.0), mscale_all_dim=C(r, 0.5, 1.0))
    if k == "llama3":
        s.update(low_freq_factor=1.0, high_freq_factor=C(r, 2.0, 4.0), original_max_position_embeddings=C(r, 16, 32, 64))
    if k == "longrope":
        h = dim // 2
        s.update(long_factor=[round(r.uniform(1, 4), 2) for _ in range(h)], short_factor=[round(r.uniform(1, 1.6), 2) for _ in range(h)])
        if B(r, 0.3): s.update(attention_factor=C(r, 0.8, 1.2))
        more["original_max_position_embeddings"] = C(r, 12, 64)
    more["rope_scaling"] = s
    return more

def sizes(r, dims=(4, 6, 8, 10), own_dim=False, **more):
    heads = C(r, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12)
    kv = r.choice([k for k in range(1, heads + 1) if heads % k == 0])
    dim = r.choice(dims)
    d = dict(vocab_size=C(r, 61, 97, 131, 193, 256, 307, 411), hidden_size=heads * dim, intermediate_size=C(r, 17, 26, 33, 64, 74), num_hidden_layers=C(r, 1, 2, 3, 4),
             num_attention_heads=heads, num_key_value_heads=kv, tie_word_embeddings=B(r), rope_theta=C(r, 100.0, 10000.0, 500000.0),
             max_position_embeddings=96, rms_norm_eps=C(r, 1e-5, 1e-6, 1e-3))
    if own_dim:
        hd = C(r, 4, 6, 8, 10, 14)
        d.update(head_dim=hd, hidden_size=C(r, 15, 24, 30, 33, 42))
    d.update(more)
    return d

def dim(d):
    return d.get("head_dim") or d["hidden_size"] // d["num_attention_heads"]

def act(r):
    return C(r, "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "swish", "tanh", "gelu_fast")

def types(r, n):
    return [C(r, "full_attention", "sliding_attention") for _ in range(n)]

def llama(r):
    d = sizes(r, own_dim=B(r), attention_bias=B(r), mlp_bias=B(r), hidden_act=act(r) if B(r) else "silu")
    return dict(d, **rope(r, dim(d)))

def mistral(r):
    d = sizes(r, own_dim=B(r), sliding_window=C(r, None, 2, 3, 8), hidden_act=act(r) if B(r, .3) else "silu")
    return dict(d, **rope(r, dim(d)))

def qwen2(r):
    d = sizes(r)
    n = d["num_hidden_layers"]
    d.update(use_sliding_window=B(r, .7), sliding_window=C(r, 3, 7), max_window_layers=r.randint(0, n))
    if B(r, .4): d.update(layer_types=types(r, n))
    return dict(d, **rope(r, dim(d)))

def qwen3(r):
    d = qwen2(r)
    d.pop("rope_scaling", None)
    d.update(head_dim=C(r, 4, 6, 10, 16), attention_bias=B(r))
    return dict(d, **rope(r, d["head_dim"]))

def smollm3(r):
    d = sizes(r)
    n = d["num_hidden_layers"]
    d.update(use_sliding_window=B(r), sliding_window=C(r, 3, 7), attention_bias=B(r), mlp_bias=B(r))
    if B(r): d.update(no_rope_layers=[r.randint(0, 1) for _ in range(n)])
    else: d.update(no_rope_layer_interval=C(r, 1, 2, 3))
    if B(r, .4): d.update(layer_types=types(r, n))
    return dict(d, **rope(r, dim(d)))

def experts(r):
    n = C(r, 2, 5, 7, 8, 9)
    return n, r.randint(1, min(n, 4))

def mixtral(r):
    n, k = experts(r)
    d = sizes(r, own_dim=B(r), num_local_experts=n, num_experts_per_tok=k, sliding_window=C(r, None, 2, 6), router_aux_loss_coef=C(r, 0.001, 0.02))
    return dict(d, **rope(r, dim(d)))

def qwen2_moe(r):
    n, k = experts(r)
    d = qwen2(r)
    d.update(num_experts=n, num_experts_per_tok=k, moe_intermediate_size=C(r, 9, 14), shared_expert_intermediate_size=C(r, 11, 20), norm_topk_prob=B(r),
             decoder_sparse_step=C(r, 1, 2, 3), mlp_only_layers=sorted(r.sample(range(d["num_hidden_layers"]), C(r, 0, 1))), qkv_bias=B(r, .7))
    d.pop("layer_types", None)
    return d

def qwen3_moe(r):
    d = qwen3(r)
    n, k = experts(r)
    d.pop("layer_types", None)
    d.update(num_experts=n, num_experts_per_tok=k, moe_intermediate_size=C(r, 9, 14), norm_topk_prob=B(r),
             decoder_sparse_step=C(r, 1, 2), mlp_only_layers=sorted(r.sample(range(d["num_hidden_layers"]), C(r, 0, 1))))
    return d

def olmoe(r):
    n, k = experts(r)
    d = sizes(r, num_experts=n, num_experts_per_tok=k, norm_topk_prob=B(r), clip_qkv=C(r, None, 0.7), attention_bias=B(r))
    return dict(d, **rope(r, dim(d)))

def flex_olmo(r):
    d = olmoe(r); d.pop("clip_qkv")
    return d

def granite(r):
    d = sizes(r, attention_bias=B(r), mlp_bias=B(r), embedding_multiplier=C(r, 1.0, 2.5, 12.0), logits_scaling=C(r, 1.0, 1.7, 8.0), residual_multiplier=C(r, 0.22, 1.0),
              attention_multiplier=C(r, 0.1, 0.3, 1.0), hidden_act=act(r) if B(r, .3) else "silu")
    return dict(d, **rope(r, dim(d)))

def granitemoe(r):
    n, k = experts(r)
    d = granite(r); d.pop("mlp_bias")
    return dict(d, num_local_experts=n, num_experts_per_tok=k)

def granitemoeshared(r):
    return dict(granitemoe(r), shared_intermediate_size=C(r, 0, 11, 20))

def yarn_mla(r):
    if B(r, .4): return None
    s = {C(r, "rope_type", "type"): "yarn", "factor": C(r, 2.0, 5.0, 40.0), "original_max_position_embeddings": C(r, 8, 12, 64), "beta_fast": C(r, 32.0, 4.0), "beta_slow": C(r, 1.0, 0.25)}
    if B(r, .7): s.update(mscale=C(r, 0.7, 0.707, 1.0), mscale_all_dim=C(r, 0.6, 0.707, 1.0))
    return s

def shared(r, d, groups):
    n = groups * C(r, 2, 3, 4)
    keep = r.randint(1, groups)
    d.update(n_routed_experts=n, n_shared_experts=C(r, 1, 2), num_experts_per_tok=r.randint(1, min(4, n // groups * keep)), n_group=groups, topk_group=keep,
             moe_intermediate_size=C(r, 9, 14), routed_scaling_factor=C(r, 1.0, 2.5, 16.0), norm_topk_prob=B(r), first_k_dense_replace=r.randint(0, d["num_hidden_layers"]))
    return d

def latent(r):
    d = sizes(r)
    d.update(num_key_value_heads=d["num_attention_heads"], q_lora_rank=C(r, None, 11, 24), kv_lora_rank=C(r, 8, 14), qk_nope_head_dim=C(r, 4, 6), qk_rope_head_dim=C(r, 4, 6),
             v_head_dim=C(r, 4, 6, 10), rope_scaling=yarn_mla(r), attention_bias=B(r))
    return d

def deepseek_v2(r):
    lim = B(r, .6)
    d = dict(latent(r), topk_method="group_limited_greedy" if lim else "greedy", mlp_bias=B(r, .4), moe_layer_freq=1)
    d = shared(r, d, C(r, 2, 3) if lim else 1)
    return d

def deepseek_v3(r):
    return shared(r, dict(latent(r), rope_interleave=B(r, .7)), C(r, 1, 2, 3))

def glm4_moe(r):
    d = sizes(r, head_dim=8, partial_rotary_factor=C(r, .5, .75, 1.0), use_qk_norm=B(r), attention_bias=B(r))
    d = shared(r, d, C(r, 1, 2, 3))
    return dict(d, **rope(r, int(8 * d["partial_rotary_factor"])))

def dots1(r):
    d = sizes(r, head_dim=C(r, 6, 8), attention_bias=B(r))
    n = d["num_hidden_layers"]
    d.update(sliding_window=C(r, 3, 8), max_window_layers=r.randint(0, n))
    if B(r): d.update(layer_types=types(r, n))
    return shared(r, d, C(r, 1, 3))

def gpt_oss(r):
    n, k = experts(r)
    d = sizes(r, head_dim=C(r, 6, 8, 10), num_local_experts=n, num_experts_per_tok=k, sliding_window=C(r, 3, 6))
    if B(r): d.update(layer_types=types(r, d["num_hidden_layers"]))
    if B(r, .8): d.update(rope_scaling=dict(rope_type="yarn", factor=C(r, 4.0, 32.0), original_max_position_embeddings=C(r, 12, 32), beta_fast=C(r, 32.0, 4.0), beta_slow=C(r, 1.0, .25), truncate=B(r)))
    else: d.update(rope_scaling=None)
    return d

def gemma(r):
    d = sizes(r, own_dim=True, attention_bias=B(r))
    d.update({C(r, "hidden_act", "hidden_activation"): C(r, "gelu", "gelu_pytorch_tanh")} if B(r) else {})
    return dict(d, **rope(r, dim(d)))

def gemma2(r):
    d = sizes(r, own_dim=True, attention_bias=B(r), sliding_window=C(r, 3, 5, 8), query_pre_attn_scalar=C(r, 9, 17), attn_logit_softcapping=C(r, None, 2.0, 30.0),
              final_logit_softcapping=C(r, None, 5.0, 20.0), hidden_activation=C(r, "gelu", "gelu_pytorch_tanh"))
    if B(r): d.update(layer_types=types(r, d["num_hidden_layers"]))
    return dict(d, **rope(r, dim(d), ("linear", "dynamic", "yarn", "llama3")))

def gemma3_text(r):
    d = sizes(r, own_dim=True, attention_bias=B(r), sliding_window=C(r, 3, 5, 8), query_pre_attn_scalar=C(r, 9, 17), final_logit_softcapping=C(r, None, None, 5.0),
              attn_logit_softcapping=None, hidden_activation=C(r, "gelu", "gelu_pytorch_tanh"), rope_local_base_freq=C(r, 100.0, 10000.0))
    if B(r): d.update(layer_types=types(r, d["num_hidden_layers"]))
    else: d.update(sliding_window_pattern=C(r, 2, 3))
    return dict(d, **rope(r, dim(d), ("linear", "dynamic", "yarn", "llama3")))

def phi(r):
    d = sizes(r, dims=(8, 12, 16), qk_layernorm=B(r), partial_rotary_factor=C(r, .25, .5, 1.0), hidden_act=act(r), layer_norm_eps=C(r, 1e-5, 1e-3))
    return dict(d, **rope(r, int(dim(d) * d["partial_rotary_factor"])))

def phi3(r):
    d = sizes(r, dims=(8, 12, 16), sliding_window=C(r, None, 3, 9), partial_rotary_factor=C(r, .5, 1.0))
    d["max_position_embeddings"] = 96; d["original_max_position_embeddings"] = C(r, 12, 64)
    if B(r, .6):
        h = int(dim(d) * d["partial_rotary_factor"]) // 2
        d["rope_scaling"] = dict(type="longrope", long_factor=[round(r.uniform(1, 4), 2) for _ in range(h)], short_factor=[round(r.uniform(1, 1.6), 2) for _ in range(h)])
    return d

def gptlike(r, **more):
    heads = C(r, 1, 2, 3, 4, 5)
    d = dict(vocab_size=C(r, 61, 97, 131, 193, 307), n_embd=heads * C(r, 4, 6, 7, 8, 9), n_head=heads, n_layer=C(r, 1, 2, 3, 4), n_positions=96, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
             tie_word_embeddings=B(r, .7), activation_function=act(r), layer_norm_epsilon=C(r, 1e-5, 1e-3), n_inner=C(r, None, 26, 50))
    d.update(more)
    return d

def gpt2(r):
    return gptlike(r, scale_attn_by_inverse_layer_idx=B(r), scale_attn_weights=B(r, .7), reorder_and_upcast_attn=B(r, .3))

def gpt_bigcode(r):
    return gptlike(r, multi_query=B(r), scale_attn_weights=B(r, .7), attention_softmax_in_fp32=B(r), scale_attention_softmax_in_fp32=B(r))

def gptj(r):
    d = gptlike(r)
    d["n_embd"] = d["n_head"] * C(r, 4, 6, 8, 10)
    d["rotary_dim"] = C(r, 2, 4)
    return d

def gpt_neox(r):
    d = sizes(r, dims=(8, 12, 16), rotary_pct=C(r, .2, .25, .375, .5, .75, 1.0), attention_bias=B(r), use_parallel_residual=B(r), hidden_act=act(r), rotary_emb_base=C(r, 100, 10000), layer_norm_eps=C(r, 1e-5, 1e-3))
    d.pop("num_key_value_heads"); d.pop("rope_theta"); d.pop("rms_norm_eps")
    return dict(d, **rope(r, int(dim(d) * d["rotary_pct"])))

def bloom(r):
    heads = C(r, 1, 2, 3, 4, 5, 6, 7, 12)
    return dict(vocab_size=C(r, 61, 131, 307), hidden_size=heads * C(r, 4, 5, 7), n_layer=C(r, 1, 2, 3), n_head=heads, apply_residual_connection_post_layernorm=B(r), tie_word_embeddings=B(r, .7),
                hidden_dropout=0.0, attention_dropout=0.0, slow_but_exact=B(r, .2), pretraining_tp=1)

def opt(r):
    heads = C(r, 1, 2, 3, 4, 5)
    h = heads * C(r, 4, 6, 7)
    return dict(vocab_size=C(r, 61, 131, 307), hidden_size=h, num_attention_heads=heads, num_hidden_layers=C(r, 1, 2, 3), ffn_dim=C(r, 26, 50), max_position_embeddings=96, dropout=0.0, attention_dropout=0.0,
                word_embed_proj_dim=C(r, h, 20, 11), do_layer_norm_before=B(r, .6), enable_bias=B(r, .7), layer_norm_elementwise_affine=B(r, .8), tie_word_embeddings=B(r, .7), activation_function=act(r), _remove_final_layer_norm=B(r, .3))

def falcon(r):
    heads = C(r, 2, 3, 4, 6, 12, 16)
    hd = C(r, 4, 6, 8)
    alibi = B(r, .4)
    d = dict(vocab_size=C(r, 61, 131, 307), hidden_size=heads * hd, num_attention_heads=heads, num_hidden_layers=C(r, 1, 2, 3), bias=B(r), alibi=alibi, multi_query=B(r), parallel_attn=B(r), hidden_dropout=0.0, attention_dropout=0.0,
             new_decoder_architecture=B(r), tie_word_embeddings=B(r, .7), activation=act(r), ffn_hidden_size=C(r, 26, 50), rope_theta=C(r, 100.0, 10000.0), layer_norm_epsilon=C(r, 1e-5, 1e-3), max_position_embeddings=96)
    if d["new_decoder_architecture"]:
        d.update(num_kv_heads=r.choice([k for k in range(1, heads + 1) if heads % k == 0]))
        if B(r): d.update(num_ln_in_parallel_attn=C(r, 1, 2))
    else:
        if B(r, .3): d.update(num_ln_in_parallel_attn=C(r, 1, 2))
    if not alibi:
        d.update(**rope(r, hd))
    return d

def mpt(r):
    heads = C(r, 1, 2, 3, 4, 5, 6, 12)
    return dict(vocab_size=C(r, 61, 131, 307), d_model=heads * C(r, 4, 5, 7), n_heads=heads, n_layers=C(r, 1, 2, 3), max_seq_len=96, expansion_ratio=C(r, 2, 4), tie_word_embeddings=B(r, .7), layer_norm_epsilon=C(r, 1e-5, 1e-3),
                attn_config=dict(clip_qkv=C(r, None, .8), softmax_scale=C(r, None, .3), alibi_bias_max=C(r, 8, 4), attn_pdrop=0.0, alibi=True))

def starcoder2(r):
    d = sizes(r, use_bias=B(r), sliding_window=C(r, None, 3, 5), norm_epsilon=C(r, 1e-5, 1e-3), hidden_act=act(r), embedding_dropout=0.0, residual_dropout=0.0)
    d.pop("rms_norm_eps")
    return dict(d, **rope(r, dim(d)))

def stablelm(r):
    d = sizes(r, dims=(8, 12), qk_layernorm=B(r), use_qkv_bias=B(r), use_parallel_residual=B(r), partial_rotary_factor=C(r, .25, .5, 1.0), layer_norm_eps=C(r, 1e-5, 1e-3), hidden_act=C(r, "silu", "gelu"))
    d.pop("rms_norm_eps")
    return dict(d, **rope(r, int(dim(d) * d["partial_rotary_factor"]), ("linear", "dynamic", "yarn", "llama3")))

def olmo(r):
    d = sizes(r, clip_qkv=C(r, None, .5), attention_bias=B(r), hidden_act=C(r, "silu", "gelu"))
    d.pop("rms_norm_eps")
    return dict(d, **rope(r, dim(d)))

def olmo2(r):
    d = sizes(r, attention_bias=B(r), hidden_act=C(r, "silu", "gelu"))
    m = rope(r, dim(d), ("linear", "dynamic"))
    if "rope_scaling" in m: m["rope_scaling"]["type"] = m["rope_scaling"].pop("rope_type")
    return dict(d, **m)

def cohere(r):
    d = sizes(r, use_qk_norm=B(r), attention_bias=B(r), logit_scale=C(r, .0625, .7, 1.0), layer_norm_eps=C(r, 1e-5, 1e-3))
    d.pop("rms_norm_eps")
    return dict(d, **rope(r, dim(d)))

def cohere2(r):
    d = sizes(r, sliding_window=C(r, 3, 5), attention_bias=B(r), logit_scale=C(r, .0625, .7), layer_norm_eps=C(r, 1e-5, 1e-3))
    d.pop("rms_norm_eps")
    if B(r): d.update(layer_types=types(r, d["num_hidden_layers"]))
    else: d.update(sliding_window_pattern=C(r, 2, 3))
    return dict(d, **rope(r, dim(d)))

def glm(r):
    d = sizes(r, attention_bias=B(r), partial_rotary_factor=C(r, .5, .75, 1.0), head_dim=C(r, 6, 8, 10, 12))
    return dict(d, **rope(r, int(d["head_dim"] * d["partial_rotary_factor"]), ("linear", "dynamic", "llama3")))

glm4 = glm

def nemotron(r):
    d = sizes(r, own_dim=B(r), attention_bias=B(r), mlp_bias=B(r), partial_rotary_factor=C(r, .5, 1.0), hidden_act=act(r), norm_eps=C(r, 1e-5, 1e-3))
    if d.get("head_dim", 8) * d["partial_rotary_factor"] % 2: d["partial_rotary_factor"] = 1.0
    d.pop("rms_norm_eps")
    if dim(d) * d["partial_rotary_factor"] % 2: d["partial_rotary_factor"] = 1.0
    return dict(d, **rope(r, int(dim(d) * d["partial_rotary_factor"]), ("linear", "dynamic", "llama3")))

def exaone4(r):
    d = sizes(r, sliding_window=C(r, None, 3, 5))
    if d["sliding_window"] is None: d.update(layer_types=["full_attention"] * d["num_hidden_layers"])
    elif B(r): d.update(layer_types=types(r, d["num_hidden_layers"]))
    else: d.update(sliding_window_pattern=C(r, 2, 3, 4))
    return dict(d, **rope(r, dim(d)))

def ernie4_5(r):
    d = sizes(r, own_dim=B(r), use_bias=B(r))
    return dict(d, **rope(r, dim(d)))

def ernie4_5_moe(r):
    n, k = experts(r)
    d = sizes(r, moe_num_experts=n, moe_k=k, moe_num_shared_experts=C(r, 0, 1, 2), moe_intermediate_size=14, use_bias=B(r), moe_norm_min=1e-12)
    L = d["num_hidden_layers"]
    d.update(moe_layer_start_index=r.randint(0, L), moe_layer_end_index=C(r, -1, L - 1), moe_layer_interval=C(r, 1, 2))
    return d

def seed_oss(r):
    d = sizes(r, head_dim=C(r, 6, 8, 10), attention_bias=B(r), attention_out_bias=B(r), mlp_bias=B(r), attention_dropout=0.0, residual_dropout=0.0)
    return dict(d, **rope(r, dim(d)))

def hunyuan_v1_moe(r):
    n, k = experts(r)
    d = sizes(r, head_dim=C(r, 6, 8, 10), attention_bias=B(r), num_experts=n, moe_topk=k)
    L = d["num_hidden_layers"]
    if B(r): d.update(num_experts=[r.randint(2, 7) for _ in range(L)], moe_topk=[r.randint(1, 2) for _ in range(L)])
    if B(r): return dict(d, rope_scaling=dict(type="dynamic", alpha=7.0, factor=1.0))
    return dict(d, **rope(r, dim(d), ("linear", "yarn", "llama3")))

def phimoe(r):
    d = sizes(r, num_local_experts=C(r, 2, 5, 7, 16), num_experts_per_tok=2, router_jitter_noise=C(r, 0.01, 0.1, 0.4), sliding_window=C(r, None, 3, 8), attention_bias=B(r), lm_head_bias=B(r),
              router_aux_loss_coef=C(r, 0.001, 0.02), hidden_act=act(r) if B(r, .3) else "silu")
    if B(r, .6):
        h = dim(d) // 2
        d["rope_scaling"] = {C(r, "type", "rope_type"): "longrope", "long_factor": [round(r.uniform(1, 4), 2) for _ in range(h)], "short_factor": [round(r.uniform(1, 1.6), 2) for _ in range(h)],
                             "short_mscale": C(r, 1.0, 1.24), "long_mscale": C(r, 1.1, 1.24), "original_max_position_embeddings": C(r, 12, 64)}
    return d

def hunyuan_v1_dense(r):
    d = sizes(r, head_dim=C(r, 6, 8, 10), attention_bias=B(r))
    if B(r): return dict(d, rope_scaling=dict(type="dynamic", alpha=7.0, factor=1.0))
    return dict(d, **rope(r, dim(d), ("linear", "yarn", "llama3")))

def fixernie():
    from transformers.models.ernie4_5_moe import modeling_ernie4_5_moe as e
    for c in vars(e).values():
        if isinstance(c, type) and hasattr(c, "_keep_in_fp32_modules_strict"): c._keep_in_fp32_modules_strict = None
fixernie()

NAMES = [llama, mistral, qwen2, qwen3, smollm3, mixtral, qwen2_moe, qwen3_moe, olmoe, flex_olmo, granite, granitemoe, granitemoeshared, deepseek_v2, deepseek_v3, glm4_moe, dots1, gpt_oss,
         gemma, gemma2, gemma3_text, phi, phi3, gpt2, gpt_bigcode, gptj, gpt_neox, bloom, opt, falcon, mpt, starcoder2, stablelm, olmo, olmo2, cohere, cohere2, glm, nemotron, exaone4, ernie4_5, ernie4_5_moe, seed_oss, hunyuan_v1_dense, hunyuan_v1_moe, phimoe]
KINDS = {f.__name__: f for f in NAMES}
KINDS["glm4"] = glm

edge = [1.0]  # how near the values that clip_qkv clips came to its bounds

def clamp_(x, min, max, clamp=torch.Tensor.clamp_):
    edge[0] = builtins.min(edge[0], (x.detach().abs() - max).abs().min().item())
    return clamp(x, min=min, max=max)

def fill(model, g):
    emb = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if not p.is_floating_point() or (name in dict(model.named_buffers()) and "correction_bias" not in name): continue
            n = torch.randn(p.shape, generator=g)
            if "correction_bias" in name or "e_score" in name or name.endswith("moe_statics.e_score_correction_bias"):
                p.data.copy_(0.1 * n.abs())
            elif name.endswith("bias") or name.endswith("_bias"):
                p.data.copy_(0.1 * n)
            elif "sinks" in name:
                p.data.copy_(0.3 * n)
            elif "norm" in name or p.dim() < 2:
                p.data.copy_(1 + .1 * n if "gemma" not in model.config.model_type else .1 * n)
            elif id(p) in emb:
                p.data.copy_((0.1 if "gemma" in model.config.model_type or "granite" in model.config.model_type else 0.3) * n)
            elif "router" in name or name.endswith(("gate.weight", "gate.wg.weight")):
                p.data.copy_(0.4 * n)
            else:
                p.data.copy_(0.14 * n)

def make(out, kind, seed):
    r = random.Random(f"{seed} {kind}")
    keys = KINDS[kind](r)
    usual = AutoConfig.for_model(kind).pad_token_id
    padding = C(r, None, 0, 5, 29, -1, usual if usual is None or usual < keys["vocab_size"] else 0)
    config = AutoConfig.for_model(kind, **dict(dict(pad_token_id=padding, bos_token_id=1, eos_token_id=2), **keys))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    model.generation_config.pad_token_id = None
    g = torch.Generator().manual_seed(r.randrange(1 << 30))
    fill(model, g)
    disk = C(r, "float32", "float32", "bfloat16", "float16")
    if disk != "float32":
        for p in model.parameters():
            p.data = p.data.to(getattr(torch, disk)).float()
        for n, p in model.named_buffers():
            if "correction_bias" in n: p.data = p.data.to(getattr(torch, disk)).float()
    V = config.vocab_size
    rows, S = C(r, 1, 2, 2, 3), C(r, 9, 17, 24, 37, 53)
    ids = torch.randint(3, V, (rows, S), generator=g)
    torch.Tensor.clamp_, edge[0] = clamp_, 1.0
    if padding is not None: ids[:, S // 4::3] = padding % V
    mask = torch.ones_like(ids)
    kind_of_mask = C(r, "right", "right", "left", "both", "holes", "none")
    last = rows - 1
    if kind_of_mask in ("left", "both"): mask[last, :S // 3] = 0
    if kind_of_mask in ("right", "both"): mask[last, S - S // 4:] = 0
    if kind_of_mask == "holes": mask[last, S // 3:S - 2:4] = 0
    labels = ids.clone()
    labels[mask == 0] = -100
    labels[:, 1:][mask[:, :-1] == 0] = -100
    labels[0, :5] = labels[last, :3] = -100
    labels[0, S // 2] = -100
    more = {}
    if B(r, .2) and kind not in ("bloom", "mpt") and not getattr(config, "alibi", False):
        positions = torch.cat([torch.arange(S // 2), torch.arange(S - S // 2) + C(r, 0, 7)])
        more["position_ids"] = positions.expand(rows, S).contiguous()
    o = model(input_ids=ids, attention_mask=mask, use_cache=False, **more)
    ce = torch.nn.functional.cross_entropy(o.logits[:, :-1].reshape(-1, V).float(), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="none").view(rows, -1)
    if edge[0] < 1e-5: raise ValueError("a value lies on the bound of clip_qkv, where its gradient is as fp32 rounds it")
    loss = ce.sum() / (labels[:, 1:] != -100).sum()
    loss.backward()
    G = dict(input_ids=ids, attention_mask=mask, labels=labels, **more, logits=o.logits, loss=loss, row_loss_sum=ce.sum(1))
    sq = 0.
    for n, p in model.named_parameters():
        if not p.requires_grad or "correction_bias" in n: continue
        gr = torch.zeros_like(p) if p.grad is None else p.grad
        G["grad." + n] = gr
        sq += gr.double().pow(2).sum()
    G["grad_norm"] = sq.sqrt().float()
    aux = None
    if hasattr(config, "router_aux_loss_coef") and kind not in ("ernie4_5_moe",):
        try:
            b = model(input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True, **more)
            if torch.is_tensor(b.aux_loss):
                G["aux_loss"] = b.aux_loss
                G["loss_with_aux"] = loss.detach() + config.router_aux_loss_coef * b.aux_loss
        except IndexError:
            pass  # no layer has experts
    best = -1
    for attempt in range(40):
        prompt = torch.randint(3, V, (1, 8), generator=g)
        gen = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, min_new_tokens=24, do_sample=False, return_dict_in_generate=True, output_logits=True, eos_token_id=None, pad_token_id=3)
        top = torch.stack(gen.logits).squeeze(1).topk(2).values
        margin = (top[:, 0] - top[:, 1]).min().item()
        if margin > best:
            best = margin
            G["gen.prompt_ids"], G["gen.ids"] = prompt, gen.sequences[:, 8:]
        if margin > .02: break
    seq = G["gen.prompt_ids"]
    with torch.no_grad():
        for _ in range(24): seq = torch.cat([seq, model(input_ids=seq, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    if not torch.equal(seq[:, 8:], G["gen.ids"]):
        G["gen.ids"] = seq[:, 8:]
    G = {k: v.detach().clone().contiguous() for k, v in G.items()}
    if disk != "float32": model.to(getattr(torch, disk))
    model.save_pretrained(out, max_shard_size=C(r, "5GB", "5GB", "20KB"))
    if padding == usual:  # what the class says where the file does not
        config = json.load(open(f"{out}/config.json"))
        config.pop("pad_token_id", None)
        json.dump(config, open(f"{out}/config.json", "w"))
    save_file({k: v.detach().clone().contiguous() for k, v in G.items()}, f"{out}/golden.safetensors")
    json.dump(dict(name=kind, seed=seed, disk=disk, mask=kind_of_mask, padding=padding, S=S, gen_min_margin=best, loss=loss.item(), keys=keys), open(f"{out}/meta.json", "w"))

if __name__ == "__main__":
    for k in sys.argv[3:] or KINDS:
        try:
            make(f"{sys.argv[1]}/{k}_{sys.argv[2]}", k, sys.argv[2])
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError, UnboundLocalError) as e:
            print(k, sys.argv[2], "left out:", repr(e)[:200])
