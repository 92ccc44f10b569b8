"""Writes the tasks in this folder and golden.json: what LLaMA-Factory's evaluator answers on them with a small random model.

Run with the Python that deploy/setup/llamafactory.sh makes, and the folder of LLaMA-Factory's loading scripts (evaluation/ of its repository
before October 2025), which the evaluator read its data by:

    python golden.py SCRIPTS TOKENIZER

TOKENIZER is producer/examples/contract-review/tokenizer. The questions are our own, made up below; subjects have the names of real ones, since the
scripts know no others. datasets 4 loads no scripts by name any more: their builder classes are used as they are. What the evaluator draws and computes
is its own.
"""
import csv
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile

import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
scripts, tokenizer = (os.path.abspath(p) for p in sys.argv[1:3])

SUBJECTS = {
    "mmlu": {"astronomy": ("astronomy", "STEM"), "marketing": ("marketing", "Other"), "philosophy": ("philosophy", "Humanities"), "sociology": ("sociology", "Social Sciences")},
    "ceval": {"logic": ("逻辑学", "Humanities"), "law": ("法学", "Humanities"), "accountant": ("注册会计师", "Other")},
    "cmmlu": {"virology": ("病毒学", "STEM"), "world_history": ("世界历史", "Humanities")},
}
WORDS = {"en": ["payment", "notice", "warranty", "audit, yearly", 'the "closing" date', "assignment", "two\nlines", "insurance"],
         "zh": ["付款", "通知", "保证", "审计，每年", "转让", "保险", "交割日", "终止"]}


def question(rng, lang, i, kind):
    """One row: question, four choices, answer. Some columns are numbers, or words that pandas takes for missing values."""
    w = WORDS[lang]
    pick = lambda: w[rng.integers(len(w))]
    q = {"en": f"Clause {i}: which word stands for {pick()} and {pick()}?", "zh": f"第{i}条：哪个词表示{pick()}和{pick()}？"}[lang]
    if kind == "whole":
        c = [f"{rng.integers(50):03d}", str(rng.integers(9)), str(rng.integers(10**6)), str(-rng.integers(99))]
    elif kind == "fraction":
        c = [f"{rng.integers(50)}.50", str(rng.integers(9)) if i % 3 else "1e16", "0.1", ["None", "7", "3"][i % 3]]
    elif kind == "missing":
        c = [pick(), ["None", "NA", pick()][i % 3], ["True", "FALSE"][i % 2], "nan"]
    else:
        c = [pick(), pick() + " " + pick(), pick(), str(rng.integers(99))if i % 2 else pick()]
    return [q, *c, "ABCD"[rng.integers(4)]]


def table(rows, head=None, index=False, number=False):
    out = io.StringIO()
    w = csv.writer(out, lineterminator="\n")
    if head:
        w.writerow(head)
    for i, r in enumerate(rows):
        w.writerow(([i] if index or number else []) + r)
    return out.getvalue()


def write_tasks():
    rng = np.random.default_rng(1)
    kinds = ["words", "whole", "fraction", "missing"]
    for task, subjects in SUBJECTS.items():
        folder = os.path.join(here, task)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with open(os.path.join(folder, "mapping.json"), "w", encoding="utf-8") as f:
            json.dump({k: {"name": n, "category": c} for k, (n, c) in subjects.items()}, f, indent=2, ensure_ascii=False)
        files = {}
        lang = "en" if task == "mmlu" else "zh"
        for s, key in enumerate(subjects):
            for d, n in {"dev": [5, 7, 1, 3][s], "val": 4, "test": 6 + s}.items():
                rows = [question(rng, lang, i, kinds[s]) for i in range(n)]
                if task == "mmlu":
                    files[f"data/{d}/{key}_{d}.csv"] = table(rows)
                elif task == "ceval":
                    if d == "test":
                        files[f"{d}/{key}_{d}.csv"] = table([r[:5] for r in rows], ["id", "question", *"ABCD"], number=True)
                    else:
                        more = ["explanation"] if d == "dev" else []
                        files[f"{d}/{key}_{d}.csv"] = table([r + (["因为"] if more else []) for r in rows], ["id", "question", *"ABCD", "answer", *more], number=True)
                elif d != "val":
                    files[f"{d}/{key}.csv"] = table(rows, ["", "Question", *"ABCD", "Answer"], index=True)
        if task == "mmlu":
            with zipfile.ZipFile(os.path.join(folder, task + ".zip"), "w", zipfile.ZIP_DEFLATED) as z:
                for name, text in files.items():
                    z.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
        else:
            for name, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(text)


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
          "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "torch_dtype": "float32"}


def weights(number, shape, scale):
    """Values that any language computes: a multiplicative hash of the place, uniform in [-scale, scale)."""
    i = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(number * 1_000_003)
    h = (i * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(13)
    return (((h >> np.uint64(8)).astype(np.float64) / 2**23 - 1) * scale).astype(np.float32).reshape(shape)


def write_model(folder):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig
    with torch.device("meta"):
        names = {n: tuple(p.shape) for n, p in AutoModelForCausalLM.from_config(LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "architectures"})).named_parameters()}
    tensors = {}
    for k, n in enumerate(sorted(names)):
        if n.endswith("norm.weight"):
            tensors[n] = torch.ones(names[n])
        else:
            tensors[n] = torch.from_numpy(weights(k, names[n], 1.0 if "embed" in n else 0.25))
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(CONFIG, f)
    for n in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tokenizer, n), folder)


CASES = [
    {"task": "mmlu_test", "template": "fewshot"},
    {"task": "mmlu_validation", "template": "alpaca", "n_shot": 3, "seed": 7, "batch_size": 3},
    {"task": "ceval_validation", "template": "default", "lang": "zh", "n_shot": 2, "seed": 2**31 + 5},
    {"task": "ceval_test", "template": "qwen", "lang": "zh", "n_shot": 9, "batch_size": 1},
    {"task": "cmmlu_test", "template": "llama2", "lang": "zh", "n_shot": 0, "default_system": "只答一个字母。"},
    {"task": "cmmlu_test", "lang": "en", "n_shot": 4, "seed": 0},
]


def main():
    import llamafactory.eval.evaluator as ev
    write_tasks()
    work = tempfile.mkdtemp()
    model = os.path.join(work, "model")
    write_model(model)
    tasks = os.path.join(work, "evaluation")
    for task in SUBJECTS:
        shutil.copytree(os.path.join(here, task), os.path.join(tasks, task))
        if task != "mmlu":
            with zipfile.ZipFile(os.path.join(tasks, task, task + ".zip"), "w") as z:
                for top, _, names in os.walk(os.path.join(here, task)):
                    for n in names:
                        p = os.path.join(top, n)
                        if n.endswith(".csv"):
                            z.write(p, os.path.relpath(p, os.path.join(here, task)))

    def load_dataset(path, name, cache_dir=None, **_):
        task = os.path.basename(path)
        spec = importlib.util.spec_from_file_location(task, os.path.join(scripts, task, task + ".py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cls = next(c for c in vars(module).values() if isinstance(c, type) and issubclass(c, module.datasets.GeneratorBasedBuilder))
        b = cls(config_name=name, cache_dir=os.path.join(work, "cache", task), base_path=path)
        b.download_and_prepare()
        return b.as_dataset()

    ev.load_dataset = load_dataset
    golden = []
    for i, case in enumerate(CASES):
        save = os.path.join(work, f"out{i}")
        shots, prompts, margin = [], [], [1e9]

        class Evaluator(ev.Evaluator):
            def batch_inference(self, batch_input):
                import torch
                with torch.inference_mode():
                    logits = self.model(**batch_input).logits
                    for k, n in enumerate(batch_input["attention_mask"].sum(-1).tolist()):
                        prompts.append(batch_input["input_ids"][k, :n].tolist())
                        top = logits[k, n - 1, self.choice_inputs].sort(descending=True).values
                        margin[0] = min(margin[0], float(top[0] - top[1]))
                return super().batch_inference(batch_input)

        Evaluator({"model_name_or_path": model, "task_dir": tasks, "save_dir": save, **case}).eval()
        golden.append({"case": case, "results": open(os.path.join(save, "results.json")).read(), "log": open(os.path.join(save, "results.log")).read(),
                       "prompts": [p if k < 3 or k == len(prompts) - 1 else sum((j + 1) * x for j, x in enumerate(p)) for k, p in enumerate(prompts)], "margin": margin[0]})
        print(case, "least margin", margin[0])
    with open(os.path.join(here, "golden.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(g) for g in golden) + "\n]\n")
    shutil.rmtree(work)


main()
