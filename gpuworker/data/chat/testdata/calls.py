"""Writes calls.json: what LLaMA-Factory's tool_utils.py makes of odd tools, calls and messages, null where it raises an exception.

usage: calls.py LLAMA_FACTORY_CHECKOUT > calls.json (Python 3.11; needs typing_extensions)
"""
import importlib.util
import json
import pathlib
import sys
import warnings
from datetime import datetime

warnings.simplefilter("ignore")


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2)


def load(checkout):
    path = pathlib.Path(checkout) / "src" / "llamafactory" / "data" / "tool_utils.py"
    spec = importlib.util.spec_from_file_location("tool_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.datetime = Frozen
    return module


PROPS = {"a": {"type": "straße", "description": "ﬁ"}, "b": {"type": ["string", "null"], "enum": "xyz", "items": {"type": None}}, "c": {}}
TOOLS = [  # as JSON
    '[{"name": "f", "parameters": {"type": "object", "properties": %s, "required": %s}}]' % (json.dumps(PROPS), required)
    for required in ('["a", null]', '"a location"', '{"a": 1}', "null", "true", "[]")
] + ['{"name": "f"}', '"text"', "{}", '""', "[]", "null", "5", "[[]]", '[{"type": "function"}]', '[{"type": "function", "function": {"name": 5, "parameters": {"properties": {}}}}]',
     '[{"name": "f", "description": ["a", "b\\"\'"], "response": {"type": "Object", "description": 5}}]']

CALLS = [[["f", "{}"]], [["f", '{"ß": "x", "a": [1, null, {"k": 1e16}], "b": -0.0}'], ["g", '"text"']], [["f", "[1]"]], [["f", "null"]], [["f", "broken"]], [], [["f", '{"a": "x\\u0000y"}']], [["f", '{"a b": "q\\"", "": NaN}']]]

CALL = '{"name": %s, "arguments": {"a": 1}}'
MESSAGES = {
    "qwen": ["<tool_call>" + x + "</tool_call>" for x in ("[]", '""', '"name"', '"name arguments"', '["name"]', '["name", "arguments"]', "null", "1", "{}", CALL % 5, CALL % "null", CALL % '["f"]', CALL % '"f"')],
    "llama3": [(CALL % x).replace("arguments", "parameters") for x in ("5", "null", '["f", "\'"]', '"f"', "true", "1.50")] + ['[{"name": 5}, 3]', '[3, {"name": 5}]', "[]", '"s"'],
    "mistral": ["[" + CALL % x + "]" for x in ("5", "null", '{"k": "v"}')],
    "minimax1": ["<tool_calls>\n" + CALL % x + "\n</tool_calls>" for x in ("5", '["f"]', '"f"')] + ["<tool_calls>[1]</tool_calls>", "<tool_calls>x</tool_calls>"],
}


def attempt(f):
    try:
        v = f()
        json.dumps(v, ensure_ascii=False).encode()
        return v
    except Exception:
        return None


def main():
    module = load(sys.argv[1])
    out = {"tools": [], "calls": [], "messages": []}
    for name, utils in sorted(module.TOOLS.items()):
        for tools in TOOLS:
            def describe():
                v = json.loads(tools)
                return utils.tool_formatter(v) if len(v) != 0 else ""

            out["tools"].append({"format": name, "in": tools, "out": attempt(describe)})
        for calls in CALLS:
            out["calls"].append({"format": name, "in": calls, "out": attempt(lambda: utils.function_formatter([module.FunctionCall(*c) for c in calls]))})
        for content in MESSAGES.get(name, []):
            found = attempt(lambda: utils.tool_extractor(content))
            out["messages"].append({"format": name, "in": content, "out": found})
    json.dump(out, sys.stdout, ensure_ascii=False, indent=0)
    print()


main()
