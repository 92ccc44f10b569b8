"""Writes random models with experts, computed by transformers, in the layout of the reference fixtures.

usage: make.py OUT SEED NAME...  (a NAME is a key of CONFIGS; OUT/NAME is made). Sizes are drawn from the seed. The golden file has, beside
what the fixtures have, the loss and the gradients with the routers' load-balancing loss: balanced.loss, balanced.grad.<key>.
"""

import random
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM


def sizes(r):
    heads, kv = r.choice([(4, 2), (6, 3), (5, 1), (3, 3), (6, 2)])
    dim = r.choice([4, 6, 8])
    return dict(
        vocab_size=r.choice([61, 97, 128]), hidden_size=heads * dim, intermediate_size=r.choice([17, 26, 40]), num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=r.random() < 0.3,
    )


def experts(r):
    n = r.choice([5, 7, 9])
    return n, r.choice([1, 2, 3])


def yarn(r):
    if r.random() < 0.4:
        return None
    s = dict(rope_type="yarn", factor=r.choice([2.0, 5.0]), original_max_position_embeddings=12, beta_fast=4.0, beta_slow=0.25)
    if r.random() < 0.6:
        s.update(mscale=r.choice([0.7, 1.0]), mscale_all_dim=r.choice([0.6, 1.0]))
    return s


def latent(r, s):
    s.update(num_key_value_heads=s["num_attention_heads"], q_lora_rank=r.choice([None, 11]), kv_lora_rank=r.choice([9, 14]),
             qk_nope_head_dim=r.choice([5, 8]), qk_rope_head_dim=r.choice([4, 6]), v_head_dim=r.choice([5, 7]), rope_scaling=yarn(r),
             attention_bias=r.random() < 0.5)
    return s


def shared(r, groups, **more):
    n = groups * r.choice([2, 3])
    keep = r.randint(1, groups)
    return dict(n_routed_experts=n, n_shared_experts=r.choice([1, 2]), num_experts_per_tok=r.randint(1, 2 * keep), n_group=groups, topk_group=keep,
                moe_intermediate_size=r.choice([9, 14]), routed_scaling_factor=r.choice([1.0, 2.5]), norm_topk_prob=r.random() < 0.6,
                first_k_dense_replace=r.choice([0, 1]), **more)


def mixtral(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="mixtral", num_local_experts=n, num_experts_per_tok=k, sliding_window=r.choice([None, 6]),
                head_dim=r.choice([None, 10]))


def qwen2_moe(r):
    n, k = experts(r)
    step = r.choice([1, 2])
    return dict(sizes(r), model_type="qwen2_moe", num_experts=n, num_experts_per_tok=k, moe_intermediate_size=r.choice([9, 14]),
                shared_expert_intermediate_size=r.choice([11, 20]), norm_topk_prob=r.random() < 0.5, mlp_only_layers=r.choice([[], [1]]) if step == 1 else [],
                decoder_sparse_step=step)


def qwen3_moe(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="qwen3_moe", num_experts=n, num_experts_per_tok=k, moe_intermediate_size=r.choice([9, 14]),
                norm_topk_prob=r.random() < 0.5, mlp_only_layers=r.choice([[], [0]]), head_dim=r.choice([6, 10]), attention_bias=r.random() < 0.5)


def olmoe(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="olmoe", num_experts=n, num_experts_per_tok=k, norm_topk_prob=r.random() < 0.5, clip_qkv=r.choice([None, 0.7]))


def granitemoe(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="granitemoe", num_local_experts=n, num_experts_per_tok=k, embedding_multiplier=3.0, logits_scaling=1.7,
                residual_multiplier=0.4, attention_multiplier=0.3, attention_bias=r.random() < 0.5)


def granitemoeshared(r):
    return dict(granitemoe(r), model_type="granitemoeshared", shared_intermediate_size=r.choice([11, 20]))


def deepseek_v2(r):
    limited = r.random() < 0.6
    s = latent(r, sizes(r))
    s.update(kv_lora_rank=r.choice([8, 14]), qk_nope_head_dim=r.choice([4, 6]))  # its complex views need even strides
    return dict(s, model_type="deepseek_v2", mlp_bias=r.random() < 0.4, aux_loss_alpha=0.0,
                topk_method="group_limited_greedy" if limited else "greedy", **shared(r, 3 if limited else 1))


def deepseek_v3(r):
    return dict(latent(r, sizes(r)), model_type="deepseek_v3", rope_interleave=r.random() < 0.6, **shared(r, r.choice([1, 3])))


def glm4_moe(r):
    s = dict(sizes(r), model_type="glm4_moe", head_dim=8, partial_rotary_factor=r.choice([0.5, 0.75]), use_qk_norm=r.random() < 0.5,
             attention_bias=r.random() < 0.5)
    return dict(s, **shared(r, r.choice([1, 3])))


def dots1(r):
    s = dict(sizes(r), model_type="dots1", head_dim=8, attention_bias=r.random() < 0.5, sliding_window=None, max_window_layers=3)
    return dict(s, **shared(r, r.choice([1, 3])))


def ernie4_5_moe(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="ernie4_5_moe", moe_num_experts=n, moe_k=k, moe_num_shared_experts=r.choice([0, 2]), moe_intermediate_size=14,
                moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1, use_bias=r.random() < 0.5)


def hunyuan_v1_moe(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="hunyuan_v1_moe", num_experts=n, moe_topk=k, head_dim=8, attention_bias=False)


def flex_olmo(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="flex_olmo", num_experts=n, num_experts_per_tok=k, norm_topk_prob=r.random() < 0.5)


def gpt_oss(r):
    n, k = experts(r)
    return dict(sizes(r), model_type="gpt_oss", num_local_experts=n, num_experts_per_tok=k, head_dim=r.choice([6, 10]), sliding_window=6,
                rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.25,
                                  truncate=r.random() < 0.5))


def phimoe(r):
    return dict(sizes(r), model_type="phimoe", num_local_experts=r.choice([5, 7, 9]), num_experts_per_tok=2, router_jitter_noise=r.choice([0.02, 0.3]),
                attention_bias=r.random() < 0.5, lm_head_bias=r.random() < 0.5)  # its cache forgets keys that its mask still counts where there is a window


CONFIGS = {f.__name__: f for f in [mixtral, qwen2_moe, qwen3_moe, olmoe, granitemoe, granitemoeshared, deepseek_v2, deepseek_v3, glm4_moe, dots1,
                                   ernie4_5_moe, hunyuan_v1_moe, flex_olmo, gpt_oss, phimoe]}


def fill(model, g):
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if "inv_freq" in name:
            continue
        n = torch.randn(p.shape, generator=g)
        if "norm" in name and p.dim() == 1 and not name.endswith("bias"):
            p.data.copy_(1 + 0.1 * n)
        elif "correction_bias" in name:
            p.data.copy_(0.1 * n.abs())  # below 0, a choice may tie with those of other groups, which are 0
        elif p.dim() == 1 or name.endswith("_bias"):
            p.data.copy_(0.1 * n)
        elif "gate.weight" in name or "gate.wg" in name or "router" in name:
            p.data.copy_(0.6 * n)
        else:
            p.data.copy_((0.3 if "embed" in name else 0.2) * n)


def make(out, name, seed):
    r = random.Random(f"{seed} {name}")
    keys = CONFIGS[name](r)
    config = AutoConfig.for_model(keys.pop("model_type"), **keys, attn_implementation="eager")
    g = torch.Generator().manual_seed(r.randrange(1 << 30))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    fill(model, g)
    model.save_pretrained(out)

    rows, seq, vocab = 2, 13, config.vocab_size
    ids = torch.randint(3, vocab, (rows, seq), generator=g)
    mask = torch.ones(rows, seq, dtype=torch.long)
    mask[1, seq - 4:] = 0
    labels = torch.where(mask == 1, ids, -100)
    labels[0, :3] = labels[1, :2] = labels[0, seq // 2] = -100
    golden = dict(input_ids=ids, attention_mask=mask, labels=labels)

    named = {n: p for n, p in model.named_parameters() if p.requires_grad and (n != "lm_head.weight" or not config.tie_word_embeddings)}

    def gradients(loss, prefix):
        model.zero_grad()
        loss.backward()
        for n, p in named.items():
            golden[prefix + n] = p.grad if p.grad is not None else torch.zeros_like(p)

    o = model(input_ids=ids, attention_mask=mask, use_cache=False)
    golden["logits"] = o.logits
    shifted = torch.nn.functional.cross_entropy(o.logits[:, :-1].reshape(-1, vocab), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="none")
    golden["row_loss_sum"] = shifted.view(rows, -1).sum(1)
    count = (labels[:, 1:] != -100).sum()
    golden["loss"] = shifted.sum() / count
    gradients(golden["loss"], "grad.")
    golden["grad_norm"] = torch.stack([golden["grad." + n].norm() for n in named]).norm()
    if hasattr(config, "router_aux_loss_coef"):
        coef = 0.3
        model.router_aux_loss_coef = coef
        b = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, output_router_logits=True)
        golden["aux_loss"] = b.aux_loss
        golden["loss_with_aux"] = golden["loss"].detach() + config.router_aux_loss_coef * b.aux_loss
        golden["balanced.loss"] = b.loss
        gradients(b.loss, "balanced.grad.")

    for attempt in range(50):
        prompt = torch.randint(3, vocab, (1, 5), generator=g)
        gen = model.generate(prompt, max_new_tokens=24, min_new_tokens=24, do_sample=False, return_dict_in_generate=True, output_logits=True,
                             eos_token_id=None, pad_token_id=0)
        top = torch.stack(gen.logits).squeeze(1).topk(2).values
        if (top[:, 0] - top[:, 1]).min() > 0.005:
            break
    else:
        raise SystemExit(f"{name}: no prompt with a clear continuation")
    golden["gen.prompt_ids"], golden["gen.ids"] = prompt, gen.sequences[:, 5:]
    save_file({k: v.detach().clone().contiguous() for k, v in golden.items()}, f"{out}/golden.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        make(f"{sys.argv[1]}/{name}", name, int(sys.argv[2]))
