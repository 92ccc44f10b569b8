"""Writes datafiles.jsonl: which files of a repository are a split's data, by datasets 4.0.0 itself.

python datafiles.py > datafiles.jsonl

Each line: names of a repository, its README's configs (or none), and for every question {subset, split, folder} the files, in order, or null
where datasets refuses.
"""
import json, os, random, sys, tempfile

import datasets
from datasets import load_dataset_builder
import logging

datasets.utils.logging.set_verbosity_error()
logging.disable(logging.CRITICAL)
datasets.config.HF_DATASETS_OFFLINE = True

WORDS = ["train", "training", "test", "testing", "validation", "valid", "dev", "val", "eval", "evaluation", "data", "extra", "part", "news", "Train", "en", "zh"]
ENDS = [".csv", ".json", ".jsonl", ".parquet", ".txt", ".jsonl.gz", ".md", ".py", ".tsv"]


def name(r, end):
    sep = r.choice(["-", "_", ".", " ", ""])
    w = r.choice(WORDS)
    tail = r.choice(["", sep + "0", sep + r.choice(WORDS), "-00000-of-00001", "-00000-of-00002", sep + "v2"])
    head = r.choice(["", "", r.choice(WORDS) + sep])
    return head + w + tail + end


def tree(r):
    end = r.choice(ENDS[:6])
    out = set()
    dirs = ["", "", r.choice(["data/", "data/", r.choice(WORDS) + "/", "sub/" + r.choice(WORDS) + "/", r.choice(WORDS) + "-1/", ".hidden/", "__cache__/"])]
    for _ in range(r.randint(1, 6)):
        out.add(r.choice(dirs) + name(r, end if r.random() < 0.85 else r.choice(ENDS)))
    if r.random() < 0.3:
        for s in r.sample(["train", "test", "validation", "extra"], 2):
            out.add(f"data/{s}-00000-of-00001{end}")
    if r.random() < 0.2:
        out.add("dataset_info.json")
    return sorted(out)


def configs(r, names):
    if r.random() < 0.6:
        return None
    out = []
    for k in range(r.randint(1, 3)):
        c = {"config_name": r.choice(["default", "en", "zh", "main"]) if k == 0 else f"c{k}"}
        if r.random() < 0.8:
            some = [r.choice(names) for _ in range(2)]
            kind = r.randint(0, 3)
            if kind == 0:
                c["data_files"] = some[0]
            elif kind == 1:
                c["data_files"] = some
            else:
                c["data_files"] = [{"split": "train", "path": some[0]}, {"split": "test", "path": [some[1], os.path.dirname(some[1]) + "/*" if "/" in some[1] else "*" + os.path.splitext(some[1])[1]]}]
        elif any("/" in n for n in names):
            c["data_dir"] = next(n for n in names if "/" in n).split("/")[0]
        if r.random() < 0.2:
            c["default"] = True
        out.append(c)
    return out


def main():
    r = random.Random(7)
    for _ in range(200):
        names = tree(r)
        cfg = configs(r, names)
        with tempfile.TemporaryDirectory() as d:
            os.environ["HF_DATASETS_CACHE"] = d
            root = os.path.join(d, "repo")
            for n in names:
                p = os.path.join(root, n)
                os.makedirs(os.path.dirname(p), exist_ok=True)
                open(p, "w").write("text\n")
            if cfg is not None:
                import yaml

                open(os.path.join(root, "README.md"), "w").write("---\n" + yaml.safe_dump({"configs": cfg}) + "---\n")
            questions = []
            for _ in range(4):
                q = {"subset": r.choice(["", "", "en", "default", "c1"]), "split": r.choice(["train", "train", "test", "validation", "extra"]), "folder": ""}
                if r.random() < 0.15 and any("/" in n for n in names):
                    q["folder"] = next(n for n in names if "/" in n).split("/")[0]
                try:
                    b = load_dataset_builder(root, name=q["subset"] or None, data_dir=q["folder"] or None, cache_dir=os.path.join(d, "cache"))
                    files = b.config.data_files
                    if hasattr(files, "resolve"):
                        files = files.resolve(base_path=root)
                    got = files.get(q["split"])
                    got = [os.path.relpath(f, root) for f in got] if got else None
                    seen = []
                    for f in got or []:
                        if f not in seen:
                            seen.append(f)
                    q["files"] = seen or None
                    q["module"] = type(b).__name__
                except Exception as e:
                    q["files"] = None
                    q["why"] = type(e).__name__
                questions.append(q)
        print(json.dumps({"names": names, "configs": cfg, "questions": questions}, ensure_ascii=False))


main()
