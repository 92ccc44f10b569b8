"""Writes parsed.json: what LLaMA-Factory's parse_template makes of tokenizers' chat templates.

usage: parsed.py LLAMA_FACTORY_CHECKOUT REFERENCE_DATA > parsed.json (needs transformers 4.57)
"""
import importlib
import json
import logging
import pathlib
import sys
import types
from datetime import datetime

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2)


chat_template_utils.datetime = Frozen


def load(checkout):
    root = pathlib.Path(checkout) / "src" / "llamafactory"
    for name in ("lf", "lf.data", "lf.extras", "lf.hparams"):
        m = types.ModuleType(name)
        m.__path__ = [str(root / name.split(".")[-1])] if name != "lf" else [str(root)]
        sys.modules[name] = m
    log = types.ModuleType("lf.extras.logging")
    log.get_logger = logging.getLogger
    sys.modules["lf.extras.logging"] = log
    sys.modules["lf.extras"].logging = log
    utils = types.ModuleType("lf.data.data_utils")
    utils.Role, utils.SLOTS = types.SimpleNamespace(USER="user", ASSISTANT="assistant", SYSTEM="system", FUNCTION="function", OBSERVATION="observation"), list
    sys.modules["lf.data.data_utils"] = utils
    plugin = types.ModuleType("lf.data.mm_plugin")
    plugin.get_mm_plugin = lambda name, **tokens: None
    sys.modules["lf.data.mm_plugin"] = plugin
    return importlib.import_module("lf.data.template")


def main():
    template, base = load(sys.argv[1]), pathlib.Path(sys.argv[2])
    rows = []

    def row(r, tok):
        try:
            x = template.parse_template(tok)
            r.update({"class": type(x).__name__, "prefix": x.format_prefix.slots, "system": x.format_system.slots, "user": x.format_user.slots,
                      "assistant": x.format_assistant.slots, "default_system": x.default_system})
        except Exception as e:
            r["error"] = type(e).__name__
        rows.append(r)

    for n in ("tiny_llama3", "tiny_qwen", "phi3", "llama3", "qwen3"):
        row({"tokenizer": n}, AutoTokenizer.from_pretrained(base / "tokenizers" / n))
    tok = AutoTokenizer.from_pretrained(base / "tokenizers" / "tiny_llama3")
    for f in sorted((base / "chat_templates" / "jinja").glob("*.jinja")):
        tok.chat_template = f.read_text()
        row({"tokenizer": "tiny_llama3", "jinja": f.name}, tok)
    print("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]")


if __name__ == "__main__":
    main()
