"""Writes ../templates.json: the chat templates that LLaMA-Factory registers, as data.

usage: extract.py LLAMA_FACTORY_CHECKOUT > templates.json

It runs the registrations of src/llamafactory/data/template.py with everything around them replaced by stubs, so that nothing but Python is
needed. LLaMA-Factory is Apache-2.0; the strings are the chat formats of the models' vendors.
"""
import importlib
import json
import logging
import pathlib
import sys
import types


def main():
    root = pathlib.Path(sys.argv[1]) / "src" / "llamafactory"
    for name in ("lf", "lf.data", "lf.extras", "lf.hparams"):
        m = types.ModuleType(name)
        m.__path__ = [str(root / name.split(".")[-1])] if name != "lf" else [str(root)]
        sys.modules[name] = m
    log = types.ModuleType("lf.extras.logging")
    log.get_logger = logging.getLogger
    sys.modules["lf.extras.logging"] = log
    sys.modules["lf.extras"].logging = log
    utils = types.ModuleType("lf.data.data_utils")
    utils.Role = types.SimpleNamespace(USER="user", ASSISTANT="assistant", SYSTEM="system", FUNCTION="function", OBSERVATION="observation")
    utils.SLOTS = list
    sys.modules["lf.data.data_utils"] = utils
    plugin = types.ModuleType("lf.data.mm_plugin")
    plugin.get_mm_plugin = lambda name, **tokens: {"name": name, **{k: v for k, v in tokens.items() if v}}
    sys.modules["lf.data.mm_plugin"] = plugin
    template = importlib.import_module("lf.data.template")

    def slots(f):
        out = []
        for s in f.slots:
            if isinstance(s, set):
                role = next(iter(s))
                if role in ("bos_token", "eos_token"):  # anything else in a set is passed over upstream
                    out.append({"role": role})
            else:
                out.append(s)
        return out

    rows = []
    for name, t in template.TEMPLATES.items():
        row = {"name": name, "class": type(t).__name__}
        for key in ("prefix", "system", "user", "assistant", "observation", "function"):
            row[key] = slots(getattr(t, "format_" + key))
        row["function_format"] = t.format_function.tool_format
        row["tool_format"] = t.format_tools.tool_format
        if not row["tool_format"]:
            row["tools"] = slots(t.format_tools)
        for key in ("default_system", "stop_words", "thought_words", "tool_call_words", "efficient_eos", "replace_eos", "replace_jinja_template",
                    "enable_thinking", "preserve_thinking"):
            row[key] = getattr(t, key)
        row["media"] = t.mm_plugin
        rows.append(row)
    print("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]")


if __name__ == "__main__":
    main()
