"""Writes cases.jsonl: random data sets and configurations, and what LLaMA-Factory's get_dataset makes of them, row for row.

usage: make.py LLAMA_FACTORY_CHECKOUT MODELS OUT.jsonl [SEED [N [small|large]]]

MODELS holds model_llama3 and model_qwen2 (fixtures/e2e). Each line is a case with a seed of its own: SEED, SEED+1, ... Needs the packages of
LLaMA-Factory (ff6d4d12 with transformers 4.57.6 and datasets 4.0.0 made cases.jsonl). A line: {seed, yaml, files: {name: text, or {base64}},
pad, train: [row, ...], evals: {name: [row, ...]}}, rows as the processors make them (of a stream: pass after pass), or `error` where
LLaMA-Factory raises an exception.
"""

import base64
import contextlib
import copy
import io
import json
import os
import random
import shutil
import sys
import tempfile
import warnings

CHECKOUT, MODELS, OUT = sys.argv[1:4]
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else 1
N = int(sys.argv[5]) if len(sys.argv) > 5 else 40
SMALL = len(sys.argv) <= 6 or sys.argv[6] == "small"
MOST = 8000 if SMALL else 10**9

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, CHECKOUT + "/src")
sys.path.insert(0, HERE)
CACHE = tempfile.mkdtemp()
os.environ.update(
    DISABLE_VERSION_CHECK="1", TRANSFORMERS_VERBOSITY="error", LLAMAFACTORY_VERBOSITY="ERROR", HF_DATASETS_CACHE=CACHE, HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="", WANDB_DISABLED="true", TQDM_DISABLE="1",
)  # fmt: skip
warnings.simplefilter("ignore")

import datasets  # noqa: E402
from cases import case  # noqa: E402
from datetime import datetime  # noqa: E402

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.data import template as T  # noqa: E402
from llamafactory.data import tool_utils  # noqa: E402
from llamafactory.model import load_tokenizer  # noqa: E402


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2)


tool_utils.datetime = Frozen
ORIGINAL = copy.deepcopy(T.TEMPLATES)

datasets.disable_progress_bars()
datasets.logging.set_verbosity_error()

COLUMNS = (
    "input_ids attention_mask position_ids labels chosen_input_ids chosen_labels rejected_input_ids rejected_labels kl_input_ids kl_labels kto_tags"
).split()
PASSES = 3


def rows(d, packed):
    """The rows that training is given; of streams some passes."""
    out = []
    streamed = isinstance(d, datasets.IterableDataset)
    for k in range(PASSES if streamed else 1):
        if streamed:
            d.set_epoch(k)
        for x in d:
            out.append({c: x[c] for c in COLUMNS if c in x and (packed or c not in ("attention_mask", "position_ids"))})
    return out


def made(y):
    T.TEMPLATES.update(copy.deepcopy(ORIGINAL))  # arguments change templates for good
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(y))
    module = load_tokenizer(model_args)
    tok = module["tokenizer"]
    template = get_template_and_fix_tokenizer(tok, data_args)
    stage = {"dpo": "rm"}.get(finetuning_args.stage, finetuning_args.stage)
    d = get_dataset(template, model_args, data_args, training_args, stage=stage, **module)
    packed = bool(data_args.packing) and stage == "sft"
    out = {"pad": tok.pad_token_id, "train": rows(d["train_dataset"], packed), "evals": {}}
    e = d.get("eval_dataset")
    for name, x in (e if isinstance(e, dict) else {"": e} if e is not None else {}).items():
        out["evals"][name] = rows(x, packed)
    return out


def text(b):
    try:
        return b.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(b).decode()}


def run(seed):
    y, files = case(random.Random(seed), SMALL)
    dir = tempfile.mkdtemp()
    for name, b in files.items():
        os.makedirs(os.path.dirname(os.path.join(dir, name)), exist_ok=True)
        with open(os.path.join(dir, name), "wb") as f:
            f.write(b)
    line = {"seed": seed, "yaml": y, "files": {k: text(b) for k, b in files.items()}}
    full = {**y, "model_name_or_path": os.path.join(MODELS, y["model_name_or_path"]), "dataset_dir": dir, "output_dir": os.path.join(dir, "out"),
            "report_to": "none", "use_cpu": True}  # fmt: skip
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            line.update(made(full))
    except Exception as e:  # noqa: BLE001
        line["error"] = f"{type(e).__name__}: {e}".replace(dir, "DIR")[:300].encode("utf-8", "replace").decode()
    shutil.rmtree(dir)
    shutil.rmtree(CACHE, ignore_errors=True)
    return line


def main():
    kept = errors = 0
    with open(OUT, "w") as out:
        for seed in range(SEED, SEED + N):
            line = json.dumps(run(seed), ensure_ascii=False, separators=(",", ":"))
            if len(line.encode()) > MOST:
                continue
            out.write(line + "\n")
            out.flush()
            kept, errors = kept + 1, errors + ('"error":' in line[-400:])
    shutil.rmtree(CACHE, ignore_errors=True)
    print(f"seeds {SEED} to {SEED + N - 1}: {kept} cases, {errors} of them errors")


main()
