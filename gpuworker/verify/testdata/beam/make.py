"""Writes random models (config.json, model.safetensors) and what transformers' beam search makes of prompts: beams.json.

usage: make.py OUT
"""

import json
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

torch.manual_seed(11)
torch.set_num_threads(1)
MODELS = {
    "llama": dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
    "gpt2": dict(vocab_size=47, n_embd=24, n_head=3, n_layer=2, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
}
SETTINGS = [
    dict(num_beams=n, length_penalty=p, early_stopping=e, repetition_penalty=r, stop=stop, new=new)
    for n, p, e, r, stop, new in [
        (2, 1.0, False, 1.0, [], 12), (3, 1.0, False, 1.0, [5], 16), (4, 0.0, False, 1.0, [5, 9], 16), (4, 2.0, True, 1.0, [5, 9, 20], 16),
        (5, -1.0, False, 1.3, [5, 9, 20, 33], 10), (3, 0.7, True, 1.2, list(range(3, 20)), 12), (2, 1.5, False, 1.0, list(range(3, 30)), 20), (7, 1.0, True, 1.0, list(range(3, 30)), 8),
    ]
]
for name, keys in MODELS.items():
    config = AutoConfig.for_model(name, **keys, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for p in model.parameters():
        p.data = (1 if p.dim() < 2 else 0) + 0.25 * torch.randn_like(p)
    model.save_pretrained(f"{sys.argv[1]}/{name}")
    cases = []
    for s in SETTINGS:
        for length in (1, 6):
            prompt = torch.randint(3, config.vocab_size, (1, length))
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=s["new"], do_sample=False, num_beams=s["num_beams"],
                                 length_penalty=s["length_penalty"], early_stopping=s["early_stopping"], repetition_penalty=s["repetition_penalty"],
                                 eos_token_id=s["stop"] or None, pad_token_id=0, output_scores=True, return_dict_in_generate=True)
            cases.append(dict(s, prompt=prompt[0].tolist(), ids=out.sequences[0, length:].tolist(), score=out.sequences_scores[0].item()))
    with open(f"{sys.argv[1]}/{name}/beams.json", "w") as f:
        json.dump(cases, f)
