"""The floor of the benchmark: raw encode_batch of the same tokenizer: python floor.py tokenizer.json rows.jsonl.

Each row is one text, the row as the template writes it. Prints one JSON line: seconds within encode_batch alone, and tokens. The number of
threads is RAYON_NUM_THREADS."""

import json
import sys
import time
from importlib.metadata import version

from tokenizers import Tokenizer

SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"


def text(row):
    query = "\n".join(x for x in (row["instruction"], row["input"]) if x)
    return f"{SYSTEM}<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n"


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    seconds, tokens, rows, batch = 0.0, 0, 0, []

    def flush():
        nonlocal seconds, tokens, rows
        start = time.perf_counter()
        out = tokenizer.encode_batch(batch, add_special_tokens=False)
        seconds += time.perf_counter() - start
        tokens += sum(len(x.ids) for x in out)
        rows += len(batch)
        batch.clear()

    with open(sys.argv[2], encoding="utf-8") as f:
        for line in f:
            batch.append(text(json.loads(line)))
            if len(batch) == 1000:
                flush()
    if batch:
        flush()
    print(json.dumps({"version": "tokenizers " + version("tokenizers"), "seconds": seconds, "rows": rows, "tokens": tokens}))


main()
