"""Writes golden.safetensors: parameters after 20 steps of each optimizer's reference implementation.

Needs torch 2.9.1, transformers 4.57.6, safetensors, numpy, bitsandbytes 0.50.2, lion-pytorch 0.2.5, galore-torch 1.0, apollo-torch 1.0.3,
adam-mini 1.1.1, badam 1.4 (deploy/setup/python.sh installs them). Run: python golden.py [FILE] (in this folder). Values and gradients are
integers over 1001, so that the test makes the same ones.
"""
import sys
import warnings

import numpy as np
import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
STEPS, LR, WD, B1, B2, EPS = 20, 1e-2, 0.1, 0.9, 0.95, 1e-7
SHAPES = {
    "model.embed_tokens.weight": (11, 6),
    "model.layers.0.self_attn.q_proj.weight": (16, 8),
    "model.layers.0.self_attn.k_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (6, 10),
    "model.layers.0.mlp.down_proj.weight": (70, 60),
    "model.layers.0.mlp.up_proj.bias": (7,),
    "model.layers.1.self_attn.o_proj.weight": (12, 5),
    "model.layers.1.input_layernorm.weight": (9,),
    "model.norm.weight": (9,),
    "lm_head.weight": (11, 6),
}


def series(n, a, b, scale):
    i = np.arange(n, dtype=np.int64)
    return (((i * i * 7 + i * 7919 + a * 104729 + b * 1299709 + a * i * 31) % 2003 - 1001).astype(np.float64) / 1001 * scale).astype(np.float32)


def value(k, shape):
    return torch.tensor(series(int(np.prod(shape)), -1 - k, 17, 0.5)).view(shape)


def grad(step, k, shape):
    # Some structure, so that singular values differ: the outer product of two series plus noise.
    n = int(np.prod(shape))
    g = series(n, step, k, 0.02)
    if len(shape) == 2:
        for r in range(3):
            u, v = series(shape[0], 50 + r, k, 1.0 / (1 << r)), series(shape[1], 90 + r, k, 1.0)
            g = (g.reshape(shape) + (u[:, None] * v[None, :]).astype(np.float32)).astype(np.float32).reshape(-1)
    return torch.tensor(g).view(shape)


def make():
    return {n: torch.nn.Parameter(value(k, s)) for k, (n, s) in enumerate(SHAPES.items())}


out = {}


def run(tag, build, names=None, each=None):
    ps = make()
    opt = build(ps)
    for step in range(STEPS):
        for k, (n, s) in enumerate(SHAPES.items()):
            ps[n].grad = grad(step, k, s) if names is None or n in names(step) else None
        if each:
            each(opt, ps, step)
        else:
            opt.step()
    for n, p in ps.items():
        out[f"{tag}/{n}"] = p.detach().flatten()[:600].clone()


def groups(ps, **extra):
    """Trainer's groups: no decay on biases and norms."""
    plain = [p for n, p in ps.items() if "norm" in n or "bias" in n]
    rest = [p for n, p in ps.items() if not ("norm" in n or "bias" in n)]
    return [{"params": rest, "weight_decay": WD, **extra}, {"params": plain, "weight_decay": 0.0}]


run("adamw", lambda ps: torch.optim.AdamW(groups(ps), lr=LR, betas=(B1, B2), eps=EPS, foreach=False))
run("sgd", lambda ps: torch.optim.SGD(groups(ps), lr=LR, foreach=False))
run("sgd_momentum", lambda ps: torch.optim.SGD(groups(ps), lr=LR, momentum=0.9, foreach=False))
run("sgd_nesterov", lambda ps: torch.optim.SGD(groups(ps), lr=LR, momentum=0.9, nesterov=True, foreach=False))

from lion_pytorch import Lion

run("lion", lambda ps: Lion(groups(ps), lr=LR, betas=(B1, B2)))

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as bnb_cpu


def nearest(x, code, absmax, codes, block):
    """bitsandbytes' own exact path: its compiled CPU kernel looks codes up in a grid and misses the smallest ones; CUDA's does not."""
    q, a = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, block)
    codes.copy_(q)
    absmax.copy_(a)


bnb_cpu._quant_blockwise_fp32_direct = nearest
run("adamw_8bit", lambda ps: bnb.optim.AdamW8bit(groups(ps), lr=LR, betas=(B1, B2), eps=EPS))
out["map_signed"] = bnb.functional.create_dynamic_map(True).clone()
out["map_unsigned"] = bnb.functional.create_dynamic_map(False).clone()

from transformers.optimization import Adafactor

run("adafactor", lambda ps: Adafactor(groups(ps), lr=LR, scale_parameter=False, relative_step=False))
run("adafactor_relative", lambda ps: Adafactor(groups(ps), scale_parameter=True, relative_step=True, warmup_init=True, beta1=B1))

from adam_mini import Adam_mini

run("adam_mini", lambda ps: Adam_mini(ps.items(), lr=LR, betas=(B1, B2), eps=EPS, weight_decay=WD, dim=8, n_heads=4, n_kv_heads=2, verbose=False))

# Muon: the published iteration in float32 (the reference runs it in bfloat16; muon_bf16 is that).
import torch.optim._muon as muon


def matrices(n):
    return n.startswith("model.layers") and n.endswith("weight") and "norm" not in n


class Both:
    def __init__(self, ps, **kw):
        self.a = torch.optim.Muon([p for n, p in ps.items() if matrices(n)], lr=LR, weight_decay=WD, **kw)
        self.b = torch.optim.AdamW(groups({n: p for n, p in ps.items() if not matrices(n)}), lr=LR, betas=(B1, B2), eps=EPS, foreach=False)

    def step(self):
        self.a.step()
        self.b.step()


run("muon_bf16", lambda ps: Both(ps, adjust_lr_fn="match_rms_adamw"))


def newton_schulz(g, coefficients, steps, eps):
    a, b, c = coefficients
    x = g.T if g.size(0) > g.size(1) else g
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        m = x @ x.T
        x = a * x + (b * m + c * m @ m) @ x
    return x.T if g.size(0) > g.size(1) else x


muon._zeropower_via_newtonschulz = newton_schulz
run("muon", lambda ps: Both(ps, adjust_lr_fn="match_rms_adamw"))
run("muon_original", lambda ps: Both(ps, nesterov=False, momentum=0.8))

# GaLore and APOLLO. Singular vectors get the sign that makes their greatest element positive.
from apollo_torch import APOLLOAdamW
from galore_torch import GaLoreAdamW

svd = torch.linalg.svd


def signed_svd(x, full_matrices=False):
    u, s, vh = svd(x.double(), full_matrices=full_matrices)
    for k in range(s.numel()):
        if u[u[:, k].abs().argmax(), k] < 0:
            u[:, k] *= -1
        if vh[k, vh[k].abs().argmax()] < 0:
            vh[k] *= -1
    return u.float(), s.float(), vh.float()


torch.linalg.svd = signed_svd


def low(ps, **kw):
    a = [{"params": [p for n, p in ps.items() if matrices(n)], "weight_decay": WD, "rank": 3, "update_proj_gap": 7, **kw}]
    return groups({n: p for n, p in ps.items() if not matrices(n)}) + a  # APOLLO's matrices depend on the order


for proj in ("std", "reverse_std", "left", "right"):
    run(f"galore_{proj}", lambda ps: GaLoreAdamW(low(ps, scale=2.0, proj_type=proj), lr=LR, betas=(B1, B2), eps=EPS))
for tag, kw, front in (("apollo_channel", {"scale_type": "channel"}, False), ("apollo_tensor", {"scale_type": "tensor"}, True)):
    run(tag, lambda ps: APOLLOAdamW(low(ps, scale=4.0, proj_type="std", proj="random", **kw), lr=LR, betas=(B1, B2), eps=EPS, scale_front=front))

# BAdam over AdamW: blocks are layers 0 and 1, two turns of 4 steps and so on.
import logging

from badam import BlockOptimizer

logging.disable(logging.CRITICAL)


def badam(ps, mode):
    # Its groups take the decay from the defaults, for biases and norms too.
    base = torch.optim.AdamW(list(ps.values()), lr=LR, betas=(B1, B2), eps=EPS, weight_decay=WD, foreach=False)
    return BlockOptimizer(base, list(ps.items()), switch_block_every=4, switch_mode=mode, verbose=0)


def active(opt, ps, step):
    for p in ps.values():
        if not p.requires_grad:
            p.grad = None
    opt.step()


for mode in ("ascending", "descending"):
    run(f"badam_{mode}", lambda ps: badam(ps, mode), each=active)

save_file(out, sys.argv[1] if len(sys.argv) > 1 else "golden.safetensors")
print(sum(t.numel() for t in out.values()), "values")
