# Makes golden.json beside it: what transformers 4.57 adds to the scores of keys in fp32, as sums and samples.
#   python make.py
import hashlib, json, math, os
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor as mpt

MASKS = {
    "short": ["1" * 7],
    "long": ["1" * 700],
    "padding": ["0" * 5 + "1" * 35, "1" * 30 + "0" * 10, "0" * 3 + "1" * 30 + "0" * 7],
    "holes": ["1" * 20 + "01" * 10, "0011" * 10, "1" * 39 + "0", "1" * 40],
    "long holes": ["1" * 300 + "0011" * 100],
}

out = []
for kind in ("bloom", "falcon", "mpt"):
    for heads in (1, 2, 3, 4, 6, 8, 12, 16, 25, 32, 71, 112):
        for name, rows in MASKS.items():
            if name.startswith("long") and heads not in (3, 16, 71):
                continue
            mask = torch.tensor([[int(c) for c in r] for r in rows])
            dim = 64 if heads % 2 else 80
            if kind == "bloom":
                bias = bloom(mask, heads, torch.float32).view(len(rows), heads, -1)
            elif kind == "falcon":  # _update_causal_mask divides
                bias = falcon(mask, heads, torch.float32).view(len(rows), heads, -1) / math.sqrt(dim)
            else:
                bias = mpt(heads, 2048)[:, 0, -mask.shape[1]:].expand(len(rows), -1, -1)
            bias = (bias + 0.0).contiguous()  # no negative zeros
            out.append(dict(kind=kind, heads=heads, head_dim=dim, mask=rows, sample=bias.flatten()[:: max(1, bias.numel() // 40)].tolist(),
                            sha256=hashlib.sha256(bias.numpy().tobytes()).hexdigest()))
lines = ",\n".join(json.dumps(o) for o in out)
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.json"), "w").write("[\n" + lines + "\n]\n")
