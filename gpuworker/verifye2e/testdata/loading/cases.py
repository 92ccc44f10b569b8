"""Random data sets, dataset_info.json and configurations for make.py."""

import io
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../verifydata/testdata/random"))

import inputs  # noqa: E402

TEMPLATES = "llama3 qwen qwen3 default empty chatml fewshot glm4 gemma2 mistral llama2 cohere falcon alpaca deepseekr1 phi4 granite4 hunyuan vicuna yi".split()
TOOLS = ["llama3", "qwen", "qwen3", "glm4", "mistral", "default"]


def words(r, n):
    """A short text without control characters, as a spreadsheet's cell."""
    return " ".join(r.choice("one two drei 四 fünf six, \"seven\" 8 9.5 ten\nlines don't <b> x=1".split(" ")) for _ in range(r.randint(1, n)))


def texts(r, small, plain):
    most = 5 if small else r.choice([3, 8, 20])
    if plain:
        return lambda: words(r, most)
    return lambda: inputs.text(r, 1, most)


def some(r, x, empty=0.05):
    """x, now and then nothing in its place."""
    k = r.random()
    if isinstance(r, Tame):
        return "" if k < empty / 2 else x
    return None if k < empty / 2 else "" if k < empty else x


class Tame:
    """Random numbers of a case without odd rows: most odd ones are errors, which show little."""

    def __init__(self, r):
        self.r = r

    def __getattr__(self, name):
        return getattr(self.r, name)


def tools(r):
    return json.dumps([plain_tool(r)], ensure_ascii=False) if isinstance(r, Tame) else inputs.tools(r)


def called(r):
    return json.dumps({"name": "f", "arguments": {"a": words(r, 3), "n": r.randint(0, 9)}}, ensure_ascii=False) if isinstance(r, Tame) else inputs.function(r)


def alpaca(r, stage, n, text, flat):
    """Columns and rows of an alpaca data set."""
    default = r.random() < 0.4 and stage not in ("rm", "dpo", "kto", "pt")
    c = {"prompt": "instruction", "query": "input", "response": "output"}
    if not default:
        c = {"prompt": r.choice(["instruction", "question", "text"])}
        if stage != "pt":
            if r.random() < 0.6:
                c["query"] = r.choice(["input", "context"])
            if stage in ("rm", "dpo"):
                c.update(chosen=r.choice(["chosen", "good"]), rejected="rejected")
            else:
                c["response"] = r.choice(["output", "answer"])
            if stage == "kto":
                c["kto_tag"] = r.choice(["label", "kto_tag"])
            if r.random() < 0.4:
                c["system"] = r.choice(["system", "sys"])
            if r.random() < 0.3 and not flat:
                c["history"] = "history"
            if r.random() < 0.15:
                c["tools"] = "tools"
    rows = []
    for i in range(n):
        x = {}
        for role, name in c.items():
            if role == "history":
                x[name] = [[text(), text()] for _ in range(r.randint(0, 2))] if r.random() < 0.9 else None
            elif role == "kto_tag":
                x[name] = r.random() < 0.5
            elif role == "tools":
                x[name] = some(r, tools(r), 0.5)
            elif role in ("query", "system"):
                x[name] = some(r, text(), 0.4)
            else:
                x[name] = some(r, text(), 0.06)
        if r.random() < 0.1 and i and not flat and not isinstance(r, Tame):
            x.pop(r.choice(list(x)))
        if r.random() < 0.1:
            x["other"] = r.randint(0, 9)
        rows.append(x)
    return {} if default else {"columns": c}, rows


def conversation(r, text, tags, turns, openai):
    role, content, user, assistant, observation, function, system = tags
    out = []
    if r.random() < 0.25:
        out.append({role: system, content: text()})
    for i in range(turns):
        ask = observation if i and out[-1][role] == function else user
        out.append({role: ask, content: text()})
        if r.random() < 0.2 and not openai:
            out.append({role: function, content: called(r)})
        else:
            out.append({role: assistant, content: text()})
    k = r.random() * (2 if isinstance(r, Tame) else 1)
    if k < 0.05:
        out.pop()
    elif k < 0.08:
        out.insert(r.randint(0, len(out)), {role: r.choice([user, assistant] if isinstance(r, Tame) else [user, assistant, "odd"]), content: text()})
    elif k < 0.1:
        out = out[:1]
    return out


def sharegpt(r, stage, n, text, form):
    openai = form == "openai"
    names = {"messages": "messages" if openai else r.choice(["conversations", "messages", "talk"])}
    tags = ["role", "content", "user", "assistant", "tool", "function", "system"] if openai else ["from", "value", "human", "gpt", "observation", "function_call", "system"]
    e = {"formatting": form}
    if openai or r.random() < 0.3:
        if not openai and r.random() < 0.5:
            tags = ["role", "content", "user", "assistant", "observation", "function", "system"]
        e["tags"] = dict(zip(["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"], tags, strict=True))
    ranked = stage in ("rm", "dpo")
    if ranked:
        names.update(chosen="chosen", rejected="rejected")
    if stage == "kto":
        names["kto_tag"] = "label"
    if r.random() < 0.3:
        names["system"] = "system"
    tooled = r.random() < 0.35
    if tooled:
        names["tools"] = "tools"
    nested = openai and tooled and r.random() < 0.5
    rows = []
    for i in range(n):
        talk = conversation(r, text, tags, r.randint(1, 3), openai)
        if openai and tooled and r.random() < 0.6:
            talk = talk[: len(talk) // 2 * 2] + calls(r, text, nested)
        if ranked:
            talk = [m for m in talk if r.random() < 0.98]
            if talk and talk[-1][tags[0]] == tags[3] and r.random() < 0.95:
                talk.pop()
        x = {names["messages"]: talk}
        if ranked:
            x["chosen"], x["rejected"] = ({tags[0]: tags[3], tags[1]: text()} for _ in range(2))
        if stage == "kto":
            x["label"] = r.random() < 0.5
        if "system" in names:
            x["system"] = some(r, text(), 0.3)
        if tooled:
            x["tools"] = ([{"type": "function", "function": plain_tool(r)} for _ in range(r.randint(1, 2))] if nested else some(r, tools(r), 0.3))
        if i and not isinstance(r, Tame) and r.random() < 0.03:
            x.pop(r.choice([k for k in x if k != names["messages"] or r.random() < 0.05] or list(x)))
        rows.append(x)
    if names == {"messages": "conversations"} and r.random() < 0.7:
        return e, rows
    return {**e, "columns": names}, rows


def plain_tool(r):
    props = {k: {"type": "string", "description": "what"} for k in ("a", "location")[: r.randint(1, 2)]}
    return {"name": r.choice(["f", "get_weather"]), "description": "does", "parameters": {"type": "object", "properties": props, "required": list(props)[:1]}}


def calls(r, text, nested):
    """A question that tools answer, as OpenAI's clients write it."""
    n = r.randint(1, 2)
    arguments = (lambda: {k: r.choice(["x", "东京"]) for k in ("a", "location")[: r.randint(1, 2)]}) if nested else (lambda: json.dumps({"a": r.choice(["x", 1])}))
    made = [{"id": f"call_{i}", "type": "function", "function": {"name": r.choice(["f", "get_weather"]), "arguments": arguments()}} for i in range(n)]
    return (
        [{"role": "user", "content": text()}, {"role": "assistant", "content": r.choice([None, ""]), "tool_calls": made}]
        + [{"role": "tool", "content": text(), "tool_call_id": f"call_{i}"} for i in range(n)]
        + [{"role": "assistant", "content": text()}]
    )


def data_file(r, rows, name, flat):
    """The bytes of a file of rows and its name."""
    k = r.random()
    if flat:
        import pandas as pd

        df = pd.DataFrame(rows)
        if k < 0.6:
            return name + ".csv", df.to_csv(index=False).encode()
        b = io.BytesIO()
        df.to_parquet(b)
        return name + ".parquet", b.getvalue()
    if k < 0.4:
        return name + ".json", json.dumps(rows, ensure_ascii=r.random() < 0.3, indent=r.choice([None, 2])).encode()
    if k < 0.85:
        return name + r.choice([".jsonl", ".jsonl", ".json"]), "".join(json.dumps(x, ensure_ascii=r.random() < 0.2) + "\n" for x in rows).encode()
    import datasets

    d, b = datasets.Dataset.from_list(rows), io.BytesIO()
    d.to_parquet(b)
    return name + ".parquet", b.getvalue()


def data_set(r, stage, name, small):
    n = r.randint(2, 7) if small else r.choice([2, 5, 12, 12, 30, 60])
    flat = stage in ("pt", "sft") and r.random() < 0.15
    text = texts(r, small, flat)
    form = "alpaca" if stage == "pt" or flat else r.choice(["alpaca", "sharegpt", "sharegpt", "openai"])
    if stage == "pt" and r.random() < 0.3:
        lines = [words(r, 12).replace("\n", " ") for _ in range(n)]
        return {"file_name": name + ".txt", "columns": {"prompt": "text"}}, {name + ".txt": ("\n".join(lines) + r.choice(["", "\n"])).encode()}
    entry, rows = alpaca(r, stage, n, text, flat) if form == "alpaca" else sharegpt(r, stage, n, text, form)
    file, b = data_file(r, rows, name, flat)
    entry = {"file_name": file, **entry}
    if stage in ("rm", "dpo"):
        entry["ranking"] = True
    if r.random() < 0.25:
        entry["num_samples"] = r.randint(1, 2 * n)
    if n > 4 and r.random() < 0.2:
        entry["split"] = r.choice(["train", "train[:60%]", "train[1:]", "train[-3:]", "train[:2]+train[-1:]", "train[10%:70%]"])
    files = {file: b}
    return entry, files


def case(r, small):
    """A configuration without its paths, and the files of its data folder."""
    if r.random() < 0.8:
        r = Tame(r)
    stage = r.choice(["sft"] * 7 + ["pt", "pt", "rm", "dpo", "kto", "kto"])
    names = ["a", "b", "c", "d"][: r.choice([1, 1, 2, 2, 3, 4] if not small else [1, 1, 2, 3])]
    held = ["e", "f"][: r.choice([0, 0, 1, 2])]
    info, files = {}, {}
    twice = len(names) == 1 and r.random() < 0.05
    for n in names + held:
        info[n], more = data_set(r, stage, n, small)
        files.update(more)
    files["dataset_info.json"] = json.dumps(info, ensure_ascii=False).encode()
    y = {"model_name_or_path": r.choice(["model_llama3", "model_qwen2"]), "stage": stage, "do_train": True, "finetuning_type": "lora", "dataset": ",".join(names),
         "cutoff_len": r.choice([16, 24, 40, 64] if small else [16, 32, 64, 100, 256, 1024]), "overwrite_cache": True, "seed": r.choice([0, 1, 42, 7, 2**31])}  # fmt: skip
    if stage != "pt":
        y["template"] = r.choice(TOOLS if any("tools" in info[n].get("columns", {}) for n in info) and r.random() < 0.7 else TEMPLATES)
    if len(names) > 1 and r.random() < 0.7:
        y["mix_strategy"] = r.choice(["concat", "interleave_under", "interleave_over"] * 4 + ["interleave_once"])
        if y["mix_strategy"] != "concat" and r.random() < (0.6 if len(held) in (0, len(names)) else 0.05):
            p = [r.randint(1, 9) for _ in names]
            y["interleave_probs"] = ",".join(str(x / sum(p)) for x in p)
    if twice:
        y["dataset"] = names[0] + "," + names[0]
    if held:
        y["eval_dataset"] = ",".join(held)
        y["eval_on_each_dataset"] = r.random() < 0.5
    options(r, y, stage, bool(held))
    return y, files


def options(r, y, stage, held):
    stream = r.random() < 0.2
    if stream:
        y.update(streaming=True, dataloader_num_workers=1, buffer_size=r.choice([1, 3, 10, 16384]), max_steps=r.choice([1, 4, 9]), per_device_train_batch_size=r.choice([1, 2]))
    elif r.random() < 0.25:
        y["max_samples"] = r.choice([1, 3, 5, 20])
    if not held and r.random() < 0.4:
        y["val_size"] = r.choice([1, 2, 3]) if stream else r.choice([0.1, 0.25, 0.5, 2, 3, 5])
    if held or "val_size" in y:
        y.update(eval_strategy="steps", eval_steps=5)
        if stage == "sft" and r.random() < 0.2:
            y.update(predict_with_generate=True, eval_on_each_dataset=False)
    if r.random() < 0.4:
        y["preprocessing_batch_size"] = r.choice([1, 2, 3, 7])
    if not stream and r.random() < 0.2:
        y["preprocessing_num_workers"] = r.choice([1, 2, 3])
    if stage == "pt" and r.random() < 0.5:
        y["packing"] = r.random() < 0.5
    if stage == "sft":
        k = r.random()
        if k < 0.25:
            y["packing"] = True
        elif k < 0.45:
            y["neat_packing"] = True
        k = r.random()
        if k < 0.2:
            y["mask_history"] = True
        elif k < 0.4:
            y["train_on_prompt"] = True
    if stage != "pt":
        if r.random() < 0.15:
            y["default_system"] = r.choice(["", "be brief", "系统"])
        if r.random() < 0.15:
            y["enable_thinking"] = r.choice([False, None])
        if r.random() < 0.1:
            y["tool_format"] = r.choice(["qwen", "glm4", "default", "llama3"])
