"""Writes random models without experts, computed by transformers, in the layout of the reference fixtures.

usage: make.py OUT SEED. Every entry of VARIANTS becomes OUT/NAME (config.json, model.safetensors, golden.safetensors).
"""

import json
import os
import sys
import warnings

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
torch.set_num_threads(1)
# Weights are drawn below; some architectures cannot draw their own when biases or weights of norms are off.
PreTrainedModel.initialize_weights = lambda self: None
VOCAB, SEQ, LAYERS, NEW = 307, 37, 3, 24


def std(hidden=42, heads=6, kv=3, inner=74, **more):
    return dict(vocab_size=VOCAB, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=LAYERS, num_attention_heads=heads,
                num_key_value_heads=kv, max_position_embeddings=96, **more)


def gpt(hidden=36, heads=6, **more):
    return dict(vocab_size=VOCAB, n_embd=hidden, n_head=heads, n_layer=LAYERS, n_positions=80, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **more)


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24)
YARN = dict(rope_type="yarn", factor=3.0, original_max_position_embeddings=20, beta_fast=4.0, beta_slow=0.5)
LONG = dict(type="longrope", long_factor=[1.0, 1.6, 2.2, 2.9], short_factor=[1.0, 1.1, 1.25, 1.4])

VARIANTS = {
    "llama_a": ("llama", std(head_dim=10, attention_bias=True, mlp_bias=True, rope_scaling=LLAMA3)),
    "llama_b": ("llama", std(hidden=30, heads=5, kv=1, tie_word_embeddings=True, rope_scaling=YARN, hidden_act="gelu")),
    "llama_c": ("llama", std(head_dim=10, rope_scaling=dict(rope_type="dynamic", factor=2.5), inner=33)),
    "mistral_a": ("mistral", std(head_dim=10, sliding_window=5)),
    "mistral_b": ("mistral", std(hidden=36, sliding_window=None, tie_word_embeddings=True)),
    "qwen2_a": ("qwen2", std(hidden=36, use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen2_b": ("qwen2", std(hidden=48, kv=2, tie_word_embeddings=True, rope_theta=500.0)),
    "qwen3_a": ("qwen3", std(head_dim=10, attention_bias=True, use_sliding_window=True, sliding_window=9, max_window_layers=2)),
    "qwen3_b": ("qwen3", std(head_dim=12, kv=1, tie_word_embeddings=True)),
    "gemma_a": ("gemma", std(head_dim=10, kv=1, attention_bias=True)),
    "gemma_b": ("gemma", std(head_dim=6, tie_word_embeddings=False, hidden_act="gelu")),
    "gemma2_a": ("gemma2", std(head_dim=10, sliding_window=5, query_pre_attn_scalar=17, attn_logit_softcapping=3.0, final_logit_softcapping=5.0)),
    "gemma2_b": ("gemma2", std(head_dim=8, sliding_window=6, query_pre_attn_scalar=9, attn_logit_softcapping=None, final_logit_softcapping=None,
                               layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "gemma3_a": ("gemma3_text", std(head_dim=10, sliding_window=5, query_pre_attn_scalar=13, attention_bias=True, final_logit_softcapping=4.0,
                                    rope_scaling=dict(rope_type="linear", factor=4.0), sliding_window_pattern=2)),
    "gemma3_b": ("gemma3_text", std(head_dim=8, sliding_window=7, tie_word_embeddings=False)),
    "phi_a": ("phi", std(hidden=48, qk_layernorm=True, partial_rotary_factor=0.5)),
    "phi_b": ("phi", std(hidden=36, kv=6, tie_word_embeddings=True, partial_rotary_factor=0.7, hidden_act="relu")),
    "phi3_a": ("phi3", std(hidden=48, sliding_window=6, partial_rotary_factor=0.75)),
    "phi3_b": ("phi3", std(hidden=48, rope_scaling=LONG, original_max_position_embeddings=20, tie_word_embeddings=True)),
    "phi3_c": ("phi3", std(hidden=48, rope_scaling=LONG, original_max_position_embeddings=64)),
    "bloom_a": ("bloom", dict(vocab_size=VOCAB, hidden_size=36, n_layer=LAYERS, n_head=6, apply_residual_connection_post_layernorm=True)),
    "bloom_b": ("bloom", dict(vocab_size=VOCAB, hidden_size=35, n_layer=LAYERS, n_head=5, tie_word_embeddings=False)),
    "gpt_neox_a": ("gpt_neox", dict(std(hidden=60), rotary_pct=0.5, attention_bias=False)),
    "gpt_neox_b": ("gpt_neox", dict(std(hidden=42, heads=3), rotary_pct=0.3, use_parallel_residual=False, tie_word_embeddings=True)),
    "gpt2_a": ("gpt2", gpt(n_inner=50, scale_attn_by_inverse_layer_idx=True)),
    "gpt2_b": ("gpt2", gpt(hidden=35, heads=5, scale_attn_weights=False, tie_word_embeddings=False)),
    "gptj_a": ("gptj", gpt(rotary_dim=4, n_inner=50)),
    "gptj_b": ("gptj", gpt(hidden=48, rotary_dim=6, tie_word_embeddings=True)),
    "opt_a": ("opt", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, ffn_dim=50, max_position_embeddings=80, dropout=0.0,
                          word_embed_proj_dim=20, do_layer_norm_before=False)),
    "opt_b": ("opt", dict(vocab_size=VOCAB, hidden_size=35, num_attention_heads=5, num_hidden_layers=LAYERS, ffn_dim=50, max_position_embeddings=80, dropout=0.0,
                          word_embed_proj_dim=35, enable_bias=False, layer_norm_elementwise_affine=False, tie_word_embeddings=False,
                          activation_function="gelu")),
    "opt_c": ("opt", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, ffn_dim=50, max_position_embeddings=80, dropout=0.0,
                          word_embed_proj_dim=20, _remove_final_layer_norm=True)),
    "falcon_a": ("falcon", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, bias=True, ffn_hidden_size=50)),
    "falcon_b": ("falcon", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, new_decoder_architecture=True, num_kv_heads=3,
                                num_ln_in_parallel_attn=1, tie_word_embeddings=False)),
    "falcon_c": ("falcon", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, new_decoder_architecture=True, num_kv_heads=2,
                                bias=True, rope_theta=700.0)),
    "falcon_d": ("falcon", dict(vocab_size=VOCAB, hidden_size=36, num_attention_heads=6, num_hidden_layers=LAYERS, alibi=True, multi_query=False,
                                parallel_attn=False, bias=True)),
    "falcon_e": ("falcon", dict(vocab_size=VOCAB, hidden_size=42, num_attention_heads=3, num_hidden_layers=LAYERS, alibi=True, parallel_attn=False,
                                activation="relu")),
    "mpt_a": ("mpt", dict(vocab_size=VOCAB, d_model=36, n_heads=6, n_layers=LAYERS, max_seq_len=80, attn_config=dict(clip_qkv=0.8, softmax_scale=0.3))),
    "mpt_b": ("mpt", dict(vocab_size=VOCAB, d_model=35, n_heads=5, n_layers=LAYERS, max_seq_len=80, tie_word_embeddings=False)),
    "gpt_bigcode_a": ("gpt_bigcode", gpt(n_inner=50)),
    "gpt_bigcode_b": ("gpt_bigcode", gpt(hidden=35, heads=5, multi_query=False, scale_attn_weights=False, tie_word_embeddings=False)),
    "starcoder2_a": ("starcoder2", std(hidden=36, use_bias=False, sliding_window=5)),
    "starcoder2_b": ("starcoder2", std(hidden=48, kv=1, tie_word_embeddings=False, norm_epsilon=1e-3, rope_scaling=YARN)),
    "stablelm_a": ("stablelm", std(hidden=48, qk_layernorm=True, use_qkv_bias=True, partial_rotary_factor=0.5)),
    "stablelm_b": ("stablelm", std(hidden=36, use_parallel_residual=True, partial_rotary_factor=0.34, tie_word_embeddings=True)),
    "olmo_a": ("olmo", std(hidden=36, clip_qkv=None, attention_bias=True)),
    "olmo_b": ("olmo", std(hidden=48, kv=1, clip_qkv=0.5, tie_word_embeddings=True)),
    "olmo2_a": ("olmo2", std(hidden=36, attention_bias=True, rope_scaling=dict(type="linear", factor=3.0))),
    "cohere_a": ("cohere", std(hidden=36, use_qk_norm=True, attention_bias=True, logit_scale=0.7)),
    "cohere_b": ("cohere", std(hidden=48, kv=1, tie_word_embeddings=False)),
    "cohere2_a": ("cohere2", std(hidden=36, sliding_window=5, attention_bias=True, sliding_window_pattern=2)),
    "granite_a": ("granite", std(hidden=36, attention_bias=True, mlp_bias=True, embedding_multiplier=2.5, residual_multiplier=0.3, attention_multiplier=0.21,
                                 logits_scaling=1.7)),
    "glm_a": ("glm", std(head_dim=10, attention_bias=False, pad_token_id=0)),
    "glm_b": ("glm", std(head_dim=8, kv=1, partial_rotary_factor=1.0, pad_token_id=0, tie_word_embeddings=True)),
    "glm4_a": ("glm4", std(head_dim=10, attention_bias=False, pad_token_id=0)),
    "nemotron_a": ("nemotron", std(head_dim=10, attention_bias=True, mlp_bias=True)),
    "nemotron_b": ("nemotron", std(hidden=48, partial_rotary_factor=0.75, hidden_act="gelu", tie_word_embeddings=True)),
    "exaone4_a": ("exaone4", std(hidden=36, sliding_window=5, sliding_window_pattern=2)),
    "exaone4_b": ("exaone4", std(hidden=48, sliding_window=None, layer_types=["full_attention"] * LAYERS, tie_word_embeddings=True)),
    "ernie4_5_a": ("ernie4_5", std(head_dim=10, use_bias=True)),
    "ernie4_5_b": ("ernie4_5", std(head_dim=6, tie_word_embeddings=False, rope_theta=300.0)),
    "seed_oss_a": ("seed_oss", std(head_dim=10, attention_bias=False, attention_out_bias=True, mlp_bias=True, attention_dropout=0.0, residual_dropout=0.0)),
    "smollm3_a": ("smollm3", std(hidden=36, use_sliding_window=True, sliding_window=5, no_rope_layer_interval=2, attention_bias=True, mlp_bias=True,
                                 pad_token_id=0)),
    "hunyuan_a": ("hunyuan_v1_dense", std(head_dim=10, attention_bias=True)),
    "hunyuan_b": ("hunyuan_v1_dense", std(head_dim=8, kv=1, tie_word_embeddings=True, rope_scaling=dict(type="dynamic", alpha=7.0, factor=1.0))),
}


def randomize(model, g):
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, p in model.named_parameters():
            n = torch.randn(p.shape, generator=g)
            if name.endswith("bias"):
                p.copy_(0.1 * n)
            elif p.dim() < 2 or "norm" in name:
                p.add_(0.1 * n)
            else:
                p.copy_((0.3 if id(p) in embeddings else 0.14) * n)


def save(folder, model, index, g):
    rows, third = 2, SEQ // 3
    ids = torch.randint(3, VOCAB, (rows, SEQ), generator=g)
    mask = torch.ones_like(ids)
    mask[1, SEQ - third:] = 0
    labels = ids.clone()
    labels[mask == 0] = -100
    labels[0, :5] = labels[1, :3] = -100
    labels[0, SEQ // 2] = -100
    out = model(input_ids=ids, attention_mask=mask, use_cache=False)
    logits = out.logits.float()
    row = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="none").reshape(rows, -1)
    loss = row.sum() / (labels[:, 1:] != -100).sum()
    loss.backward()
    golden = {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits": logits.detach(), "loss": loss.detach(), "row_loss_sum": row.sum(1).detach()}
    square = 0.0
    for name, p in model.named_parameters():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        golden["grad." + name] = grad.contiguous()
        square += grad.double().pow(2).sum()
    golden["grad_norm"] = square.sqrt().float()
    prompt = torch.randint(3, VOCAB, (1, 8), generator=g)
    made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=None,
                          pad_token_id=0, use_cache=True)
    golden["gen.prompt_ids"], golden["gen.ids"] = prompt, made[:, 8:].contiguous()
    model.save_pretrained(folder)
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    if index % 2:
        # The type of model alone has to be enough.
        path = os.path.join(folder, "config.json")
        config = json.load(open(path))
        del config["architectures"]
        json.dump(config, open(path, "w"))


def main(out, seed):
    g = torch.Generator().manual_seed(seed)
    for index, (name, (kind, keys)) in enumerate(VARIANTS.items()):
        config = AutoConfig.for_model(kind, **dict(dict(pad_token_id=0, bos_token_id=1, eos_token_id=2), **keys))
        torch.manual_seed(seed + index)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        randomize(model, g)
        save(os.path.join(out, name), model, index, g)


main(sys.argv[1], int(sys.argv[2]))
