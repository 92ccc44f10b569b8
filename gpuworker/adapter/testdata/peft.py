"""Computes logits and gradients of adapter folders with PEFT: python peft.py DIR. Reads DIR/cases.json, [{name, base, kind}], and
DIR/batch.safetensors; writes DIR/<name>/result.safetensors, and DIR/<name>/again, the folder as PEFT saves it."""

import json
import os
import sys

# The script's own name must not hide the library's.
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(os.path.abspath(__file__))]

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

top = sys.argv[1]
torch.set_num_threads(1)
batch = {k: v.long() for k, v in load_file(os.path.join(top, "batch.safetensors")).items()}


class Bottleneck(torch.nn.Module):
    """The published layer: h + up(act(down(h)))."""

    def __init__(self, linear, weights, act):
        super().__init__()
        self.linear, self.act = linear, act
        for name in ("adapter_down", "adapter_up"):
            w, b = weights[name + ".weight"], weights[name + ".bias"]
            layer = torch.nn.Linear(w.shape[1], w.shape[0])
            layer.weight.data, layer.bias.data = w, b
            setattr(self, name, layer)

    def forward(self, x):
        h = self.linear(x)
        return h + self.adapter_up(self.act(self.adapter_down(h)))


def bottleneck(base, folder):
    config = json.load(open(os.path.join(folder, "adapter_config.json")))
    act = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu, "tanh": torch.tanh}[config["non_linearity"]]
    weights = load_file(os.path.join(folder, "adapter_model.safetensors"))
    prefix = "base_model.model."
    modules = {k[len(prefix) :].rsplit(".adapter_", 1)[0] for k in weights}
    base.requires_grad_(False)
    for path in modules:
        parent, name = path.rsplit(".", 1)
        own = {k[len(prefix + path) + 1 :]: v for k, v in weights.items() if k.startswith(prefix + path + ".")}
        parent = base.get_submodule(parent)
        setattr(parent, name, Bottleneck(getattr(parent, name), own, act))
    return base, lambda n: prefix + n


def plain(name):
    name = name.replace(".modules_to_save.default.", ".").replace(".default", "")
    return name[: -len(".weight")] if name.endswith(".lora_magnitude_vector.weight") else name


for case in json.load(open(os.path.join(top, "cases.json"))):
    folder = os.path.join(top, case["name"])
    base = AutoModelForCausalLM.from_pretrained(os.path.join(top, case["base"]), torch_dtype=torch.float32, attn_implementation="eager")
    if case["kind"] == "pissa":  # PEFT's own start
        model = get_peft_model(base, LoraConfig(init_lora_weights="pissa", r=case["r"], lora_alpha=case["alpha"], target_modules=["q_proj", "down_proj"]))
        out = {}
        for name, module in model.named_modules():
            if hasattr(module, "lora_A") and len(module.lora_A):
                out["product." + name.removeprefix("base_model.model.")] = (module.lora_B["default"].weight @ module.lora_A["default"].weight).detach()
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "result.safetensors"))
        continue
    if case["kind"] == "bottleneck":
        model, rename = bottleneck(base, folder)
    else:
        model, rename = PeftModel.from_pretrained(base, folder, is_trainable=True), plain
    model.eval()
    result = model(input_ids=batch["ids"], labels=batch["labels"])
    result.loss.backward()
    out = {"logits": result.logits.detach(), "loss": result.loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        if p.requires_grad:
            out["grad." + rename(name)] = p.grad if p.grad is not None else torch.zeros_like(p)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "result.safetensors"))
    if case["kind"] != "bottleneck":
        model.save_pretrained(os.path.join(folder, "again"), save_embedding_layers=False)
