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
    "lfm2": ["<|tool_call_start|>" + x + "<|tool_call_end|>" for x in [
        "[f()] # comment", "[f(a=1), # one\n g(b=2)]", "# only", "f(a=1)\n", "f\n(a=1)", "(f)(a=1)", "(f(a=1))", "f(a=1), g()", "[f(a=1), 5]", "f", "[]", "f(a='x\x00y')",
        "f(a=b'x')", "f(a=b'x', b=foo)", "[f(a=b'x'), g(b=foo)]", "[g(b=foo), f(a=b'x')]", "[f(a=b'x'), (,)]", "f(a={1, 2})", "f(a=set())", "f(a=set(x))", "f(a=1+2j)", "f(a=2j)", "f(a=1+2)", "f(a=1-2j, b=1j+2)", "f(a={1j: 2})", "f(a={(1, 2): 3})",
        "f(a={[1]: 3})", "f(a={{}: 1})", "f(a={1: 2, 1.5: 3, None: 4, True: 5, 'k': 6})", "f(a={**x})", "f(a={**{}})", "f(a=...)",
        "f(**{'a': 1})", "f(**x)", "f(**{}, b=1)", "f(*x, a=1)", "f(*x, 'p', a=1)", "f(x, a=1)", "f(x.y[0](1), -z ** 2, not p, a=1)", "f(a=1, x)", "f(x y, a=1)", "f(the weather)", "f(lambda q, *r, k=1: q, a=1)", "f(p if q else r, s and t or u, v in w, x is not y, a=1)",
        "f(i for i in z)", "f([i for i in z if i], {k: v for k, v in z}, a=1)", "f((yield), a=1)", "f(await x, a=1)", "f(q := 1, a=2)", "f(x[1:2, ::3], a=1)", "f(1 < 2 <= x != 3, a=1)", "f(~1, a=+1)", "f('a' f'{x}' 'b', a=1)",
        "f(a=r'x\\n')", "f(a=u'x')", "f(a=R\"x\\n\" 'y')", "f(a=f'x')", "f(a=rb'x')", "f(a=ur'x')", "f(a='a' b'b')", "f(a='x\\\ny')", "f(a='\\q\\101\\x41')", "f(a='''l\nm''')", "f(a='l\nm')", "f(a='''l\r\nm''')",
        "f(a=--1)", "f(a=-True)", "f(a=+True)", "f(a=-(1))", "f(a=- 1)", "f(a=-'x')", "f(a=~1)", "f(a=(1))", "f(a=(1,))", "f(a=())", "f(a=(true))", "f(a=[true])", "f(a={'k': null})", "f(a=true, b=null)", "f(a=not true)",
        "f(a=1_000, b=0x1F, c=0o17, d=0b11, e=1e5, f=1., g=.5, h=00, i=1e999)", "f(a=007)", "f(a=1__0)", "f(a=1_)", "f(a=0x)", "f(a=1if x else 2)", "f(a=1.e1_0)", "f(a=5, a=6)", "f(a=1,)", "f(a=1,,)", "f(,)", "f(ﬁ=1)", "ﬁ(a=1)", "f(if=1)", "if(a=1)", "f(True=1)",
        "a.b(c=1)", "f()(a=1)", "f(a =1)", "f(a\n=\n1)", "f(a=='x')", "f(a=1;b=2)", "f(a=1) + g()", "[f(a=1)] + []", "[f(a=1)][0]", "[*f(a=1)]", "[f(a=1) for x in y]", "f(a=x) if y else z", "f(a=\"it's\", b='say \"hi\"')", "f(a=\\\n1)", "f(a=1 \\x)", "f(a=$x)", "f(a=?)", "f(a='é\\n')",
    ]] + ["<|tool_call_start|>f(a=1)", "<|tool_call_end|>f(a=1)<|tool_call_start|>"],
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
