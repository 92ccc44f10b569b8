"""Trains models of architectures, sizes and options drawn at random for a few steps with torch, transformers and PEFT, in fp32 on the CPU.

usage: make.py OUT SEED COUNT. Every training becomes OUT/<i>_<architecture>: the model (config.json, model.safetensors), init (an adapter
in PEFT's format, where there is one), batches.safetensors with input_ids, attention_mask and labels [leaves, rows, length], and run.json with
the options, the learning rates, and the loss and gradient norm of every step. A step's loss is the sum over its leaves divided by the labels
of all of them (those of position 0 count), as transformers' Trainer has it. Packed rows are computed document by document, or at once with
LLaMA-Factory's mask of neat_packing, whose positions go on. Trainings whose numbers change by more than 2e-5 with the last bit of the weights
are left out. GaLore, APOLLO, BAdam, Adam-mini and AdamW in 8 bits are trained where their packages (galore-torch 1.0, apollo-torch 1.0.3,
badam 1.4, adam-mini 1.1.1, bitsandbytes) can be imported. Where the model has a window, padding
is shorter than it: a query that sees no key attends to all of them with the masks that transformers adds (eager code, Phi 3.5 MoE), to none
with torch's boolean masks and in ours, so padding would go to other experts, which then would have taken part in other steps.
"""

import copy
import json
import os
import random
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "random"))

import importlib
import logging

import torch
import torch.nn.functional as F
import torch.optim._muon as muon
from make import KINDS, B, C, fill
from peft import LoraConfig, OFTConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import Adafactor, AutoConfig, AutoModelForCausalLM, Trainer, get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

logging.disable(logging.CRITICAL)


def there(package):
    try:
        return importlib.import_module(package)
    except ImportError:
        return None


PACKAGES = {name: there(package) for name, package in dict(galore="galore_torch", apollo="apollo_torch", badam="badam", adam_mini="adam_mini", adamw_8bit="bitsandbytes").items()}


def nearest(x, code, absmax, codes, block):
    q, a = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, block)
    codes.copy_(q)
    absmax.copy_(a)


if PACKAGES["adamw_8bit"]:  # its exact path: the compiled CPU kernel looks codes up in a grid and misses the smallest ones; CUDA's does not
    importlib.import_module("bitsandbytes.backends.cpu.ops")._quant_blockwise_fp32_direct = nearest


def newton_schulz(g, coefficients, steps, eps):
    """Muon's iteration in float32, which torch makes in bfloat16."""
    a, b, c = coefficients
    x = g.T if g.size(0) > g.size(1) else g
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        m = x @ x.T
        x = a * x + (b * m + c * m @ m) @ x
    return x.T if g.size(0) > g.size(1) else x


muon._zeropower_via_newtonschulz = newton_schulz


svd = torch.linalg.svd


def signed_svd(x, full_matrices=False):
    """Singular vectors with the sign that makes their greatest element positive: GaLore's moments outlive a change of sign."""
    u, s, vh = svd(x.double(), full_matrices=full_matrices)
    for k in range(s.numel()):
        if u[u[:, k].abs().argmax(), k] < 0: u[:, k] *= -1
        if vh[k, vh[k].abs().argmax()] < 0: vh[k] *= -1
    return u.float(), s.float(), vh.float()


class Several:
    """Optimizers that share their steps."""

    def __init__(self, *each):
        self.each = [o for o in each if o]
        self.param_groups = [g for o in self.each for g in o.param_groups]

    def step(self):
        for o in self.each: o.step()

    def zero_grad(self):
        for o in self.each: o.zero_grad()


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


def linears(model):
    """LLaMA-Factory's find_all_linear_modules: the last names of linear modules whose paths have no lm_head in them."""
    heads = {"lm_head", "output"} if model.config.model_type == "internlm2" else {"lm_head"}
    return sorted({n.split(".")[-1] for n, m in model.named_modules() if not any(h in n for h in heads) and "Linear" in type(m).__name__})


def expanded(model, targets, count):
    """LLaMA-Factory's find_expanded_modules."""
    layers = model.config.num_hidden_layers
    stride = layers // count
    blocks = [f".{i:d}." for i in range(stride - 1, layers + stride - 1, stride)]
    return [n for n, _ in model.named_modules() if any(t in n for t in targets) and any(b in n for b in blocks)]


def low_rank(o, model, params, decay):
    """GaLore or APOLLO, as LLaMA-Factory groups them."""
    targets = linears(model) if o["galore_target"] == "all" else [o["galore_target"]]
    low = {id(p) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and any(t in n for t in targets)
           for p in m.parameters() if p.requires_grad and p.dim() > 1}
    o["projected"] = sorted(n for n, p in params if id(p) in low)
    rest = [dict(params=[p for n, p in params if id(p) not in low and (n in decay) == d], weight_decay=o["wd"] if d else 0.0) for d in (False, True)]
    groups = rest + [dict(params=[p for _, p in params if id(p) in low], weight_decay=o["wd"], rank=o["rank"], update_proj_gap=o["every"], scale=o["scale"], proj_type=o["proj"])]
    if o["optimizer"] == "apollo":
        groups[-1].update(proj="random", scale_type=o["scale_type"])
        return PACKAGES["apollo"].APOLLOAdamW([g for g in groups if g["params"]], lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], scale_front=o["scale_front"])
    torch.linalg.svd = signed_svd
    return PACKAGES["galore"].GaLoreAdamW([g for g in groups if g["params"]], lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])


def optimizer(o, model):
    params = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if o["method"] == "loraplus":
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=o["lr"], loraplus_lr_ratio=o["ratio"], loraplus_weight_decay=o["wd"],
                                         betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    decay = set(Trainer.get_decay_parameter_names(None, model)) if o["skip_decay"] else {n for n, _ in params}
    if o["own_norms"]: decay = {n for n in get_parameter_names(model, [torch.nn.LayerNorm]) if "bias" not in n}  # LLaMA-Factory's _get_decay_parameter_names
    groups = [dict(params=[p for n, p in params if n in decay], weight_decay=o["wd"]), dict(params=[p for n, p in params if n not in decay], weight_decay=0.0)]
    groups = [g for g in groups if g["params"]]
    adam = dict(lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    if o["optimizer"] in ("galore", "apollo"):
        return low_rank(o, model, params, decay)
    if o["optimizer"] == "adamw_8bit":
        return PACKAGES["adamw_8bit"].optim.AdamW8bit(groups, **adam)
    if o["optimizer"] == "badam":
        return PACKAGES["badam"].BlockOptimizer(torch.optim.AdamW([p for _, p in params], weight_decay=o["wd"], foreach=False, **adam), params, switch_block_every=o["every"],
                                                switch_mode=o["mode"], verbose=0)
    if o["optimizer"] == "adam_mini":
        c = model.config
        return PACKAGES["adam_mini"].Adam_mini(params, weight_decay=o["wd"], dim=c.hidden_size, n_heads=c.num_attention_heads, n_kv_heads=c.num_key_value_heads, verbose=False, **adam)
    if o["optimizer"] == "muon":
        own = {id(p) for n, p in params if p.dim() == 2 and not any(s in n for s in ("embed", "wte", "wpe", "lm_head", "lora_", "oft_"))}
        rest = [dict(g, params=[p for p in g["params"] if id(p) not in own]) for g in groups]
        o["orthogonal"] = sorted(n for n, p in params if id(p) in own)
        return Several(*[torch.optim.Muon([p for p in g["params"] if id(p) in own], lr=o["lr"], weight_decay=g["weight_decay"], momentum=o["momentum"], nesterov=o["nesterov"],
                                          adjust_lr_fn="match_rms_adamw") for g in groups if any(id(p) in own for p in g["params"])],
                       torch.optim.AdamW([g for g in rest if g["params"]], **adam) if any(g["params"] for g in rest) else None)
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
             momentum=0.0, nesterov=False, ratio=0.0, train_layers=0, spread=False, modules=[], extra=[], targets=[], save=[], neat=False,
             llama_pro=0, scale_type="", scale_front=False)
    o["method"] = C(r, "full", "full", "freeze", "lora", "lora", "rslora", "dora", "loraplus", "pissa", "oft")
    o["optimizer"] = "adamw" if o["method"] == "loraplus" else C(r, "adamw", "adamw", "sgd", "adafactor", "lion", "adamw_8bit", "muon")
    if o["method"] == "full": o["optimizer"] = C(r, o["optimizer"], "galore", "apollo", "badam", "adam_mini" if kind in ("llama", "mistral", "qwen2") else "galore")
    if not PACKAGES.get(o["optimizer"], True): o["optimizer"] = "adamw"
    o["lr"] = dict(adamw=1e-3, sgd=1e-2, adafactor=1e-3, lion=3e-5, adamw_8bit=1e-3, galore=1e-3, apollo=1e-3, badam=1e-3, adam_mini=1e-3, muon=1e-3)[o["optimizer"]]
    if o["optimizer"] == "sgd" and B(r): o.update(momentum=0.9, nesterov=B(r))
    if o["optimizer"] == "muon": o.update(momentum=C(r, 0.95, 0.8), nesterov=B(r))
    if o["optimizer"] == "galore": o.update(rank=C(r, 1, 3, 16), every=C(r, 1, 2, 3), scale=C(r, 1.0, 2.0), proj=C(r, "std", "std", "reverse_std", "left", "right"), galore_target=C(r, "all", "all", "proj"))
    if o["optimizer"] == "apollo":
        o.update(rank=C(r, 1, 3, 16), every=C(r, 1, 2, 3), scale=C(r, 1.0, 4.0, 32.0), scale_type=C(r, "channel", "tensor"), scale_front=B(r), galore_target=C(r, "all", "all", "proj"))
        o["proj"] = "std" if o["scale_type"] == "channel" else C(r, "std", "reverse_std", "left", "right")
    if o["optimizer"] == "badam": o.update(every=C(r, 2, 3), mode=C(r, "ascending", "descending"))
    if o["optimizer"] == "adam_mini": o["skip_decay"] = True
    o["own_norms"] = o["skip_decay"] and o["method"] != "loraplus" and (o["optimizer"] in ("galore", "apollo") or B(r, .3))
    if o["method"] == "loraplus": o.update(ratio=C(r, 4.0, 16.0), skip_decay=True)
    if o["schedule"] == "constant": o["warmup"] = 0
    return o


def steps(model, o, ids, mask, labels, docs):
    """Losses, gradient norms and learning rates of the steps."""
    opt = optimizer(o, model)
    scheds = [get_scheduler(o["schedule"], each, o["warmup"], o["steps"]) for each in getattr(opt, "each", [opt])]
    losses, norms, rates = [], [], []
    for step in range(o["steps"]):
        span = range(step * o["accumulation"], (step + 1) * o["accumulation"])
        total = sum((labels[i] != -100).sum().item() for i in span)
        for p in model.parameters(): p.grad = None
        loss = 0.0
        for i in span:
            whole = [0, ids.shape[2]]
            for a, b in zip(*((whole, whole[1:]) if o["neat"] else (docs[i], docs[i][1:]))):
                seen = mask[i, :, a:b]
                if o["neat"]:
                    number = torch.tensor([sum(p >= d for d in docs[i]) for p in range(b)])
                    seen = torch.zeros(b, b).masked_fill((number[:, None] != number) | torch.ones(b, b).triu(1).bool(), torch.finfo(torch.float).min)[None, None]
                logits = model(input_ids=ids[i, :, a:b], attention_mask=seen, use_cache=False).logits[:, :-1].flatten(0, 1)
                targets = labels[i, :, a + 1:b].reshape(-1)
                part = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100, label_smoothing=o["smoothing"]) / total
                part.backward()
                loss += part.item()
        params = [p for p in model.parameters() if p.requires_grad]
        norms.append(torch.nn.utils.clip_grad_norm_(params, o["clip"] or float("inf")).item())
        for n, p in model.named_parameters():
            # As a router's whose one choice always weighs 1: Muon, or Adam, makes a step of the usual size of what is rounding alone.
            if p.grad is not None and 0 < p.grad.norm().item() < 1e-7 * min(norms[-1], o["clip"] or norms[-1]): raise ValueError(f"the gradient of {n} is rounding alone")
        losses.append(loss)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        for sched in scheds: sched.step()
    return losses, norms, rates


def freeze(model, o, r):
    """LLaMA-Factory's freeze tuning, whose names an expert of that number satisfies too."""
    n = layers_of(model)
    o["train_layers"], o["spread"] = r.choice([-1, 1]) * r.randint(1, n), B(r, .3)
    if o["spread"]:
        o["train_layers"] = r.choice([k for k in range(1, n + 1) if n % k == 0])
        ids = range(n // o["train_layers"] - 1, n, n // o["train_layers"])
    elif o["train_layers"] > 0: ids = range(n - o["train_layers"], n)
    else: ids = range(-o["train_layers"])
    names = [name for name, _ in model.named_parameters()]
    hidden, rest = set(), set()
    for name in names:
        if ".0." in name: hidden.add(name.split(".0.")[-1].split(".")[0])
        elif ".1." in name: hidden.add(name.split(".1.")[-1].split(".")[0])
        if re.search(r"\.\d+\.", name) is None: rest.add(name.split(".")[-2])
    if B(r, .4): o["modules"] = sorted(r.sample(sorted(hidden), r.randint(1, len(hidden))))
    if B(r, .4): o["extra"] = sorted(r.sample(sorted(rest), 1))
    wanted = [f".{i}.{m}" for i in ids for m in o["modules"] or [""]] + o["extra"]
    for name, p in model.named_parameters(): p.requires_grad_(p.requires_grad and any(w in name for w in wanted))
    if not any(p.requires_grad for p in model.parameters()): raise ValueError("nothing is trained")


def adapt(model, o, r, g, out):
    """The model with PEFT's adapter, which init receives; with "all" as LLaMA-Factory names its targets."""
    last = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n})
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    tied = model.config.tie_word_embeddings
    o["targets"] = C(r, ["all"], ["all"], ["all-linear"], sorted(r.sample(last, r.randint(1, len(last)))) if last else ["all-linear"])
    if o["targets"][0] not in ("all", "all-linear") and B(r, .3): o["targets"] = o["targets"] + [head]
    names = {"all": linears(model), "all-linear": "all-linear"}.get(o["targets"][0], o["targets"])
    if head in names and tied and o["method"] == "pissa": raise ValueError("PEFT changes the embedding too")
    if names != "all-linear" and B(r, .2):
        layers = layers_of(model)
        o["llama_pro"] = r.choice([k for k in range(1, layers + 1) if layers % k == 0])
        names = expanded(model, names, o["llama_pro"])
    if o["method"] != "dora" and B(r, .25):
        beside = [n.split(".")[-1] for n, m in model.named_modules() if m in (model.get_input_embeddings(), model.get_output_embeddings())]
        o["save"] = C(r, *[[n] for n in beside + ["gate", "router"] if any(m.endswith(n) for m, _ in model.named_modules())] or [[]])
    more = dict(target_modules=names, task_type="CAUSAL_LM", modules_to_save=o["save"] or None)
    if o["method"] == "oft":
        size = C(r, dict(r=0, oft_block_size=C(r, 2, 4, 8)), dict(r=C(r, 2, 3), oft_block_size=0))
        model = get_peft_model(model, OFTConfig(**size, **more))
        for n, p in model.named_parameters():
            if "oft_" in n: p.data = 0.1 * torch.randn(p.shape, generator=g)
            if "oft_" in n and not p.numel(): raise ValueError("nothing to rotate")
    else:
        model = get_peft_model(model, LoraConfig(r=C(r, 1, 3, 4), lora_alpha=C(r, 3, 8), use_rslora=o["method"] == "rslora", use_dora=o["method"] == "dora",
                                                 init_lora_weights="pissa" if o["method"] == "pissa" else False, **more))
    model = model.eval()
    model.save_pretrained(out + "/init", save_embedding_layers=False)
    return model


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
    torch.linalg.svd = svd
    torch.manual_seed(r.randrange(1 << 30))
    if o["method"] == "freeze": freeze(model, o, r)
    elif o["method"] != "full": model = adapt(model, o, r, g, out)
    V, S, rows, leaves = config.vocab_size, C(r, 9, 17, 24), 1 if o["packed"] else C(r, 1, 2, 3), o["steps"] * o["accumulation"]
    ids = torch.randint(3, V, (leaves, rows, S), generator=g)
    mask = torch.ones_like(ids)
    docs = [[0, S]] * leaves
    if (config.__dict__.get("rope_scaling") or {}).get("rope_type", (config.__dict__.get("rope_scaling") or {}).get("type")) in ("dynamic", "longrope"):
        o["packed"] = False  # frequencies depend on the longest document of a row
    windows = keys.get("sliding_window") or keys.get("layer_types")  # which a mask of one's own replaces
    o["neat"] = o["packed"] and not windows and B(r) and kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "gpt_neox", "gpt2", "olmo", "olmo2", "stablelm", "granite", "mixtral")
    if o["packed"]: docs = [[0] + sorted(r.sample(range(2, S - 1), C(r, 1, 2))) + [S] for _ in range(leaves)]
    else:
        for i in range(leaves): mask[i, rows - 1, S - min(r.randint(0, S // 2), (keys.get("sliding_window") or S) - 1):] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0, :2] = -100
    if o["neat"]:
        for i in range(leaves): labels[i, 0, docs[i][:-1]] = -100
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
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError, UnboundLocalError, IndexError, AssertionError) as e:
            print(i, kind, "left out:", repr(e)[:200])
