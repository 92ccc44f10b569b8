"""Loads an export with the real transformers and peft and compares logits: logits.py DIR EXPECTED.json

DIR holds merged/, base/ and peft/ as an export stage writes them. Exits 1 when any logit differs by more than 1e-4.
"""
import json
import os
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
ids = torch.tensor([expected["ids"]])
want = torch.tensor(expected["logits"]).reshape(len(expected["ids"]), -1)


def load(name):
    model, info = AutoModelForCausalLM.from_pretrained(
        os.path.join(folder, name), torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            sys.exit(f"{name}: {key} {info[key]}")
    return model.eval()


def compare(name, model):
    with torch.no_grad():
        got = model(ids).logits[0]
    worst = (got - want).abs().max().item()
    print(f"{name}: worst difference of a logit {worst:.3g} (greatest logit {want.abs().max().item():.3g})")
    return worst <= 1e-4


ok = compare("merged", load("merged"))
base = load("base")
apart = (base(ids).logits[0] - want).abs().max().item()
ok &= compare("peft", PeftModel.from_pretrained(base, os.path.join(folder, "peft")).eval())
if apart <= 1e-4:
    sys.exit("the adapter changes nothing: the comparison proves nothing")
tokenizer = AutoTokenizer.from_pretrained(os.path.join(folder, "merged"))
if tokenizer.decode(tokenizer("The tenant pays rent.", add_special_tokens=False).input_ids) != "The tenant pays rent.":
    sys.exit("the tokenizer does not round-trip")
sys.exit(0 if ok else 1)
