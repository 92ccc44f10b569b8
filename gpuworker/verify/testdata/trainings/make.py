"""Trains models of architectures, sizes and options drawn at random for a few steps with torch, transformers and PEFT, in fp32 on the CPU.

usage: make.py OUT SEED COUNT. Every training becomes OUT/<i>_<architecture>: the model (config.json, model.safetensors), init (an adapter
in PEFT's format, where there is one), batches.safetensors with input_ids, attention_mask and labels [leaves, rows, length], and run.json with
the options, the learning rates, and the loss and gradient norm of every step. A step's loss is the sum over its leaves divided by the labels
of all of them (those of position 0 count), as transformers' Trainer has it. Packed rows are computed document by document. What has no
gradient (an expert that no token of a step reaches) has the gradient 0, as under DeepSpeed: decay and momentum go on, where torch alone would
leave it out. Trainings whose numbers change by more than 2e-5 with the last bit of the weights are left out.
"""

import copy
import json
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "random"))

import torch
import torch.nn.functional as F
from make import KINDS, B, C, fill
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import Adafactor, AutoConfig, AutoModelForCausalLM, Trainer, get_scheduler

STACKED = ("gpt_oss", "granitemoe", "granitemoeshared")  # experts in one tensor, which adapters leave alone


class Lion(torch.optim.Optimizer):
    """https://arxiv.org/abs/2302.06675, program 1."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            b1, b2 = g["betas"]
            for p in g["params"]:
                if p.grad is None: continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - g["lr"] * g["weight_decay"]).sub_(g["lr"] * (b1 * m + (1 - b1) * p.grad).sign())
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


def layers_of(model):
    """The number of layers."""
    return next(len(m) for n, m in model.named_modules() if n.split(".")[-1] in ("h", "layers", "blocks"))


def optimizer(o, model):
    params = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if o["method"] == "loraplus":
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=o["lr"], loraplus_lr_ratio=o["ratio"], loraplus_weight_decay=o["wd"],
                                         betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    decay = set(Trainer.get_decay_parameter_names(None, model)) if o["skip_decay"] else {n for n, _ in params}
    groups = [dict(params=[p for n, p in params if n in decay], weight_decay=o["wd"]), dict(params=[p for n, p in params if n not in decay], weight_decay=0.0)]
    groups = [g for g in groups if g["params"]]
    if o["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=o["lr"], momentum=o["momentum"], nesterov=o["nesterov"])
    if o["optimizer"] == "adafactor":
        return Adafactor(groups, lr=o["lr"], scale_parameter=False, relative_step=False)
    if o["optimizer"] == "lion":
        return Lion(groups, o["lr"], (o["beta1"], o["beta2"]), 0.0)
    return torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])


def options(r, kind):
    o = dict(steps=C(r, 3, 4, 6), accumulation=C(r, 1, 1, 2, 3), clip=C(r, 0.0, 0.3, 1.0), schedule=C(r, "linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"),
             warmup=C(r, 0, 2), wd=C(r, 0.0, 0.1, 1.0), skip_decay=B(r), smoothing=C(r, 0.0, 0.0, 0.1), packed=B(r, .25), beta1=C(r, 0.9, 0.8), beta2=C(r, 0.999, 0.95), eps=C(r, 1e-8, 1e-6),
             momentum=0.0, nesterov=False, ratio=0.0, train_layers=0)
    methods = ["full", "full", "freeze"] + ([] if kind in STACKED else ["lora", "rslora", "dora", "loraplus"])
    o["method"] = C(r, *methods)
    o["optimizer"] = "adamw" if o["method"] == "loraplus" else C(r, "adamw", "adamw", "sgd", "adafactor", "lion")
    o["lr"] = dict(adamw=1e-3, sgd=1e-2, adafactor=1e-3, lion=3e-5)[o["optimizer"]]
    if o["optimizer"] == "sgd" and B(r): o.update(momentum=0.9, nesterov=B(r))
    if o["method"] == "loraplus": o.update(ratio=C(r, 4.0, 16.0), skip_decay=True)
    if o["schedule"] == "constant": o["warmup"] = 0
    return o


def steps(model, o, ids, mask, labels, docs):
    """Losses, gradient norms and learning rates of the steps."""
    opt = optimizer(o, model)
    sched = get_scheduler(o["schedule"], opt, o["warmup"], o["steps"])
    losses, norms, rates = [], [], []
    for step in range(o["steps"]):
        span = range(step * o["accumulation"], (step + 1) * o["accumulation"])
        total = sum((labels[i] != -100).sum().item() for i in span)
        opt.zero_grad()
        loss = 0.0
        for i in span:
            for a, b in zip(docs[i], docs[i][1:]):
                logits = model(input_ids=ids[i, :, a:b], attention_mask=mask[i, :, a:b], use_cache=False).logits[:, :-1].flatten(0, 1)
                targets = labels[i, :, a + 1:b].reshape(-1)
                part = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100, label_smoothing=o["smoothing"]) / total
                part.backward()
                loss += part.item()
        params = [p for p in model.parameters() if p.requires_grad]
        for p in params:
            if p.grad is None: p.grad = torch.zeros_like(p)
        norms.append(torch.nn.utils.clip_grad_norm_(params, o["clip"] or float("inf")).item())
        losses.append(loss)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        sched.step()
    return losses, norms, rates


def train(out, r, kind):
    keys = KINDS[kind](r)
    keys.pop("clip_qkv", None)  # gradients at its bounds are a matter of rounding
    config = AutoConfig.for_model(kind, **dict(dict(pad_token_id=C(r, None, 0, 5), bos_token_id=1, eos_token_id=2), **keys))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    model.generation_config.pad_token_id = None
    g = torch.Generator().manual_seed(r.randrange(1 << 30))
    fill(model, g)
    model.save_pretrained(out)
    o = options(r, kind)
    torch.manual_seed(r.randrange(1 << 30))
    if o["method"] == "freeze":
        n = layers_of(model)
        o["train_layers"] = r.randint(1, n)
        for name, p in model.named_parameters():  # by LLaMA-Factory's rule, which an expert of that number satisfies too
            p.requires_grad_(any(f".{i}." in name for i in range(n - o["train_layers"], n)))
    if "lora" in o["method"] or o["method"] == "dora":
        c = LoraConfig(r=C(r, 1, 3, 4), lora_alpha=C(r, 3, 8), target_modules="all-linear", use_rslora=o["method"] == "rslora", use_dora=o["method"] == "dora", init_lora_weights=False,
                       task_type="CAUSAL_LM")
        model = get_peft_model(model, c).eval()
        model.save_pretrained(out + "/init")
    V, S, rows, leaves = config.vocab_size, C(r, 9, 17, 24), 1 if o["packed"] else C(r, 1, 2, 3), o["steps"] * o["accumulation"]
    ids = torch.randint(3, V, (leaves, rows, S), generator=g)
    mask = torch.ones_like(ids)
    docs = [[0, S]] * leaves
    if (config.__dict__.get("rope_scaling") or {}).get("rope_type", (config.__dict__.get("rope_scaling") or {}).get("type")) in ("dynamic", "longrope"):
        o["packed"] = False  # frequencies depend on the longest document of a row
    if o["packed"]: docs = [[0] + sorted(r.sample(range(2, S - 1), C(r, 1, 2))) + [S] for _ in range(leaves)]
    else:
        for i in range(leaves): mask[i, rows - 1, S - r.randint(0, S // 2):] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0, :2] = -100
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters(): p.mul_(1 + 6e-8 * torch.randn(p.shape, generator=g))
    losses, norms, rates = steps(model, o, ids, mask, labels, docs)
    for a, b in zip(losses + norms, sum(steps(twin, o, ids, mask, labels, docs)[:2], [])):
        if abs(a - b) > 2e-5 * abs(a): raise ValueError(f"{a} becomes {b} when the weights change in their last bit")
    save_file(dict(input_ids=ids, attention_mask=mask, labels=labels), out + "/batches.safetensors")
    json.dump(dict(o, docs=docs, losses=losses, norms=norms, rates=rates, keys=keys), open(out + "/run.json", "w"), default=str)


if __name__ == "__main__":
    out, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for i in range(count):
        r = random.Random(f"{seed} {i}")
        kind = r.choice(sorted(KINDS))
        try:
            train(f"{out}/{i:03}_{kind}", r, kind)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError, UnboundLocalError, IndexError) as e:
            print(i, kind, "left out:", repr(e)[:200])
