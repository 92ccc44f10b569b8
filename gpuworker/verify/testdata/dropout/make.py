"""Writes golden.json: losses and gradient norms of transformers' own models trained with dropout, on the CPU in f32.

usage: make.py golden.json

Models, forward and backward passes, clipping and AdamW are transformers' and torch's. Which elements are dropped is not torch's choice but
ours, so that both sides drop the same: torch.nn.functional.dropout draws from Philox as the kernels do, keyed by the place it is called
from, and scaled_dot_product_attention is its own reference implementation (softmax, dropout, product) over that dropout.
Weights are a function of their name and index, so that no file has to hold them.
"""

import json
import math
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
torch.set_num_threads(1)
U64 = (1 << 64) - 1
STEPS, ROWS, SEQ, SEED, TOKENS = 10, 2, 11, 77, 61
LR, BETAS, EPS, DECAY, CLIP = 2e-3, (0.9, 0.999), 1e-8, 0.01, 1.0


def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & U64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & U64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & U64
    return z ^ z >> 31


def fnv(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & U64
    return h


def philox(c0, c1, c2, c3, k0, k1):
    """Four arrays of 32 bits (in uint64) and a key."""
    m = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & m, (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & m
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


class Places:
    """Knows which layer runs, and how many dropouts of it there have been."""

    def __init__(self, layers, order):
        self.layer, self.order, self.step = None, order, 0
        for i, m in enumerate(layers):
            m.register_forward_pre_hook(lambda *_, i=i: self.enter(i))
            m.register_forward_hook(lambda *_: self.leave())
        self.calls = 0

    def enter(self, i):
        self.layer, self.count = i, 0

    def leave(self):
        self.layer = None

    def place(self, probabilities):
        if self.layer is None:
            return 0, 3
        if probabilities:
            return self.layer, 0
        self.count += 1
        return self.layer, self.order[self.count - 1]

    def dropout(self, x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        self.calls += 1
        layer, site = self.place(x.dim() == 4)
        key = splitmix(SEED ^ splitmix(fnv(f"dropout.{layer}.{site}") ^ splitmix(self.step)))
        ids = np.array([(self.step * ROWS + b) << 24 | i for b in range(ROWS) for i in range(SEQ)], dtype=np.uint64)
        if x.dim() == 4:
            b, h, q, k = x.shape
            ids = ids.reshape(b, 1, q, 1)
            heads = np.arange(h, dtype=np.uint64).reshape(1, h, 1, 1)
            cols = k
        else:
            ids, heads, cols = ids.reshape(-1, 1), np.zeros((1, 1), np.uint64), x.shape[-1]
        groups = np.arange((cols + 3) // 4, dtype=np.uint64)
        shape = np.broadcast_shapes(ids.shape, heads.shape, groups.shape)
        c = [np.broadcast_to(v, shape).copy() for v in (groups, heads, ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32))]
        u = np.moveaxis(philox(*c, key & 0xFFFFFFFF, key >> 32), 0, -1).reshape(*shape[:-1], -1)[..., :cols]
        keep = torch.from_numpy((u >= np.uint64(int(float(np.float32(p)) * 2**32))).astype(np.float32)).reshape(x.shape)
        return x * (keep / (1 - p))




def sdpa(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """As torch's documentation has it."""
    n, s = query.size(-2), key.size(-2)
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    if enable_gqa:
        key, value = (t.repeat_interleave(query.size(-3) // t.size(-3), -3) for t in (key, value))
    w = query @ key.transpose(-2, -1) * scale
    if is_causal:
        w = w.masked_fill(~torch.ones(n, s, dtype=torch.bool).tril(), float("-inf"))
    if attn_mask is not None:
        w = w.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else w + attn_mask
    return F.dropout(torch.softmax(w, -1), dropout_p, True) @ value


def models():
    """name -> (configuration, the places of a layer other than probabilities in the order they are called)."""
    both, common = [1, 2], dict(vocab_size=64, initializer_range=0.02, pad_token_id=63)  # which has no gradient, and does not occur
    gpt2 = dict(common, n_embd=32, n_head=4, n_layer=2, n_positions=32, attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1)
    llama = dict(common, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
                 attention_dropout=0.1)
    wide = dict(llama, num_key_value_heads=4)
    return {
        "gpt2": (dict(gpt2, model_type="gpt2"), both),
        "gpt2_mixed": (dict(gpt2, model_type="gpt2", attn_pdrop=0.3, embd_pdrop=0.0, resid_pdrop=0.2), both),
        "gpt_bigcode": (dict(gpt2, model_type="gpt_bigcode", multi_query=True), both),
        "gptj": (dict(gpt2, model_type="gptj", rotary_dim=4), both),
        "opt": (dict(common, model_type="opt", hidden_size=32, word_embed_proj_dim=32, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
                     dropout=0.1, attention_dropout=0.2, layerdrop=0.0), both),
        "opt_postnorm": (dict(common, model_type="opt", hidden_size=32, word_embed_proj_dim=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4,
                              max_position_embeddings=32, dropout=0.1, attention_dropout=0.0, layerdrop=0.0, do_layer_norm_before=False), both),
        "phi": (dict(wide, model_type="phi", resid_pdrop=0.1, embd_pdrop=0.2), both),
        "phi3": (dict(llama, model_type="phi3", resid_pdrop=0.1, embd_pdrop=0.1), both),
        "bloom": (dict(common, model_type="bloom", hidden_size=32, n_layer=2, n_head=4, attention_dropout=0.1, hidden_dropout=0.1), both),
        "falcon": (dict(common, model_type="falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, attention_dropout=0.2, hidden_dropout=0.1, alibi=False,
                        multi_query=True, parallel_attn=True), [2]),
        "falcon_alibi": (dict(common, model_type="falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, attention_dropout=0.2, hidden_dropout=0.1,
                              alibi=True, multi_query=False, parallel_attn=False, bias=True), both),
        "falcon_new": (dict(common, model_type="falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, attention_dropout=0.1,
                            hidden_dropout=0.1, new_decoder_architecture=True), [2]),
        "mpt": (dict(common, model_type="mpt", d_model=32, n_layers=2, n_heads=4, max_seq_len=32, resid_pdrop=0.3, emb_pdrop=0.3, attn_config=dict(attn_pdrop=0.1)), both),
        "gpt_neox": (dict(wide, model_type="gpt_neox", hidden_dropout=0.1, rotary_pct=0.5), both),
        "starcoder2": (dict(llama, model_type="starcoder2", residual_dropout=0.1, embedding_dropout=0.1), both),
        "stablelm": (dict(llama, model_type="stablelm", hidden_dropout=0.1), [2]),
        "llama": (dict(llama, model_type="llama"), both),
        "seed_oss": (dict(llama, model_type="seed_oss", residual_dropout=0.1, head_dim=8), both),
    }


def fill(name, p):
    """Values in [-0.15, 0.15) by name and index; around 1 for the weights of norms."""
    with torch.no_grad():
        z = np.arange(p.numel(), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
        with np.errstate(over="ignore"):
            z = z * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ z >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
            z = z ^ z >> np.uint64(32)
        v = ((z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5) * 0.3
        if p.dim() == 1 and name.endswith("weight"):
            v = v + 1
        p.copy_(torch.from_numpy(v.astype(np.float32)).reshape(p.shape))


def layers_of(model):
    found = [m for n, m in model.named_modules() if n.split(".")[-1] in ("h", "layers", "blocks")]
    assert len(found) == 1
    return found[0]


def train(config, order):
    c = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(c).float()
    for name, p in model.named_parameters():
        fill(name, p)
    places = Places(layers_of(model), order)
    F.dropout, F.scaled_dot_product_attention = places.dropout, sdpa
    model.train()
    optim = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    ids = torch.tensor([[[(7 * s + 13 * b * b + 5 * i * i + 3 * i) % TOKENS for i in range(SEQ)] for b in range(ROWS)] for s in range(STEPS)])
    losses, norms = [], []
    for step in range(STEPS):
        places.step, places.layer = step, None
        logits = model(input_ids=ids[step], attention_mask=torch.ones_like(ids[step]), use_cache=False).logits
        # The label count that the loss is divided by is that of labels before they are shifted.
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), ids[step][:, 1:].reshape(-1), reduction="sum") / ids[step].numel()
        optim.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optim.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids[0], attention_mask=torch.ones_like(ids[0]), use_cache=False).logits
        last = F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), ids[0][:, 1:].reshape(-1), reduction="sum") / ids[0].numel()
    saved = json.loads(c.to_json_string(use_diff=False))
    saved["architectures"] = [type(model).__name__]
    keep = {k: v for k, v in saved.items() if k in config or k in ("architectures", "model_type")}
    return dict(config=keep, losses=losses, norms=norms, eval=float(last), dropouts=places.calls // STEPS)


def main():
    out = {}
    for name, (config, order) in models().items():
        out[name] = train(config, order)
        print(name, out[name]["dropouts"], out[name]["losses"][0], out[name]["losses"][-1], file=sys.stderr)
    doc = dict(steps=STEPS, rows=ROWS, seq=SEQ, seed=SEED, tokens=TOKENS, lr=LR, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=DECAY, clip=CLIP, models=out)
    with open(sys.argv[1], "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


main()
