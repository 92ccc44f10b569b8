"""Writes random folders in the layout of the reference fixtures' models and train, computed by torch, transformers and PEFT in fp32 on the CPU.

usage: make.py OUT SEED NAME... (a NAME is an architecture of ../random/make.py): OUT/models/NAME and OUT/train/NAME, of sizes, options and
hyperparameters drawn from the seed. Runs: full_adamw, full_adamw_hfgroups, freeze_layer0, freeze_last_layer_only, lora, rslora, dora, loraplus,
lora_modules_to_save; pref (preference losses by their formulas, and KTO), generate and grad_accum. What changes by a fifth of what is allowed when
the weights change in their last bit is left out, and said: a run, or where it is full_adamw the folder.
"""

import copy
import json
import logging
import os
import random
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "random"))

import torch
import torch.nn.functional as F
from make import KINDS, fill
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, get_scheduler
from transformers.generation import logits_process as lp

logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
S, NEG = 24, -1e30


def rows(g, n, vocab, same=0):
    """n rows of ids with a prompt that is not learned, every second one padded on the right."""
    ids = torch.randint(3, vocab, (n, S), generator=g)
    mask = torch.ones_like(ids)
    for i in range(n):
        mask[i, S - int(torch.randint(0, S // 3, (1,), generator=g)) :] = 0 if i % 2 else 1
    ids[mask == 0] = 0
    if same:
        ids[:, :same] = ids[:1, :same]
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : max(same, 3)] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def logits(m, b):
    return m(input_ids=b["input_ids"], attention_mask=b["attention_mask"], use_cache=False).logits


def loss_of(m, b, n=None):
    n = n or (b["labels"] != -100).sum()
    return F.cross_entropy(logits(m, b)[:, :-1].flatten(0, 1), b["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum") / n


def train(m, batches, h, lr, opt):
    sched = get_scheduler("cosine", opt, h["warmup"], h["steps"])
    params = [p for p in m.parameters() if p.requires_grad]
    log = []
    for step in range(h["steps"]):
        b = {k: v[step] for k, v in batches.items()}
        opt.zero_grad()
        loss = loss_of(m, b)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, h["clip"])
        log.append(dict(step=step, loss=loss.item(), grad_norm=norm.item(), lr=sched.get_last_lr()[0], num_label_tokens=int((b["labels"] != -100).sum())))
        opt.step()
        sched.step()
    with torch.no_grad():
        final = loss_of(m, {k: v[0] for k, v in batches.items()}).item()
    return dict(log=log, final_loss_batch0=final)


def shaken(m, g):
    """A copy whose weights differ in their last bit."""
    twin = copy.deepcopy(m)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1 + 6e-8 * torch.randn(p.shape, generator=g))
    return twin


def trained(m, batches, h, lr, make, g):
    """Trains m and a shaken copy: the trajectory, and whether it can be compared."""
    twin = shaken(m, g)
    out, other = train(m, batches, h, lr, make(m)), train(twin, batches, h, lr, make(twin))
    far = max(abs(a[k] - b[k]) / abs(a[k]) for a, b in zip(out["log"], other["log"]) for k in ("loss", "grad_norm"))
    moved = torch.cat([(p - q).detach().abs().flatten() for p, q in zip(m.parameters(), twin.parameters()) if p.requires_grad])
    return out, far < 2e-5 and moved.kthvalue(int(0.999 * moved.numel())).values < 2e-6 and moved.max() < 1e-4


def adam(h, lr, decays=lambda n: True):
    def make(m):
        named = [(n, p) for n, p in m.named_parameters() if p.requires_grad]
        groups = [dict(params=[p for n, p in named if decays(n) == d], weight_decay=h["wd"] if d else 0.0) for d in (True, False)]
        return torch.optim.AdamW([x for x in groups if x["params"]], lr=lr, betas=h["betas"], eps=h["eps"], foreach=False)

    return make


def full(base, out, batches, h, g):
    decay = set(Trainer.get_decay_parameter_names(None, base))
    at = lambda n: int(m[1]) if (m := re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", n)) else -1  # noqa: E731
    last = max(at(n) for n, _ in base.named_parameters())
    runs = dict(full_adamw=(lambda n: True, lambda n: True), full_adamw_hfgroups=(lambda n: True, lambda n: n in decay), freeze_layer0=(lambda n: at(n) != 0, lambda n: True),
                freeze_last_layer_only=(lambda n: at(n) == last, lambda n: True))  # fmt: skip
    policy = None
    for name, (trains, decays) in runs.items():
        m = copy.deepcopy(base)
        for n, p in m.named_parameters():
            p.requires_grad_(trains(n))
        if not any(p.requires_grad for p in m.parameters()):
            continue
        t, sure = trained(m, batches, h, h["lr"], adam(h, h["lr"], decays), g)
        if name == "full_adamw":
            policy = m
        if not sure:
            if name == "full_adamw":
                raise ValueError("it depends on the last bit")
            print(name, "left out: it depends on the last bit")
            continue
        os.makedirs(f"{out}/{name}")
        json.dump(t, open(f"{out}/{name}/trajectory.json", "w"))
        save_file({n: p.detach().clone().contiguous() for n, p in m.named_parameters() if p.requires_grad}, f"{out}/{name}/final.safetensors")
    return policy


def adapters(base, out, batches, h, g):
    tied = base.config.tie_word_embeddings
    emb, head = [[n.split(".")[-1] for n, x in base.named_modules() if x is e][0] for e in (base.get_input_embeddings(), base.get_output_embeddings())]
    init = None
    for name in ("lora", "rslora", "dora", "loraplus", "lora_modules_to_save"):
        m = copy.deepcopy(base)
        save = ([emb] + ([] if tied else [head])) if name == "lora_modules_to_save" else None
        m = get_peft_model(m, LoraConfig(task_type="CAUSAL_LM", r=h["r"], lora_alpha=h["alpha"], use_rslora=name == "rslora", use_dora=name == "dora", target_modules="all-linear", modules_to_save=save)).eval()
        if name == "loraplus":
            m.load_state_dict({k: init[k] for k in init}, strict=False)
        else:
            for n, p in m.named_parameters():
                if "lora_B" in n:
                    p.data = 0.05 * torch.randn(p.shape, generator=g)
        if name == "lora":
            init = {n: p.detach().clone() for n, p in m.named_parameters() if p.requires_grad}
        folder = f"{out}/{name}"
        os.makedirs(folder)
        if name != "loraplus":
            m.save_pretrained(folder + "/init", save_embedding_layers=False)
        b = {k: v[0] for k, v in batches.items()}
        m.zero_grad()
        loss_of(m, b).backward()
        plain = lambda n: n.replace(".modules_to_save.default", "").replace(".default", "")  # noqa: E731
        golden = {"logits_init_batch0": logits(m, b).detach()}
        if not save:
            golden.update({"grad_init." + plain(n): torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in m.named_parameters() if p.requires_grad})
        m.zero_grad()
        make = adam(h, h["lora_lr"])
        if name == "loraplus":
            make = lambda m: create_loraplus_optimizer(m, torch.optim.AdamW, lr=h["lora_lr"], loraplus_lr_ratio=16.0, loraplus_weight_decay=h["wd"], betas=h["betas"], eps=h["eps"], weight_decay=h["wd"])  # noqa: E731
        t, sure = trained(m, batches, h, h["lora_lr"], make, g)
        if name == "loraplus":
            t.update(loraplus_ratio=16.0, lr=h["lora_lr"])
        if not sure:
            print(name, "left out: it depends on the last bit")
            shutil.rmtree(folder)
            if name == "lora":
                return
            continue
        json.dump(t, open(folder + "/trajectory.json", "w"))
        with torch.no_grad():
            golden["logits_final_batch0"] = logits(m, b)
            m.save_pretrained(folder + "/final", save_embedding_layers=False)
            if not save:
                w = copy.deepcopy(m).merge_and_unload()
                golden["merged_logits_batch0"] = logits(w, b)
        save_file({k: v.detach().clone().contiguous() for k, v in golden.items()}, folder + "/golden.safetensors")


def logps(m, b):
    l = logits(m, b)[:, :-1].log_softmax(-1)
    y = b["labels"][:, 1:]
    seen = y != -100
    return (l.gather(-1, y.clamp(min=0)[..., None]).squeeze(-1) * seen).sum(-1), seen.sum(-1)


def grads(m, loss):
    m.zero_grad()
    loss.backward()
    g = {"grad." + n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in m.named_parameters()}
    return g, torch.stack([x.double().pow(2).sum() for x in g.values()]).sum().sqrt().float()


def pref(policy, base, out, vocab, beta, g):
    os.makedirs(f"{out}/pref")
    c, r = rows(g, 3, vocab, 5), rows(g, 3, vocab, 5)
    r["input_ids"][:, :5] = c["input_ids"][:, :5]
    save_file({f"{w}_{k}": v for w, x in (("chosen", c), ("rejected", r)) for k, v in x.items()}, f"{out}/pref/batch.safetensors")
    with torch.no_grad():
        (rc, nc), (rr, nr) = logps(base, c), logps(base, r)

    def values():
        (pc, _), (pr, _) = logps(policy, c), logps(policy, r)
        return pc, pr, pc / nc, pr / nr

    def nll_all(m, b):
        y = b["input_ids"][:, 1:].masked_fill(b["attention_mask"][:, 1:] == 0, -100)
        return F.cross_entropy(logits(m, b)[:, :-1].flatten(0, 1), y.flatten(), ignore_index=-100)

    def odds(a, b):
        return (a - b) - (torch.log1p(-a.exp()) - torch.log1p(-b.exp()))

    def method(name):
        pc, pr, a, b = values()
        x = beta * ((pc - pr) - (rc - rr))
        ls = F.logsigmoid
        return dict(
            dpo_sigmoid=lambda: -ls(x), dpo_sigmoid_ls0p1=lambda: -0.9 * ls(x) - 0.1 * ls(-x), dpo_robust_ls0p1=lambda: (-0.9 * ls(x) + 0.1 * ls(-x)) / 0.8, dpo_hinge=lambda: torch.relu(1 - x),
            dpo_ipo=lambda: ((a - b) - (rc / nc - rr / nr) - 1 / (2 * beta)) ** 2, dpo_sigmoid_ftx0p5=lambda: -ls(x) + 0.5 * -a, orpo_lf=lambda: -a - beta * ls(odds(a, b)),
            orpo_trl=lambda: nll_all(policy, c) - beta * ls(odds(a, b)), simpo=lambda: -ls(2.0 * ((a - b) - 0.25)),
        )[name]().mean()  # fmt: skip

    losses = {"beta": beta}
    for name in ("dpo_sigmoid", "dpo_sigmoid_ls0p1", "dpo_robust_ls0p1", "dpo_hinge", "dpo_ipo", "dpo_sigmoid_ftx0p5", "orpo_lf", "orpo_trl", "simpo"):
        loss = method(name)
        gr, norm = grads(policy, loss)
        losses[name] = dict(loss=loss.item(), grad_norm=norm.item())
        save_file(dict(gr, loss=loss.detach(), grad_norm=norm), f"{out}/pref/{name}.safetensors")
    with torch.no_grad():
        pc, pr, _, _ = values()
    losses["chosen_rewards"], losses["rejected_rewards"] = (beta * (pc - rc)).tolist(), (beta * (pr - rr)).tolist()
    save_file(dict(chosen_len=nc, rejected_len=nr, policy_chosen_logps=pc, policy_rejected_logps=pr, ref_chosen_logps=rc, ref_rejected_logps=rr), f"{out}/pref/logps.safetensors")
    k, good = rows(g, 4, vocab, 5), torch.tensor([1, 0, 1, 0])
    for _ in range(40):
        kl = rows(g, 4, vocab, 5)
        with torch.no_grad():
            (refkl, _), (polkl, _) = logps(base, kl), logps(policy, kl)
        raw = (polkl - refkl).mean()
        if not -0.1 < raw < 0.5:  # a small difference of large sums is rounding
            break
    save_file(dict(k, desirable=good, **{"kl_" + n: v for n, v in kl.items()}), f"{out}/pref/kto_batch.safetensors")
    with torch.no_grad():
        ref, _ = logps(base, k)
    z = raw.clamp(min=0)
    pol, _ = logps(policy, k)
    loss = torch.where(good == 1, 1.0 * (1 - torch.sigmoid(beta * (pol - ref - z))), 1.3 * (1 - torch.sigmoid(beta * (z - (pol - ref))))).mean()
    gr, norm = grads(policy, loss)
    losses["kto"] = dict(loss=loss.item(), grad_norm=norm.item(), kl=z.item(), kl_raw=raw.item(), desirable_weight=1.0, undesirable_weight=1.3)
    save_file(dict(gr, loss=loss.detach(), grad_norm=norm, kl=z, policy_kl_logps=polkl, policy_logps=pol.detach(), ref_kl_logps=refkl, ref_logps=ref), f"{out}/pref/kto.safetensors")
    json.dump(losses, open(f"{out}/pref/losses.json", "w"))


def generate(policy, out, vocab, g):
    prompt, context = torch.randint(3, vocab, (1, 7), generator=g), torch.randint(3, vocab, (1, 30), generator=g)
    ids, margin, steps = prompt, 9.0, []
    with torch.no_grad():
        for _ in range(24):
            z = policy(input_ids=ids, use_cache=False).logits[:, -1]
            top = z.topk(2).values[0]
            margin = min(margin, (top[0] - top[1]).item())
            steps.append(z[0])
            ids = torch.cat([ids, z.argmax(-1, keepdim=True)], 1)
        raw = policy(input_ids=context, use_cache=False).logits[:, -1].float()
    T, K, P, M, R = lp.TemperatureLogitsWarper(0.7), lp.TopKLogitsWarper(20), lp.TopPLogitsWarper(0.9), lp.MinPLogitsWarper(0.05), lp.RepetitionPenaltyLogitsProcessor(1.2)
    golden = dict(prompt_ids=prompt, greedy_ids=ids[:, 7:].contiguous(), step_logits=torch.stack(steps), sampling_context_ids=context, sampling_raw=raw)
    for name, chain in dict(temp0p7=[T], topk20=[K], topp0p9=[P], minp0p05=[M], reppen1p2=[R], combo=[R, T, K, P]).items():
        z = raw.clone()
        for f in chain:
            z = f(context, z)
        golden["sampling_" + name], golden[f"sampling_{name}_probs"] = z.masked_fill(z.isinf(), NEG), z.softmax(-1)
    save_file(golden, f"{out}/generate.safetensors")
    return margin


def accumulate(base, out, vocab, g):
    b = rows(g, 4, vocab)
    n = (b["labels"] != -100).sum()
    loss = loss_of(base, b, n)
    gr, norm = grads(base, loss)
    with torch.no_grad():
        micro = torch.stack([loss_of(base, {k: v[i : i + 1] for k, v in b.items()}, n) for i in range(4)])
    save_file(dict(b, **gr, num_items_in_batch=n, grad_norm=norm, loss_full=loss.detach(), micro_losses=micro), f"{out}/grad_accum.safetensors")


def make(top, name, seed):
    r = random.Random(f"layout {seed} {name}")
    keys = KINDS[name](r)
    keys.pop("clip_qkv", None)  # gradients at its bounds are a matter of rounding
    rope = keys.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope"):
        raise ValueError("its frequencies depend on what was read before")
    if keys.get("norm_topk_prob") and keys.get("num_experts_per_tok") == 1:
        raise ValueError("the gradient of its routers is rounding alone")
    config = AutoConfig.for_model(name, **dict(dict(pad_token_id=None, bos_token_id=1, eos_token_id=2), **keys))
    base = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    base.generation_config.pad_token_id = None
    g = torch.Generator().manual_seed(r.randrange(1 << 30))
    fill(base, g)
    h = dict(lr=r.choice([5e-4, 2e-3]), wd=r.choice([0.0, 0.03]), betas=[0.9, r.choice([0.95, 0.98])], eps=r.choice([1e-7, 1e-6]), clip=r.choice([0.7, 2.0]), steps=r.choice([9, 13]),
             warmup=r.choice([0, 3]), lora_lr=r.choice([1e-3, 3e-3]), r=r.choice([3, 5]), alpha=r.choice([7, 12]))  # fmt: skip
    out = f"{top}/train/{name}"
    os.makedirs(out)
    base.save_pretrained(f"{top}/models/{name}")
    torch.manual_seed(seed)
    vocab = config.vocab_size
    each = [rows(g, 2, vocab) for _ in range(h["steps"])]
    batches = {k: torch.stack([b[k] for b in each]) for k in each[0]}
    save_file(batches, f"{out}/batches.safetensors")
    policy = full(base, out, batches, h, g)
    adapters(base, out, batches, h, g)
    margin = generate(policy, out, vocab, g)
    for p in policy.parameters():
        p.requires_grad_(True)
    pref(policy, base, out, vocab, r.choice([0.1, 0.23]), g)
    accumulate(base, out, vocab, g)
    json.dump(dict(hparams=h, base_model=f"../../models/{name}", greedy_min_margin=margin), open(f"{out}/summary.json", "w"))


if __name__ == "__main__":
    for each in sys.argv[3:] or sorted(KINDS):
        try:
            make(sys.argv[1], each, int(sys.argv[2]))
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError, IndexError) as e:
            print(each, "left out:", repr(e)[:200])
            shutil.rmtree(f"{sys.argv[1]}/train/{each}", ignore_errors=True)
