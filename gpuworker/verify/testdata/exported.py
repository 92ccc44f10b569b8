"""Loads what the engine exported with transformers: python exported.py OUT. Every folder OUT/NAME with golden.safetensors has an export, which
must load without a missing or unexpected tensor and give its logits (1e-4). Prints one line of JSON: by name, what differed.
"""

import glob
import json
import os
import sys
import warnings

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
torch.set_num_threads(1)
PreTrainedModel.initialize_weights = lambda self: None  # some architectures cannot draw their own when biases or weights of norms are off

differ = {}
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*", "golden.safetensors"))):
    folder = os.path.dirname(path)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(os.path.join(folder, "export"), attn_implementation="eager", output_loading_info=True)
        wrong = {k: list(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[k]}
        f = load_file(path)
        with torch.no_grad():
            got = model.eval()(input_ids=f["input_ids"], attention_mask=f["attention_mask"], use_cache=False).logits
        worst = (got - f["logits"])[f["attention_mask"] == 1].abs().max().item()
        if wrong or not worst <= 1e-4:
            differ[os.path.basename(folder)] = f"{wrong} largest difference {worst}"
    except Exception as e:
        differ[os.path.basename(folder)] = repr(e)
print(json.dumps(differ))
