"""Rows of sft/, pt/, pairwise/ and kto/: random data sets through converters, processors and collators."""

import copy
import json
from types import SimpleNamespace

import inputs as rnd
import torch
from upstream import ORIGINAL, TU, args, err, opened  # first: it finds LLaMA-Factory

from llamafactory.data import collator as CO  # isort: skip
from llamafactory.data import converter as C
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.processor import (
    FeedbackDatasetProcessor,
    PackedSupervisedDatasetProcessor,
    PairwiseDatasetProcessor,
    PretrainDatasetProcessor,
    SupervisedDatasetProcessor,
    UnsupervisedDatasetProcessor,
)
from llamafactory.data.processor.processor_utils import greedy_knapsack, infer_seqlen

ATTR = dict(
    formatting="alpaca",
    ranking=False,
    system=None,
    tools=None,
    images=None,
    videos=None,
    audios=None,
    chosen=None,
    rejected=None,
    kto_tag=None,
    prompt="instruction",
    query="input",
    response="output",
    history=None,
    messages="conversations",
    role_tag="from",
    content_tag="value",
    user_tag="human",
    assistant_tag="gpt",
    observation_tag="observation",
    function_tag="function_call",
    system_tag="system",
)


def maybe(r, p, v, other=None):
    return v if r.random() < p else other


def weird(r, s):
    """Now and then something that is no text."""
    return s if r.random() < 0.985 else r.choice([None, 5, ["x"], {"a": 1}, True, ""])


def answer(r):
    k = r.random()
    return rnd.text(r, 0, 30) if k < 0.5 else rnd.thoughtful(r) if k < 0.8 else rnd.text(r, 40, 90)


def alpaca(r, mode):
    a = dict(ATTR)
    if r.random() < 0.3:
        a["prompt"], a["query"], a["response"] = r.choice(
            [
                ("prompt", "query", "response"),
                ("问", "in", "答"),
                ("instruction", None, "output"),
                (None, "input", "output"),
                ("instruction", "input", None),
            ]
        )
    raw = {}
    for k in ("prompt", "query"):
        if a[k]:
            raw[a[k]] = weird(r, maybe(r, 0.7, rnd.text(r, 0, 40), ""))
    if a["response"]:
        raw[a["response"]] = weird(r, answer(r))
    if r.random() < 0.4:
        a["system"] = "system"
        raw["system"] = rnd.system(r)
    if r.random() < 0.4:
        a["history"] = "history"
        raw["history"] = [[rnd.text(r), answer(r)] for _ in range(r.randint(0, 5))]
        if r.random() < 0.06:
            raw["history"] = r.choice([None, [], [["a"]], [["a", "b", "c"]], "x", [["q", None]], [None]])
    if r.random() < 0.25:
        a["tools"] = "tools"
        raw["tools"] = rnd.tools(r) if r.random() < 0.8 else r.choice([None, "", [rnd.tool(r)], []])
    if r.random() < 0.04:
        a["images"] = "images"
        raw["images"] = r.choice([["a.png"], "b.png", [], None])
    extra(r, a, raw, mode, "alpaca")
    return a, raw


def extra(r, a, raw, mode, fmt):
    if mode == "pairwise":
        a["ranking"], a["chosen"], a["rejected"] = True, "chosen", "rejected"
        for k in ("chosen", "rejected"):
            c = answer(r)
            if fmt == "alpaca":
                raw[k] = weird(r, c)
            else:
                role = a["assistant_tag"] if r.random() < 0.9 else a["function_tag"]
                if role == a["function_tag"]:
                    c = rnd.function(r)
                raw[k] = {a["role_tag"]: role, a["content_tag"]: c}
                if r.random() < 0.02:
                    raw[k][a["role_tag"]] = r.choice([a["user_tag"], "zz", None])
                if r.random() < 0.02:
                    raw[k] = r.choice([None, c, {}])
    elif mode == "kto":
        a["kto_tag"] = "label"
        raw["label"] = r.random() < 0.5
        if r.random() < 0.03:
            raw["label"] = r.choice([None, 1, "true", 0])
    elif r.random() < 0.05:
        a["chosen"], a["rejected"] = "chosen", "rejected"
    if r.random() < 0.015 and raw:
        raw.pop(r.choice(list(raw)))
    if r.random() < 0.05:
        raw["unused"] = 1


def sharegpt(r, mode, fmt="sharegpt"):
    a = dict(ATTR, formatting=fmt)
    if fmt == "openai" or r.random() < 0.3:
        a.update(
            messages="messages",
            role_tag="role",
            content_tag="content",
            user_tag="user",
            assistant_tag="assistant",
            observation_tag="tool" if fmt == "openai" or r.random() < 0.5 else "observation",
            function_tag="function" if r.random() < 0.6 else "tool_calls",
            system_tag="system",
        )
    if r.random() < 0.06:
        a["system_tag"] = None
    if r.random() < 0.04:
        a["observation_tag"] = a["user_tag"]
    if r.random() < 0.03:
        a["function_tag"] = a["assistant_tag"]
    R, K = a["role_tag"], a["content_tag"]
    msgs = []
    if r.random() < 0.3:
        msgs.append({R: a["system_tag"] or "system", K: rnd.system(r) if r.random() < 0.3 else rnd.text(r)})
    n = r.randint(1, 5) if r.random() < 0.8 else r.randint(6, 9)
    for i in range(n):
        func = msgs and msgs[-1].get(R) == a["function_tag"]
        if func and r.random() < 0.9:
            for _ in range(r.randint(1, 3) if fmt == "openai" else 1):
                msgs.append({R: a["observation_tag"], K: rnd.jdump(r, rnd.value(r)) if r.random() < 0.8 else rnd.text(r)})
            if fmt == "openai" and r.random() < 0.3:
                msgs.append({R: a["user_tag"], K: rnd.text(r)})
        else:
            msgs.append({R: a["user_tag"], K: weird(r, rnd.text(r, 0, 25))})
        if i == n - 1 and mode == "pairwise":
            break
        k = r.random()
        if k < 0.25:
            if fmt == "openai" and r.random() < 0.7:
                m = {
                    R: a["assistant_tag"],
                    K: r.choice([None, "", rnd.text(r)]),
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": rnd.name(r), "arguments": r.choice([json.dumps(rnd.args(r)), rnd.args(r)])},
                        }
                        for _ in range(r.randint(1, 3))
                    ],
                }
                if r.random() < 0.1:
                    m["tool_calls"] = r.choice([[], None, [{}]])
                msgs.append(m)
            else:
                msgs.append({R: a["function_tag"], K: rnd.function(r)})
        else:
            msgs.append({R: a["assistant_tag"], K: weird(r, answer(r))})
    if r.random() < 0.07 and msgs:
        i = r.randrange(len(msgs))
        k = r.randint(0, 5)
        if k == 0:
            msgs.pop(i)
        elif k == 1:
            msgs[i] = dict(msgs[i], **{R: r.choice(["nobody", "system", None, a["user_tag"], a["assistant_tag"], a["observation_tag"]])})
        elif k == 2:
            msgs.insert(i, dict(msgs[i]))
        elif k == 3:
            msgs[i] = {R: msgs[i].get(R)}
        elif k == 4:
            msgs[i] = {K: "x"}
        else:
            msgs = []
    raw = {a["messages"]: msgs}
    if r.random() < 0.3:
        a["system"] = "system"
        if fmt != "openai" or r.random() < 0.8:
            raw["system"] = rnd.system(r)
    if r.random() < 0.4:
        a["tools"] = "tools"
        if fmt != "openai" or r.random() < 0.8:
            raw["tools"] = rnd.tools(r) if r.random() < 0.7 else r.choice([None, "", [rnd.tool(r)], [], {"a": 1}, {}])
    extra(r, a, raw, mode, fmt)
    return a, raw


def examples(r, n, mode):
    rows = []
    for i in range(n):
        k = r.random()
        a, raw = alpaca(r, mode) if k < 0.35 else sharegpt(r, mode) if k < 0.7 else sharegpt(r, mode, "openai")
        row = {"id": i, "dataset_attr": a, "raw": raw}
        attr = DatasetAttr(load_from="hf_hub", dataset_name="x")
        for k, v in a.items():
            setattr(attr, k, v)
        try:
            row["aligned"] = C.get_dataset_converter(a["formatting"], attr, SimpleNamespace(media_dir=""))(copy.deepcopy(raw))
            if mode == "sft":
                row["error"] = None
            json.dumps(row, ensure_ascii=False).encode()
        except Exception as e:
            row.pop("aligned", None)
            row["error"] = err(e)
        rows.append(row)
    return rows


def batch(rows):
    return {k: [copy.deepcopy(x["aligned"][k]) for x in rows] for k in ("_prompt", "_response", "_system", "_tools", "_images", "_videos", "_audios")}


def head(kind, tname, tokname, a, tok):
    return {
        "kind": kind,
        "template": tname,
        "tokenizer": tokname,
        "args": a,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
    }


def per_example(cls, t, tok, a, rows, keys):
    out = []
    for x in rows:
        o = {"example": x["id"]}
        if x.get("error"):
            o["error"] = x["error"]
        else:
            try:
                res = cls(t, tok, None, SimpleNamespace(**a)).preprocess_dataset(batch([x]))
                if not res.get(keys[0]):
                    o["dropped"] = True
                else:
                    o.update({k: res[k][0] for k in keys})
            except Exception as e:
                o["error"] = err(e)
        out.append(o)
    return out


BASIC = [x for x in ORIGINAL if ORIGINAL[x].mm_plugin.__class__.__name__ == "BasePlugin"]


def pick(r):
    """A template and a tokenizer for it."""
    if r.random() < 0.5:
        return r.choice(
            [
                ("llama3", "tiny_llama3"),
                ("qwen3", "tiny_qwen"),
                ("qwen3_nothink", "tiny_qwen"),
                ("glm4", "tiny_qwen"),
                ("default", "tiny_llama3"),
                ("fewshot", "tiny_llama3"),
                ("llama2", "llama2"),
                ("falcon", "falcon"),
                ("mistral", "llama2_nonlegacy"),
                ("gemma2", "tiny_llama3"),
                ("deepseekr1", "tiny_llama3"),
                ("glm4_7", "tiny_qwen"),
                ("gpt_oss", "tiny_llama3"),
            ]
        )
    n = r.choice(BASIC)
    return n, "tiny_qwen" if n.startswith(("qwen", "chatml")) else "tiny_llama3"


def randargs(r, name, **kw):
    a = args(
        name,
        cutoff_len=r.choice([1, 2, 3, 5, 8, 16, 24, 64, 100, 255, 512, 700]) if r.random() < 0.6 else r.randint(1, 700),
        train_on_prompt=r.random() < 0.25,
        mask_history=r.random() < 0.4,
        enable_thinking=r.choice([True, True, False, None]),
        preserve_thinking=r.random() < 0.25,
    )
    if r.random() < 0.15:
        a["tool_format"] = r.choice(list(TU.TOOLS))
    if r.random() < 0.15:
        a["default_system"] = r.choice(["", "Be kind.", "系统\n"])
    a.update(kw)
    return a


def usable(rows, outs):
    return [x for x, o in zip(rows, outs) if "error" not in o]


def sft(w, r, nex, nsup, nutil=400):
    rows = examples(r, nex, "sft")
    w.write("sft/examples.jsonl", rows)
    sup, packed, uns, col = [], [], [], []
    for _ in range(nsup):
        name, tk = pick(r)
        a = randargs(r, name)
        if ORIGINAL[name].efficient_eos and r.random() < 0.9:
            a["train_on_prompt"] = False
        try:
            t, tok = opened(name, tk, a)
        except ValueError as e:
            sup.append({"kind": "supervised", "template": name, "tokenizer": tk, "args": a, "error": err(e)})
            continue
        row = head("supervised", name, tk, a, tok)
        row["efficient_eos"] = t.efficient_eos
        row["outputs"] = outs = per_example(SupervisedDatasetProcessor, t, tok, a, rows, ["input_ids", "labels"])
        sup.append(row)
        u = head("unsupervised", name, tk, a, tok)
        u["outputs"] = per_example(UnsupervisedDatasetProcessor, t, tok, a, rows, ["input_ids", "labels"])
        if r.random() < 0.4:
            uns.append(u)
        good = usable(rows, outs)
        sub = r.sample(good, r.randint(1, len(good))) if r.random() < 0.3 else good
        p = dict(a, packing=True, neat_packing=r.random() < 0.5)
        res = PackedSupervisedDatasetProcessor(t, tok, None, SimpleNamespace(**p)).preprocess_dataset(batch(sub))
        q = head("packed", name, tk, p, tok)
        q["examples"] = [x["id"] for x in sub]
        for k in ("input_ids", "labels", "attention_mask", "position_ids"):
            q[k] = res[k] if k in res else []
        q["packing_params"] = res.get("packing_params", []) if p["neat_packing"] else None
        packed.append(q)
        feats = [
            {"input_ids": o["input_ids"], "attention_mask": [1] * len(o["input_ids"]), "labels": o["labels"]}
            for o in outs
            if "input_ids" in o and len(o["input_ids"]) == len(o["labels"]) and 0 < len(o["labels"]) < 100
        ]
        if feats and name in BASIC and r.random() < 0.6:
            fs = r.sample(feats, min(len(feats), r.randint(1, 5)))
            side = r.choice(["right", "left"])
            mult = r.choice([None, 1, 2, 8, 16, 3])
            tok.padding_side = side
            m = CO.MultiModalDataCollatorForSeq2Seq(tokenizer=tok, model=None, template=t, processor=None, pad_to_multiple_of=mult, label_pad_token_id=-100)
            try:
                b = m(copy.deepcopy(fs))
            except Exception:
                b = None
            tok.padding_side = "right"
            if b is not None:
                col.append(
                    {
                        "kind": "sft_collator",
                        "template": name,
                        "tokenizer": tk,
                        "pad_to_multiple_of": mult,
                        "padding_side": side,
                        "pad_token_id": tok.pad_token_id,
                        "features": fs,
                        "batch": {k: b[k].tolist() for k in ("input_ids", "attention_mask", "labels")},
                    }
                )
        if p["neat_packing"] and len(q["input_ids"]) > 0 and a["cutoff_len"] < 100:
            i = r.sample(range(len(q["input_ids"])), min(len(q["input_ids"]), r.randint(1, 3)))
            mult = r.choice([None, 8, 16, 5])
            fs = [{k: q[k][j] for k in ("input_ids", "attention_mask", "position_ids", "labels")} for j in i]
            m = CO.SFTDataCollatorWith4DAttentionMask(
                tokenizer=tok,
                model=None,
                template=t,
                processor=None,
                pad_to_multiple_of=mult,
                label_pad_token_id=-100,
                block_diag_attn=True,
                attn_implementation="eager",
                compute_dtype=torch.float32,
                neat_packing=True,
            )
            try:
                b = m(copy.deepcopy(fs))
                col.append(
                    {
                        "kind": "neat_packing_collator",
                        "template": name,
                        "tokenizer": tk,
                        "pad_to_multiple_of": mult,
                        "padding_side": "right",
                        "pad_token_id": tok.pad_token_id,
                        "features": fs,
                        "attention_mask_4d_allowed": [[[int(x == 0) for x in q_] for q_ in x[0]] for x in b["attention_mask"].tolist()],
                        "batch": {k: b[k].tolist() for k in ("input_ids", "position_ids", "labels")},
                    }
                )
            except Exception as e:
                print("neat collator", err(e))
    w.write("sft/supervised.jsonl", sup)
    w.write("sft/packed.jsonl", packed)
    w.write("sft/unsupervised.jsonl", uns)
    w.write("sft/collators.jsonl", col)
    ut = []
    for _ in range(nutil):
        s, g, c = r.randint(0, 2000), r.randint(0, 2000), r.choice([r.randint(1, 30), r.randint(1, 4000)])
        if r.random() < 0.2:
            s, g = r.randint(0, 4), r.randint(0, 4)
        ut.append({"kind": "infer_seqlen", "source_len": s, "target_len": g, "cutoff_len": c, "result": list(infer_seqlen(s, g, c))})
    for _ in range(nutil // 7):
        cap = r.choice([1, 7, 64, 512, 4096])
        ns = [r.randint(0 if r.random() < 0.1 else 1, cap) for _ in range(r.randint(0, 120))]
        ut.append({"kind": "greedy_knapsack", "numbers": ns, "capacity": cap, "result": greedy_knapsack(list(ns), cap)})
    w.write("sft/utils.jsonl", ut)


def pt(w, r, n, ntok=99):
    texts = [{"id": i, "text": rnd.text(r, 0, r.choice([3, 20, 120, 300]))} for i in range(n)]
    w.write("pt/texts.jsonl", texts)
    a = dict(ATTR, prompt="text", query=None, response=None)
    attr = DatasetAttr(load_from="hf_hub", dataset_name="x")
    for k, v in a.items():
        setattr(attr, k, v)
    al = [{"id": x["id"], "dataset_attr": a, "aligned": C.get_dataset_converter("alpaca", attr, SimpleNamespace(media_dir=""))({"text": x["text"]})} for x in texts]
    w.write("pt/aligned.jsonl", al)
    rows = []
    for name, tk in [
        ("llama3", "tiny_llama3"),
        ("qwen3", "tiny_qwen"),
        ("default", "tiny_llama3"),
        ("empty", "gpt2"),
        ("llama2", "llama2"),
        ("llama3", "llama3"),
        ("qwen3", "qwen3"),
        ("deepseek", "deepseek_llm"),
        ("mistral", "llama2_nonlegacy"),
        ("phi", "phi3"),
        ("falcon", "falcon"),
        ("default", "llama2"),
        ("default", "gpt2"),
        ("gemma", "tiny_qwen"),
    ][:ntok]:
        for _ in range(4):
            c, p = r.choice([1, 2, 7, 24, 33, 100, 512, 4000]), r.random() < 0.6
            t, tok = opened(name, tk, args(name, cutoff_len=c))
            res = PretrainDatasetProcessor(t, tok, None, SimpleNamespace(**args(name, cutoff_len=c, packing=p))).preprocess_dataset(batch(al))
            rows.append(
                {
                    "kind": "pt",
                    "template": name,
                    "tokenizer": tk,
                    "cutoff_len": c,
                    "packing": p,
                    "add_bos_token": getattr(tok, "add_bos_token", False),
                    "bos_token_id": tok.bos_token_id,
                    "eos_token_id": tok.eos_token_id,
                    "pad_token_id": tok.pad_token_id,
                    "eos_text": "<|end_of_text|>" if name == "llama3" else tok.eos_token,
                    "input_ids": res["input_ids"],
                    "keys": sorted(res.keys()),
                }
            )
    w.write("pt/pretrain.jsonl", rows)


def pref(w, r, nex, n):
    rows = examples(r, nex, "pairwise")
    w.write("pairwise/examples.jsonl", rows)
    out, col = [], []
    K = ["chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"]
    for _ in range(n):
        name, tk = pick(r)
        a = randargs(r, name, train_on_prompt=False, mask_history=False)
        t, tok = opened(name, tk, a)
        row = head("pairwise", name, tk, a, tok)
        row["outputs"] = per_example(PairwiseDatasetProcessor, t, tok, a, rows, K)
        out.append(row)
        if r.random() < 0.5:
            c = r.randint(8, 120)
            mult = r.choice([None, 8, 16])
            a2 = args(name, cutoff_len=c)
            t, tok = opened(name, tk, a2)
            o2 = per_example(PairwiseDatasetProcessor, t, tok, a2, rows, K)
            good = [x for x, o in zip(rows, o2) if K[0] in o]
            sub = r.sample(good, min(len(good), r.randint(1, 4)))
            if sub:
                res = PairwiseDatasetProcessor(t, tok, None, SimpleNamespace(**a2)).preprocess_dataset(batch(sub))
                fs = [{k: v[i] for k, v in res.items()} for i in range(len(sub))]
                m = CO.PairwiseDataCollatorWithPadding(tokenizer=tok, model=None, template=t, processor=None, pad_to_multiple_of=mult, label_pad_token_id=-100)
                try:
                    b = m(fs)
                except Exception:
                    continue
                col.append(
                    {
                        "kind": "pairwise_collator",
                        "template": name,
                        "tokenizer": tk,
                        "pad_to_multiple_of": mult,
                        "pad_token_id": tok.pad_token_id,
                        "examples": [x["id"] for x in sub],
                        "cutoff_len": c,
                        "batch": {k: b[k].tolist() for k in ("input_ids", "attention_mask", "labels")},
                    }
                )
    w.write("pairwise/pairwise.jsonl", out)
    w.write("pairwise/collator.jsonl", col)
    rows = examples(r, nex, "kto")
    w.write("kto/examples.jsonl", rows)
    out, col = [], []
    K = ["input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tags"]
    for _ in range(n * 2):
        name, tk = pick(r)
        a = randargs(r, name, train_on_prompt=False, mask_history=False)
        t, tok = opened(name, tk, a)
        sub = [x for x in rows if not x.get("error")]
        if r.random() < 0.9:
            o = per_example(FeedbackDatasetProcessor, t, tok, a, rows, K)
            sub = [x for x, y in zip(rows, o) if "error" not in y]
            while r.random() < 0.97 and sub:  # an answer of a row may fail as KL answer, too
                try:
                    FeedbackDatasetProcessor(t, tok, None, SimpleNamespace(**a)).preprocess_dataset(batch(sub))
                    break
                except Exception:
                    sub = r.sample(sub, len(sub) * 2 // 3)
        if not sub:
            continue
        row = head("kto", name, tk, a, tok)
        row["examples"] = [x["id"] for x in sub]
        try:
            res = FeedbackDatasetProcessor(t, tok, None, SimpleNamespace(**a)).preprocess_dataset(batch(sub))
            for k in K:
                row[k] = res[k] if k in res else []
        except Exception as e:
            row["error"] = err(e)
        out.append(row)
        if r.random() < 0.5 and "error" not in row:
            c = r.randint(8, 120)
            mult = r.choice([None, 8, 16])
            a2 = args(name, cutoff_len=c)
            t, tok = opened(name, tk, a2)
            s2 = r.sample(sub, min(len(sub), 4))
            try:
                res = FeedbackDatasetProcessor(t, tok, None, SimpleNamespace(**a2)).preprocess_dataset(batch(s2))
            except Exception:
                continue
            if not res.get("input_ids"):
                continue
            fs = [{k: v[i] for k, v in res.items()} for i in range(len(res["input_ids"]))]
            m = CO.KTODataCollatorWithPadding(tokenizer=tok, model=None, template=t, processor=None, pad_to_multiple_of=mult, label_pad_token_id=-100)
            try:
                b = m(fs)
            except Exception:
                continue
            col.append(
                {
                    "kind": "kto_collator",
                    "template": name,
                    "tokenizer": tk,
                    "pad_to_multiple_of": mult,
                    "pad_token_id": tok.pad_token_id,
                    "examples": [x["id"] for x in s2],
                    "cutoff_len": c,
                    "batch": {k: b[k].tolist() for k in ("input_ids", "attention_mask", "labels", "kl_input_ids", "kl_attention_mask", "kl_labels", "kto_tags")},
                }
            )
    w.write("kto/kto.jsonl", out)
    w.write("kto/collator.jsonl", col)
