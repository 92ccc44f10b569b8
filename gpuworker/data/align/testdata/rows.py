"""Writes rows.json: what LLaMA-Factory's converters make of odd rows, null where they raise an exception.

usage: rows.py LLAMA_FACTORY_CHECKOUT > rows.json
"""
import copy
import importlib
import json
import logging
import pathlib
import sys
import types

ATTR = dict(formatting="alpaca", ranking=False, system=None, tools=None, images=None, videos=None, audios=None, chosen=None, rejected=None, kto_tag=None, prompt="instruction", query="input", response="output", history=None,
            messages="conversations", role_tag="from", content_tag="value", user_tag="human", assistant_tag="gpt", observation_tag="observation", function_tag="function_call", system_tag="system")
RANKED = dict(ranking=True, chosen="chosen", rejected="rejected")
OPENAI = dict(formatting="openai", messages="messages", role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant", observation_tag="tool", function_tag="function")


def talk(*contents):
    return [{"from": "gpt" if i % 2 else "human", "value": c} for i, c in enumerate(contents)]


def say(*pairs):
    return [{"role": r, "content": c} for r, c in pairs]


ANSWER = {"from": "gpt", "value": "b"}
CASES = [
    # columns that are named but not needed are not looked for
    (dict(chosen="chosen", rejected="rejected"), {"instruction": "q", "input": "", "output": "a"}),
    (dict(formatting="sharegpt", chosen="chosen", rejected="rejected"), {"conversations": talk("q", "a")}),
    (dict(formatting="sharegpt", kto_tag="label", **RANKED), {"conversations": talk("q"), "label": True}),
    (dict(formatting="sharegpt", kto_tag="label", **RANKED), {"conversations": talk("q"), "label": None, "chosen": ANSWER, "rejected": ANSWER}),
    (dict(kto_tag="label", **RANKED), {"instruction": "q", "input": "", "output": "a", "label": False}),
    (RANKED, {"instruction": "q", "input": "", "output": "a", "chosen": None}),
    (RANKED, {"instruction": "q", "input": "", "output": "a", "chosen": "c"}),
    (RANKED, {"instruction": "q", "input": "", "output": "a", "chosen": "c", "rejected": 5}),
    (dict(formatting="sharegpt", **RANKED), {"conversations": talk("q"), "chosen": "text"}),
    (dict(formatting="sharegpt", **RANKED), {"conversations": talk("q"), "chosen": ANSWER}),
    (dict(formatting="sharegpt", **RANKED), {"conversations": talk("q"), "chosen": ANSWER, "rejected": {"from": "human", "value": "c"}}),
    (dict(formatting="sharegpt", **RANKED), {"conversations": talk("q"), "chosen": ANSWER, "rejected": {"from": "nobody", "value": "c"}}),
    (dict(formatting="sharegpt", **RANKED), {"conversations": talk("q", "a"), "chosen": 5}),
    # columns that are needed and not named
    (dict(kto_tag="label", response=None), {"instruction": "q", "input": "", "label": True}),
    (dict(ranking=True), {"instruction": "q", "input": "", "output": "a"}),
    (dict(formatting="sharegpt", ranking=True), {"conversations": talk("q")}),
    (dict(response=None), {"instruction": "q", "input": ""}),
    # results of tools
    (OPENAI, {"messages": say(("user", "q"), ("function", "[]"), ("tool", "1"), ("tool", "2"), ("assistant", "a"))}),
    (OPENAI, {"messages": say(("user", "q"), ("function", "[]"), ("tool", 1), ("assistant", "a"))}),
    (OPENAI, {"messages": say(("user", "q"), ("assistant", "a"), ("tool", 1))}),
    (OPENAI, {"messages": say(("user", "q"), ("assistant", "a"), ("tool", None), ("tool", "2"))}),
    (dict(OPENAI, observation_tag="user"), {"messages": say(("user", True))}),
    # media
    (dict(images="images"), {"instruction": "q", "input": "", "output": "a", "images": "a.png"}),
    (dict(images="images", videos="videos"), {"instruction": "q", "input": "", "output": "a", "images": [], "videos": ["v"]}),
]


def load(checkout):
    root = pathlib.Path(checkout) / "src" / "llamafactory"
    for name in ("lf", "lf.data", "lf.extras"):
        m = types.ModuleType(name)
        m.__path__ = [str(root / name.split(".")[-1])] if name != "lf" else [str(root)]
        sys.modules[name] = m
    log = types.ModuleType("lf.extras.logging")
    log.get_logger = lambda name: types.SimpleNamespace(warning_rank0=lambda *a: None, warning_rank0_once=lambda *a: None)
    sys.modules["lf.extras.logging"] = log
    sys.modules["lf.extras"].logging = log
    role = lambda v: types.SimpleNamespace(value=v)
    utils = types.ModuleType("lf.data.data_utils")
    utils.Role = types.SimpleNamespace(**{k.upper(): role(k) for k in ("user", "assistant", "system", "function", "observation")})
    sys.modules["lf.data.data_utils"] = utils
    return importlib.import_module("lf.data.converter")


def main():
    converter = load(sys.argv[1])
    out = []
    for change, raw in CASES:
        attr = dict(ATTR, **change)
        row = {"attr": attr, "raw": raw, "aligned": None}
        try:
            row["aligned"] = converter.get_dataset_converter(attr["formatting"], types.SimpleNamespace(load_from="hf_hub", **attr), None)(copy.deepcopy(raw))
        except Exception:
            pass
        out.append(row)
    print("[\n" + ",\n".join(json.dumps(x) for x in out) + "\n]")


main()
