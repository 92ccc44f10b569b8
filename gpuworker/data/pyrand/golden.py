"""Writes testdata/golden.json: what numpy and torch draw. Run with the Python of the tests: python golden.py"""
import json
import os

import numpy as np
import torch

rows = []
for n, seed in [(1, 0), (2, 1), (10, 42), (189, 42), (189, 43), (1000, 2**31), (257, 2**32 + 5)]:
    g = torch.Generator()
    g.manual_seed(seed)
    rows.append({"kind": "randperm", "n": n, "seed": seed, "out": torch.randperm(n, generator=g).tolist()})
for n, seed in [(1, 0), (10, 42), (240, 42), (70001, 7), (33, 2**40 + 3)]:
    out = np.random.default_rng(seed).permutation(n).tolist()
    rows.append({"kind": "permutation", "n": n, "seed": seed, "out": out[:300]})
for p, n, seed in [([0.3, 0.7], 300, 42), ([0.2, 0.5, 0.3], 50, 1), ([1.0], 5, 3), ([0.1] * 10, 40, 9)]:
    rows.append({"kind": "choice", "p": p, "n": n, "seed": seed, "out": np.random.default_rng(seed).choice(len(p), size=n, p=p).tolist()})
for n, size, seed in [(10, 20, 42), (257, 30, 7)]:
    np.random.seed(seed)
    a = np.random.permutation(n).tolist()
    b = np.random.choice(n, size).tolist()
    rows.append({"kind": "legacy", "n": n, "size": size, "seed": seed, "out": a + b})
for n, seed, lo, hi in [(7, 42, -0.125, 0.125), (1300, 7, -0.3061862178478972, 0.3061862178478972), (40, 2**32 + 9, 0.0, 3.0)]:
    torch.manual_seed(seed)
    a = torch.empty(n).uniform_(lo, hi)
    b = torch.empty(n).uniform_(lo, hi)
    rows.append({"kind": "uniform", "n": n, "seed": seed, "p": [lo, hi], "floats": torch.cat([a, b]).tolist()})
for n, seed, std in [(16, 42, 1.0), (100, 7, 0.02), (1000, 1, 0.05)]:
    torch.manual_seed(seed)
    a = torch.empty(n).normal_(0, std)
    b = torch.empty(n).normal_(0, std)
    rows.append({"kind": "normal", "n": n, "seed": seed, "p": [0.0, std], "floats": torch.cat([a, b]).tolist()})
os.makedirs("testdata", exist_ok=True)
with open("testdata/golden.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
