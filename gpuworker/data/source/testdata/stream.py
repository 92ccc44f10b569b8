"""Writes stream.jsonl: the order in which datasets 4.0.0 gives the rows of streamed data sets that are shuffled by a buffer.

python stream.py > stream.jsonl

Each line: {lengths, shards, buffer, seed, pass, mix, probs, order: [[set, row], ...]}. shards are the rows of each file of a set.
"""
import json, os, random, tempfile

import datasets
from datasets import Dataset, concatenate_datasets, interleave_datasets

datasets.disable_progress_bars()
r = random.Random(3)
for _ in range(40):
    lengths = [r.choice([1, 2, 7, 50, 300, 2500]) for _ in range(r.choice([1, 1, 2, 3, 5]))]
    buffer, seed = r.choice([1, 2, 3, 10, 100, 1000, 16384]), r.choice([0, 1, 42, 2**31])
    sets = [Dataset.from_dict({"set": [s] * n, "row": list(range(n))}).to_iterable_dataset(num_shards=1) for s, n in enumerate(lengths)]
    d = sets[0] if len(sets) == 1 else concatenate_datasets(sets)
    d = d.shuffle(buffer_size=buffer, seed=seed)
    order = [[x["set"], x["row"]] for x in d]
    print(json.dumps({"lengths": lengths, "buffer": buffer, "seed": seed, "order": order[:400], "rows": len(order)}, separators=(",", ":")))

for i in range(40):
    lengths = [r.choice([1, 2, 7, 50, 300]) for _ in range(r.choice([2, 2, 3, 4]))]
    buffer, seed = r.choice([1, 2, 10, 100, 16384]), r.choice([0, 1, 42, 2**31])
    mix = ["interleave_under", "interleave_over"][i % 2]
    probs = [r.randrange(1, 10) for _ in lengths] if r.random() < 0.6 else None
    if probs:
        probs = [p / sum(probs) for p in probs]
    sets = [Dataset.from_dict({"set": [s] * n, "row": list(range(n))}).to_iterable_dataset(num_shards=1) for s, n in enumerate(lengths)]
    stop = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}[mix]
    d = interleave_datasets(sets, probabilities=probs, seed=seed, stopping_strategy=stop).shuffle(buffer_size=buffer, seed=seed)
    order = [[x["set"], x["row"]] for x in d]
    print(json.dumps({"lengths": lengths, "buffer": buffer, "seed": seed, "mix": mix, "probs": probs, "order": order[:400], "rows": len(order)}, separators=(",", ":")))

# Files that are streamed as they lie, as load_dataset does with a hub's: each is a shard of its own.
for i in range(40):
    shards = [[r.choice([0, 1, 2, 7, 50]) for _ in range(r.choice([1, 2, 3, 5, 9]))] for _ in range(r.choice([1, 1, 2, 3]))]
    for rows in shards:
        rows[0] = max(1, rows[0])
    buffer, seed, epoch = r.choice([1, 2, 10, 100, 16384]), r.choice([0, 1, 42, 2**31]), r.choice([0, 0, 1, 2])
    mix = r.choice(["concat", "interleave_under", "interleave_over"]) if len(shards) > 1 else "concat"
    with tempfile.TemporaryDirectory() as dir:
        sets = []
        for s, rows in enumerate(shards):
            files, row = [], 0
            for f, n in enumerate(rows):
                files.append(os.path.join(dir, f"{s}-{f}.jsonl"))
                with open(files[-1], "w") as w:
                    for _ in range(n):
                        w.write(json.dumps({"set": s, "row": row}) + "\n")
                        row += 1
            sets.append(datasets.load_dataset("json", data_files=files, split="train", streaming=True))
        if mix == "concat":
            d = sets[0] if len(sets) == 1 else concatenate_datasets(sets)
        else:
            d = interleave_datasets(sets, seed=seed, stopping_strategy={"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}[mix])
        d = d.shuffle(buffer_size=buffer, seed=seed)
        d.set_epoch(epoch)
        order = [[x["set"], x["row"]] for x in d]
    print(json.dumps({"lengths": [sum(x) for x in shards], "shards": shards, "buffer": buffer, "seed": seed, "pass": epoch, "mix": mix, "order": order[:400], "rows": len(order)}, separators=(",", ":")))
