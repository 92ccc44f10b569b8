"""Writes a random llama and its loss and gradients under shifted short attention (LongLoRA, https://arxiv.org/abs/2309.12307): half of the
heads attend within groups of a quarter of the sequence, the other half after the tokens have been rotated by half a group.

usage: make.py OUT. OUT holds config.json with LLaMA-Factory's key group_size_ratio, model.safetensors and golden.safetensors.
"""

import json
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama as ml

RATIO = 0.25
keep = {}  # the padding mask of the batch


def attend(q, k, v, visible):
    """Causal attention of [batch, heads, n, d] that sees the keys where visible [batch, n] is set."""
    n = q.shape[2]
    seen = torch.ones(n, n, dtype=torch.bool).tril()[None, None] & visible[:, None, None, :]
    s = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
    return s.softmax(-1) @ v


def grouped(q, k, v, visible, size):
    """attend within groups of size positions."""
    b, h, n, d = q.shape
    fold = lambda x: x.reshape(b, h, n // size, size, d).transpose(1, 2).reshape(-1, h, size, d)
    o = attend(fold(q), fold(k), fold(v), visible)
    return o.reshape(b, n // size, h, size, d).transpose(1, 2).reshape(b, h, n, d)


def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
    b, n, _ = hidden_states.shape
    q, k, v = (p(hidden_states).view(b, n, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
    q, k = ml.apply_rotary_pos_emb(q, k, *position_embeddings)
    k, v = ml.repeat_kv(k, self.num_key_value_groups), ml.repeat_kv(v, self.num_key_value_groups)
    size, half = int(n * RATIO), q.shape[1] // 2
    there = lambda x: x[:, half:].roll(-size // 2, 2)
    # LLaMA-Factory cuts the mask to the first group of every row and repeats it, rows taking turns (model_utils/longlora.py).
    visible = keep["mask"][:, :size].repeat(n // size, 1)
    plain = grouped(q[:, :half], k[:, :half], v[:, :half], visible, size)
    shifted = grouped(there(q), there(k), there(v), visible, size).roll(size // 2, 2)
    return self.o_proj(torch.cat([plain, shifted], 1).transpose(1, 2).reshape(b, n, -1)), None


torch.manual_seed(5)
config = LlamaConfig(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
model = LlamaForCausalLM(config)
for p in model.parameters():
    p.data = (1 if p.dim() < 2 else 0) + 0.2 * torch.randn_like(p)
ids = torch.randint(3, 61, (2, 24))
mask = torch.ones_like(ids)
mask[1, 4:] = 0
labels = ids.masked_fill(mask == 0, -100)
labels[:, :2] = -100
keep["mask"] = mask.bool()
ml.LlamaAttention.forward = forward
logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
loss.backward()
golden = dict(input_ids=ids, attention_mask=mask, labels=labels, loss=loss.detach(), **{"grad." + n: p.grad for n, p in model.named_parameters()})
model.save_pretrained(sys.argv[1])
save_file(golden, f"{sys.argv[1]}/golden.safetensors")
path = f"{sys.argv[1]}/config.json"
with open(path) as f:
    keys = dict(json.load(f), group_size_ratio=RATIO)
with open(path, "w") as f:
    json.dump(keys, f)
