"""Random inputs for make.py: texts, JSON, tools, calls and conversations as people, models and broken exports write them."""

import json

WORDS = "the a fox Paris hello weather 今天 天气 怎么样 مرحبا שלום привет naïve Straße ﬁne ŉ İstanbul 12345 3.14 -7 x=1 foo_bar don't I'm we'll 😀 👨‍👩‍👧‍👦 🇫🇷 é e\u0301 ñ \u200b\u200d \ufeff ｆｕｌｌ 한국어 日本語 ไทย हिन्दी ∑∫ … — “q” 'single' \"dq\" `code` <b> </b> & $ \\ / | {{content}} {{idx}} {{name}} {content} {tool_text} {date} %s $1".split(
    " "
)
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "[INST]",
    "[/INST]",
    "<pad>",
    "<unk>",
    "<|user|>",
    "<|start_header_id|>",
    "<end_of_turn>",
    "<|tool_call|>",
    "<tool_call>",
    "</tool_call>",
    "<|end|>",
    "<eos>",
    "<bos>",
    "[gMASK]",
    "sop",
    "<image>",
    "<|im_end",
    "|im_end|>",
    "<tool_response>",
    "</think>",
    "<think>",
    "/think",
    "/no_think",
    "<｜end▁of▁sentence｜>",
    "<0x0A>",
    "▁",
    "Ġ",
]
CTRL = [
    "\x00",
    "\x01",
    "\x07",
    "\x0b",
    "\x0c",
    "\x1b",
    "\x1c",
    "\x1f",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufffe",
    "\u00a0",
    "\u3000",
    "\u202e",
    "\u2066",
    "\r",
    "\r\n",
    "\t",
    "\ufffd",
    "\U0010ffff",
    "\ue000",
]
WS = ["\n", "\n\n", " ", "  ", "\t", "\r\n", "\u00a0", "   \n", "\n \n", "\x0b"]


def text(r, lo=0, hi=14):
    k = r.random()
    if k < 0.06:
        return ""
    if k < 0.09:
        return r.choice(WS) * r.randint(1, 3)
    out = []
    for _ in range(r.randint(max(lo, 1), hi)):
        q = r.random()
        if q < 0.80:
            out.append(r.choice(WORDS))
        elif q < 0.88:
            out.append(r.choice(SPECIAL))
        elif q < 0.93:
            out.append(r.choice(CTRL))
        elif q < 0.96:
            out.append(
                chr(
                    r.choice(
                        [
                            r.randint(0x20, 0x24F),
                            r.randint(0x300, 0x36F),
                            r.randint(0x4E00, 0x9FFF),
                            r.randint(0x1F300, 0x1F6FF),
                            r.randint(0x590, 0x6FF),
                            r.randint(0xAC00, 0xD7A3),
                            r.randint(0x1000, 0x1FFF),
                        ]
                    )
                )
            )
        else:
            out.append(r.choice(WS))
        if r.random() < 0.7:
            out.append(" ")
    s = "".join(out)
    if r.random() < 0.15:
        s = r.choice(WS) + s
    if r.random() < 0.15:
        s = s + r.choice(WS)
    return s


def thoughtful(r, words=("<think>\n", "\n</think>\n\n")):
    """An answer with thoughts in odd places."""
    o, c = words if r.random() < 0.8 else ("<think>", "</think>")
    k = r.randint(0, 11)
    t, u, v = text(r), text(r), text(r)
    return [
        o + t + c + u,
        u + o + t + c + v,
        o + t + u,
        t + c + u,
        o + o + t + c + u + c + v,
        o + t + c + o + u + c + v,
        o + c + t,
        c + t + o,
        o.strip() + t + c.strip() + u,
        "\n" + o + t + c + "\n\n" + u,
        o + t + c,
        o + t + c + "\n" * r.randint(1, 4) + u,
    ][k]


def number(r):
    return r.choice(
        [
            0,
            1,
            -1,
            42,
            10**20,
            -(10**30),
            1.5,
            -0.0,
            0.1,
            1e16,
            1e-7,
            123456789.125,
            1e300,
            5e-324,
            1e22,
            1e21,
            100000.0,
            2**53,
            3.0,
            r.randint(-9999, 9999),
            r.random() * 10 ** r.randint(-8, 20),
        ]
    )


def value(r, depth=0):
    k = r.random()
    if depth > 3:
        k *= 0.7
    if k < 0.4:
        return text(r, 0, 4)
    if k < 0.55:
        return number(r)
    if k < 0.65:
        return r.choice([True, False, None])
    if k < 0.7:
        return r.choice(["", [], {}])
    if k < 0.85:
        return [value(r, depth + 1) for _ in range(r.randint(0, 3))]
    return {key(r): value(r, depth + 1) for _ in range(r.randint(0, 3))}


def key(r):
    return (
        r.choice(["a", "b", "location", "城市", "x y", "", "k-1", "A", "_z", "Ünï", "query", "n", 'q"', "é", "😀", "10", "line\nbreak"])
        if r.random() < 0.4
        else r.choice(["a", "b", "location", "query", "n", "top_k", "flag", "items"])
    )


def jdump(r, v):
    """JSON in one of the ways people write it."""
    k = r.random()
    if k < 0.5:
        return json.dumps(v, ensure_ascii=False)
    if k < 0.7:
        return json.dumps(v)
    if k < 0.8:
        return json.dumps(v, indent=r.choice([1, 2, 4]), ensure_ascii=False)
    if k < 0.9:
        return json.dumps(v, separators=(",", ":"), ensure_ascii=r.random() < 0.5)
    return r.choice([" ", "\n", "\t", ""]) + json.dumps(v, ensure_ascii=False) + r.choice([" ", "\n", "\r\n", ""])


def broken(r, s):
    k = r.randint(0, 9)
    i = r.randint(0, max(0, len(s) - 1))
    if k == 0:
        return s[:i]
    if k == 1:
        return s[:i] + s[i + 1 :]
    if k == 2:
        return s + r.choice(["}", "]", ",", " x", "\x00", "\u00a0", "\ufeff"])
    if k == 3:
        return s.replace('"', "'")
    if k == 4:
        return "\ufeff" + s
    if k == 5:
        return s.replace(":", ": NaN,", 1) if r.random() < 0.5 else s.replace("true", "True")
    if k == 6:
        return s.replace("\\n", "\n")
    if k == 7:
        return s[:i] + r.choice(["\\ud800", "\\u12", "\\x", "\t", "\\", "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "-", "+1", "1e5", "1E+3", "-0"]) + s[i:]
    if k == 8:
        return r.choice(
            [
                "",
                "null",
                "true",
                "3",
                '"s"',
                "[]",
                "{}",
                "[[]]",
                "[null]",
                "NaN",
                "[1,]",
                "{,}",
                '{"name":"f"}',
                '{"arguments":{}}',
                '[{"name":"f","arguments":{}},3]',
            ]
        )
    return s.replace("{", "", 1)


NAMES = ["get_weather", "search", "add", "f", "查询", "a.b", "x-y", "A1", "tool name", "get", "_p", "é"]


def name(r):
    return r.choice(NAMES[:4]) if r.random() < 0.75 else r.choice(NAMES)


def args(r):
    k = r.random()
    if k < 0.10:
        return {}
    if k < 0.16:
        return r.choice([None, [], [1, "z"], "text", 5, True, 1.5, ""])
    return {key(r): value(r, 1) for _ in range(r.randint(1, 4))}


def call(r):
    d = {"name": name(r), "arguments": args(r)}
    if r.random() < 0.05:
        d["id"] = "call_1"
    if r.random() < 0.1:
        d = dict(reversed(list(d.items())))
    if r.random() < 0.03:
        d["name"] = r.choice([5, None, ["f"], True, 1.5])
    if r.random() < 0.03:
        d.pop(r.choice(["name", "arguments"]))
    if r.random() < 0.06:
        d["arguments"] = jdump(r, d.get("arguments"))
    return d


def function(r, tw=("<think>\n", "\n</think>\n\n"), cw=("<tool_call>", "</tool_call>")):
    """The content of a function message."""
    n = 1 if r.random() < 0.6 else r.randint(0, 4)
    calls = [call(r) for _ in range(n)]
    s = jdump(r, calls[0] if n == 1 and r.random() < 0.6 else calls)
    k = r.random()
    if k < 0.08:
        s = broken(r, s)
    k = r.random()
    if k < 0.55:
        return s
    if k < 0.70:
        return tw[0] + text(r) + tw[1] + s
    if k < 0.80:
        return r.choice(["", text(r), tw[0] + "h" + tw[1]]) + cw[0] + s + cw[1] + r.choice(["", text(r)])
    if k < 0.85:
        return s + tw[0] + text(r) + tw[1]
    if k < 0.90:
        return cw[0] + "\n" + s + "\n" + cw[1] + "\n" + cw[0] + s + cw[1]
    if k < 0.95:
        return tw[0] + "a" + tw[1] + s + tw[0] + "a" + tw[1]
    return tw[0] + "unclosed" + s


def schema(r, depth=0):
    d = {}
    if r.random() < 0.9:
        d["type"] = r.choice(["string", "integer", "number", "boolean", "array", "object", "straße"]) if r.random() < 0.9 else r.choice([["string", "null"], None, 5])
    if r.random() < 0.8:
        d["description"] = text(r, 0, 5) if r.random() < 0.95 else r.choice([None, 3, ["a"], True])
    if r.random() < 0.2:
        d["enum"] = r.choice([["a", "b"], ["a"], [], [1, 2], "abc", ["x", None], {"k": 1}])
    if r.random() < 0.2:
        d["items"] = r.choice([{"type": "string"}, {}, {"description": "x"}, {"type": ["a", "b"]}, {"type": None}, [1], "s"]) if r.random() < 0.8 else schema(r)
    if r.random() < 0.1:
        d["default"] = value(r)
    if depth < 2 and r.random() < 0.1:
        d["properties"] = {key(r): schema(r, depth + 1)}
    return d


def tool(r):
    f = {"name": name(r)}
    if r.random() < 0.85:
        f["description"] = text(r, 0, 6) if r.random() < 0.95 else r.choice([None, 5, ["a", "b\"'"], {"k": "v"}])
    if r.random() < 0.95:
        props = {key(r): schema(r) for _ in range(r.randint(0, 3))}
        p = {"type": "object", "properties": props}
        if r.random() < 0.6:
            p["required"] = r.choice([list(props)[:1], list(props), [], ["zz", "a"]]) if r.random() < 0.9 else r.choice([None, "a location", {"a": 1}, [1, None], True])
        if r.random() < 0.06:
            p.pop(r.choice(["type", "properties"]))
        if r.random() < 0.03:
            p = r.choice([None, {}, [], "p"])
        f["parameters"] = p
    if r.random() < 0.1:
        f["response"] = r.choice(
            [
                {"description": "d", "type": "object"},
                {"type": "string"},
                {"description": ""},
                {},
                {"description": text(r), "type": "Object"},
                "s",
                {"type": None},
            ]
        )
    if r.random() < 0.03:
        f["name"] = r.choice([5, None, ["a"]])
    if r.random() < 0.02:
        f.pop("name")
    k = r.random()
    if k < 0.35:
        return {"type": "function", "function": f}
    if k < 0.38:
        return {"type": "function", **f}
    if k < 0.40:
        return {"function": f}
    if k < 0.42:
        return {"type": "Function", "function": f}
    return f


def tools(r):
    """The JSON of tools."""
    k = r.random()
    if k < 0.04:
        return r.choice(["[]", "{}", '""', "null", "5", "true", '"text"', "[[]]", "[null]", "[1]", '["s"]', "not json", " ", "[{}]", '{"name": "f"}', "[]\n"])
    n = 1 if r.random() < 0.6 else r.randint(1, 3)
    s = jdump(r, [tool(r) for _ in range(n)])
    return broken(r, s) if r.random() < 0.03 else s


def system(r):
    k = r.random()
    if k < 0.4:
        return None
    if k < 0.5:
        return ""
    if k < 0.6:
        return text(r, 40, 120)
    if k < 0.65:
        return r.choice(["\n", " ", "detailed thinking on", "{{content}}", "a\n\n"])
    return text(r)


def conversation(r, tw, cw, turns=None):
    n = turns or (r.randint(1, 3) if r.random() < 0.75 else r.randint(4, 9))
    out = []
    for i in range(n):
        role = "observation" if i and out[-1]["role"] == "function" and r.random() < 0.95 else ("user" if r.random() < 0.98 else "observation")
        c = text(r)
        if role == "observation" and r.random() < 0.6:
            c = jdump(r, value(r))
        out.append({"role": role, "content": c})
        k = r.random()
        if k < 0.25:
            out.append({"role": "function", "content": function(r, tw, cw)})
        elif k < 0.5:
            out.append({"role": "assistant", "content": thoughtful(r, tw)})
        else:
            out.append({"role": "assistant", "content": text(r)})
    k = r.random()
    if k < 0.01:
        out.append({"role": "user", "content": "x"})
    elif k < 0.015:
        out[r.randrange(len(out))]["role"] = r.choice(["system", "tool", ""])
    elif k < 0.02:
        out = []
    elif k < 0.03 and len(out) > 2:
        out[0]["role"], out[1]["role"] = "assistant", "user"
    return out
