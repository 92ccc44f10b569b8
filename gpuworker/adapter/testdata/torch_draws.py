"""Writes torch_draws.json: what PEFT draws for every architecture of the reference set. Run with the Python of the tests:
python -P torch_draws.py FOLDER, where FOLDER holds <architecture>/config.json (fixtures/models).

For each architecture: the adapted modules in the order in which they are made, and a SHA-256 over the bytes of all lora_A in that order,
for rank 4, seed 7, every linear module but the output head (PEFT's all-linear).
"""
import hashlib
import json
import os
import sys

import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model

HEADS = {"lm_head", "output", "output_layer", "embed_out", "score"}


def targets(model):
    names = set()
    for name, module in model.named_modules():
        last = name.split(".")[-1]
        if "Linear" in type(module).__name__ or type(module).__name__ == "Conv1D":
            if last not in HEADS:
                names.add(last)
    return sorted(names)


def main(folder):
    out = {}
    for arch in sorted(os.listdir(folder)):
        path = os.path.join(folder, arch)
        if not os.path.exists(os.path.join(path, "config.json")):
            continue
        try:
            config = transformers.AutoConfig.from_pretrained(path)
            model = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as e:
            print(arch, "skipped:", str(e).split("\n")[0], file=sys.stderr)
            continue
        torch.manual_seed(7)
        model = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules=targets(model)))
        after = torch.rand(1).item()
        names, digest = [], hashlib.sha256()
        for name, p in model.named_parameters():
            if ".lora_A." in name:
                names.append(name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"))
                digest.update(p.detach().contiguous().numpy().tobytes())
        out[arch] = {"modules": names, "sha256": digest.hexdigest(), "after": after}
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_draws.json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items()) + "\n}\n")


main(sys.argv[1])
