"""Writes variants.jsonl, what TestVariantsOfLLaMAFactory repeats: python collect.py OUT NAME... > variants.jsonl

OUT is the folder of variants.py after record.py; the NAMEs use only data that the fixtures have. Each line: {name, yaml, log: [the lines' losses]}.
"""

import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    d = out / name
    log = []
    for line in (d / "full_log.jsonl").read_text().splitlines():
        x = json.loads(line)
        log.append({k: v for k, v in x.items() if k == "step" or k == "train_loss" or k == "loss_exact" or k.startswith("eval_") and k.endswith(("_loss", "_accuracy", "rouge-1", "rouge-2", "rouge-l", "bleu-4"))})
    print(json.dumps({"name": name, "yaml": (d / "train.yaml").read_text().replace("../adapter_llama3", "../sft_lora/out"), "log": log}))
