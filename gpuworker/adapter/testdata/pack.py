"""Writes packed.safetensors: values packed by bitsandbytes 0.48.2 (MIT) on the CPU.

python -m pip install torch==2.9.1 bitsandbytes==0.48.2 safetensors && python pack.py packed.safetensors
"""

import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

out = {"dynamic_map": F.create_dynamic_map()}
generator = torch.Generator().manual_seed(7)
for name, shape, scale in (("small", (6, 11), 1.0), ("large", (150, 120), 0.03)):
    w = torch.randn(shape, generator=generator) * scale
    w[1] = 0  # a row, and with the small one nearly a block, of zeros
    out[name] = w
    for double in (False, True):
        q, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=double)
        key = f"{name}.nf4" + (".double" if double else "")
        out[f"{key}.codes"] = q.flatten().int()
        out[f"{key}.values"] = F.dequantize_4bit(q, state).flatten()
        if double:
            out[f"{key}.scale_codes"] = state.absmax.int()
            out[f"{key}.nested"] = state.state2.absmax
            out[f"{key}.offset"] = state.offset.reshape(1)
        else:
            out[f"{key}.scales"] = state.absmax
    codes, stats, _ = F.int8_vectorwise_quant(w.clone())
    out[f"{name}.int8.codes"] = codes.flatten().int()
    out[f"{name}.int8.scales"] = stats
    out[f"{name}.int8.values"] = F.int8_vectorwise_dequant(codes, stats).flatten()
for part in ("nf4.values", "nf4.double.codes", "int8.values"):  # to keep the file small
    del out[f"large.{part}"]
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
