"""Rows of templates/: every template and tool format with random conversations."""

import copy
import json

import inputs as rnd
from upstream import ORIGINAL, TU, Seg, T, args, err, opened


QWEN = [x for x in ORIGINAL if x.startswith(("qwen", "chatml"))]
REAL = {
    "llama2": "alpaca intern2 llama2 llama2_zh ministral mistral mistral_small openchat solar vicuna yi zephyr".split(),
    "qwen3": "chatglm3 chatml glm4 glmz1 gpt_oss phi4 phi4_mini qwen qwen3 qwen3_5 qwen3_nothink glm4_7 moss_vl hunyuan_small".split(),
    "llama3": "cohere default empty gemma gemma2 gemma3 hunyuan llama3 gemma4".split(),
    "deepseek_llm": "deepseek deepseek3 deepseekr1".split(),
    "gpt2": "exaone fewshot granite3 smollm2".split(),
    "falcon": ["falcon"],
    "phi3": ["phi"],
    "llama2_nonlegacy": ["mistral", "llama2"],
}


def added(tok):
    return {k: v for k, v in sorted(tok.get_added_vocab().items(), key=lambda x: x[1]) if k not in tok.before}


def template_row(r, name, tokname, case):
    reasoning = isinstance(ORIGINAL[name], T.ReasoningTemplate)
    think = r.choice([True, True, False, None]) if reasoning else None
    keep = r.random() < 0.3 if reasoning else None
    t, tok = opened(name, tokname, args(name, enable_thinking=think, preserve_thinking=bool(keep)))
    system, tools = rnd.system(r), (rnd.tools(r) if r.random() < 0.4 else None)
    if r.random() < 0.02:
        tools = ""
    messages = rnd.conversation(r, t.thought_words, t.tool_call_words)
    row = {
        "template": name,
        "tokenizer": tokname,
        "case": case,
        "system": system,
        "tools": tools,
        "messages": messages,
        "reasoning_template": reasoning,
        "enable_thinking": think,
        "preserve_thinking": keep,
        "bos_token": tok.bos_token,
        "eos_token": tok.eos_token,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        "added_tokens": added(tok),
    }
    m = lambda: copy.deepcopy(messages)
    join = lambda s: "".join(x[1] for x in s)
    seg = Seg(tok)
    try:
        o = t.encode_oneturn(seg, m(), system, tools)
        oi = t.encode_oneturn(tok, m(), system, tools)
        s = t.encode_multiturn(seg, m(), system, tools)
        si = t.encode_multiturn(tok, m(), system, tools)
        row["oneturn_text"] = [join(x) for x in o]
        row["turns_text"] = [[join(x) for x in p] for p in s]
        if tokname.startswith("tiny_"):
            row["turns_segments"] = [list(p) for p in s]
        row["turns_ids"] = [list(p) for p in si]
        row["oneturn_ids"] = list(oi)
        if reasoning:
            d = t.encode_multiturn(seg, m(), system, tools, True)
            di = t.encode_multiturn(tok, m(), system, tools, True)
            row["discard_history_cot"] = {"turns_text": [[join(x) for x in p] for p in d], "turns_ids": [list(p) for p in di]}
    except Exception as e:
        for k in ("oneturn_text", "turns_text", "turns_segments", "turns_ids", "oneturn_ids", "discard_history_cot"):
            row.pop(k, None)
        row["error"] = err(e)
    return row


def meta_row(name, tokname):
    o = ORIGINAL[name]
    T.TEMPLATES[name] = copy.deepcopy(o)
    t, tok = opened(name, tokname, args(name))
    t = copy.deepcopy(o)
    row = {
        "template": name,
        "template_class": type(t).__name__,
        "tokenizer": tokname,
        "default_system": t.default_system,
        "stop_words": t.stop_words,
        "thought_words": list(t.thought_words),
        "tool_call_words": list(t.tool_call_words),
        "efficient_eos": t.efficient_eos,
        "replace_eos": t.replace_eos,
        "replace_jinja_template": t.replace_jinja_template,
        "default_enable_thinking": t.enable_thinking,
        "bos_token": tok.bos_token,
        "bos_token_id": tok.bos_token_id,
        "eos_token": tok.eos_token,
        "eos_token_id": tok.eos_token_id,
        "pad_token": tok.pad_token,
        "pad_token_id": tok.pad_token_id,
        "added_tokens": added(tok),
        "stop_token_ids": sorted(t.get_stop_token_ids(tok)),
    }
    try:
        row["jinja_template"] = t._get_jinja_template(tok)
    except ValueError:
        row["jinja_template"] = None
    row["ollama_modelfile"] = None
    if tokname.startswith("tiny_"):
        try:
            row["ollama_modelfile"] = t.get_ollama_modelfile(tok)
        except ValueError:
            pass
    return row


def slim(row):
    """Without the fields that only help people."""
    for k in ("oneturn_text", "turns_text", "turns_segments"):
        row.pop(k, None)
    return row


def some_templates(w, r, n):
    """One short case of n templates."""
    for name in sorted(r.sample(sorted(ORIGINAL), n)):
        row = {"turns_ids": "x" * 2000}
        while "error" in row or len(json.dumps(row)) > 2000:
            row = slim(template_row(r, name, "tiny_qwen" if name in QWEN else "tiny_llama3", "random"))
        w.write(f"templates/{name}.jsonl", [row])


def templates(w, r, n, nreal):
    meta = []
    for name in ORIGINAL:
        rows = []
        toks = ["tiny_qwen" if name in QWEN else "tiny_llama3"] + [k for k, v in REAL.items() if name in v]
        if r.random() < 0.15:
            toks.append("tiny_llama3" if name in QWEN else "tiny_qwen")
        for tk in toks:
            for i in range(n if tk.startswith("tiny") else nreal):
                rows.append(template_row(r, name, tk, f"random_{i}"))
            meta.append(meta_row(name, tk))
        w.write(f"templates/{name}.jsonl", rows)
    w.write("templates/templates_meta.jsonl", meta)


WRAP = {
    "default": "Action: {n}\nAction Input: {a}",
    "gemma4": "<|tool_call>call:{n}{{{a}}}<tool_call|>",
    "glm4": "{n}\n{a}",
    "llama3": '{{"name": "{n}", "parameters": {a}}}',
    "mistral": '[{{"name": "{n}", "arguments": {a}}}]',
    "qwen": '<tool_call>\n{{"name": "{n}", "arguments": {a}}}\n</tool_call>',
    "minimax1": '<tool_calls>\n{{"name": "{n}", "arguments": {a}}}\n</tool_calls>',
    "lfm2": "<|tool_call_start|>[{n}({p})]<|tool_call_end|>",
}


def pyvalue(r, d=0):
    k = r.random()
    if d < 2 and k < 0.12:
        return "[" + ", ".join(pyvalue(r, d + 1) for _ in range(r.randint(0, 3))) + r.choice(["", "", ","]) + "]"
    if d < 2 and k < 0.2:
        return "{" + ", ".join(pyvalue(r, 3) + ": " + pyvalue(r, d + 1) for _ in range(r.randint(0, 2))) + "}"
    if d < 2 and k < 0.25:
        return "(" + ", ".join(pyvalue(r, d + 1) for _ in range(r.randint(0, 2))) + r.choice(["", ","]) + ")"
    if k < 0.45:
        return repr(rnd.text(r, 0, 3))
    if k < 0.55:
        return json.dumps(rnd.text(r, 0, 3), ensure_ascii=r.random() < 0.5)
    return r.choice(
        [
            "1",
            "-1",
            "+2",
            "1.5",
            "-0.0",
            "1e5",
            "1_000",
            "0x1F",
            "0b11",
            "0o17",
            "True",
            "False",
            "None",
            "true",
            "false",
            "null",
            "foo",
            "a.b",
            "1+2",
            "2j",
            "1+2j",
            "b'x'",
            "r'a\\n'",
            "u'x'",
            "f'x'",
            "'a' 'b'",
            "'''l\nm'''",
            "{1, 2}",
            "set()",
            "-True",
            "not x",
            "[]",
            "{}",
            "()",
            "''",
            "1e999",
            "007",
            "00",
            "1.",
            ".5",
            "--1",
            "- 1",
            "lambda: 0",
            "x[0]",
            "f(1)",
            "...",
            "'\\x41\\u00e9'",
            "'\\q'",
            "[true]",
            "{'a': null}",
            "10**3",
            "'a'\"b\"",
            "1 if x else 2",
        ]
    )


def pycall(r):
    parts = []
    for _ in range(r.randint(0, 3)):
        k = r.random()
        if k < 0.8:
            parts.append(r.choice(["a", "b", "c_d", "城市", "location", "q"]) + r.choice(["=", " = "]) + pyvalue(r))
        elif k < 0.92:
            parts.append(pyvalue(r))
        elif k < 0.96:
            parts.append("*x")
        else:
            parts.append("**" + pyvalue(r))
    return (
        r.choice(["get_weather", "f", "查询", "a.b", "f()", "_x", "get weather"] if r.random() < 0.2 else ["search", "f"])
        + r.choice(["", "", " "])
        + "("
        + r.choice([", ", ",", ",\n "]).join(parts)
        + r.choice(["", "", "", ","])
        + ")"
    )


def extract_text(r, fmt):
    """Text for an extractor, built by its format or by hand."""
    k = r.random()
    if fmt == "lfm2" and k < 0.75:
        calls = [pycall(r) for _ in range(r.randint(0, 3))]
        s = ", ".join(calls)
        if len(calls) != 1 or r.random() < 0.8:
            s = "[" + s + r.choice(["", "", ","]) + "]"
        return (
            r.choice(["", rnd.text(r)])
            + "<|tool_call_start|>"
            + r.choice(["", "\n", " "])
            + s
            + r.choice(["", "\n", " # c"])
            + "<|tool_call_end|>"
            + r.choice(["", rnd.text(r)])
        )
    utils = TU.TOOLS[fmt]
    calls = [TU.FunctionCall(rnd.name(r), json.dumps(rnd.args(r), ensure_ascii=False)) for _ in range(r.randint(1, 3))]
    if fmt == "glm4":
        calls = calls[:1]
    try:
        s = utils.function_formatter(calls)
    except Exception:
        s = "Action: f\nAction Input: {}"
    if fmt == "minimax2" and r.random() < 0.9:
        s = "<minimax:tool_call>" + r.choice(["\n", ""]) + s + r.choice(["\n", ""]) + "</minimax:tool_call>"
    if fmt == "gemma4" and r.random() < 0.5:
        s = (
            "<|tool_call>call:"
            + rnd.name(r)
            + "{"
            + r.choice(
                [
                    rnd.jdump(r, rnd.value(r)),
                    'a:1,b:<|"|>x:y<|"|>',
                    "a:{b:1},c:[1,2]",
                    " ",
                    'a: <|"|>x',
                    "a:tru",
                    '"a":1',
                    '<|"|>k<|"|>:true',
                    rnd.text(r),
                ]
            )
            + "}<tool_call|>"
            + r.choice(["", s])
        )
    if fmt in ("qwen", "glm4_moe", "ling") and r.random() < 0.3:
        s = "\n".join("<tool_call>" + r.choice(["\n", "", " "]) + rnd.jdump(r, rnd.call(r)) + r.choice(["\n", ""]) + "</tool_call>" for _ in range(r.randint(1, 3)))
    if fmt in ("qwen", "glm4_moe", "ling") and r.random() < 0.06:
        s = "<tool_call>" + r.choice(['"name"', '"name arguments"', '["name"]', '["name", "arguments"]', "[]", "null", "1", "true", '""', "{}", "", " "]) + "</tool_call>"
    if fmt in ("llama3", "mistral") and r.random() < 0.3:
        s = rnd.jdump(
            r,
            r.choice([rnd.call(r), [rnd.call(r), rnd.call(r)], rnd.value(r), [rnd.value(r)], {"name": "f", "parameters": rnd.args(r)}, [{"name": "f"}, 5]]),
        )
    if fmt == "minimax1" and r.random() < 0.3:
        s = "<tool_calls>" + "\n".join(rnd.jdump(r, r.choice([rnd.call(r), rnd.value(r)])) for _ in range(r.randint(0, 3))) + "</tool_calls>"
    if fmt == "default" and r.random() < 0.5:
        s = "".join(
            r.choice(["Action:", "Action: ", "Action:\n", "action: "])
            + rnd.name(r)
            + r.choice(["\n", " ", "", "\u00a0"])
            + r.choice(["Action Input:", "Action Input: ", "Action Input:\n"])
            + r.choice(["", '"', "```", "`", "``` "])
            + rnd.jdump(r, rnd.args(r))
            + r.choice(["", '"', "```", "\n```", "\n"])
            + r.choice(["", "\n"])
            for _ in range(r.randint(1, 3))
        )
    if k > 0.9:
        s = rnd.broken(r, s)
    elif k > 0.82:
        i = r.randint(0, len(s))
        s = s[:i] + rnd.text(r) + s[i:]
    elif k > 0.74:
        s = r.choice([rnd.text(r), "\n", " ", "\u00a0"]) + s
    elif k > 0.66:
        s += r.choice([rnd.text(r), "\n", " ", "\u2028", "\x1c"])
    elif k > 0.64:
        s = rnd.text(r)
    elif k > 0.60:
        i, j = sorted(r.randint(0, len(s)) for _ in range(2))
        s = s[:i] + s[j:]
    return s


def tool_utils(w, r, n):
    rows = []
    for fmt, u in TU.TOOLS.items():
        for _ in range(n):
            tools = rnd.tools(r)
            row = {"kind": "tool_formatter", "tool_format": fmt, "tools": tools, "date": "02 Jan 2025"}
            try:
                v = json.loads(tools)
                row.update(output=u.tool_formatter(v) if len(v) != 0 else "", error=None)
                row["output"].encode()
            except Exception as e:
                row.pop("output", None)
                row["error"] = err(e)
            rows.append(row)
        for _ in range(n):
            calls = [
                [rnd.name(r), rnd.jdump(r, rnd.args(r)) if r.random() < 0.2 else json.dumps(rnd.args(r), ensure_ascii=False)]
                for _ in range(1 if r.random() < 0.6 else r.randint(0, 3))
            ]
            if calls and r.random() < 0.06:
                calls[0][1] = rnd.broken(r, calls[0][1])
            row = {"kind": "function_formatter", "tool_format": fmt, "calls": calls}
            try:
                o = u.function_formatter([TU.FunctionCall(*c) for c in calls])
                x = u.tool_extractor(o)
                row["output"] = o
                row["extracted"] = x if isinstance(x, str) else [list(c) for c in x]
                json.dumps(row, ensure_ascii=False).encode()
            except Exception as e:
                row.pop("output", None)
                row.pop("extracted", None)
                row["error"] = err(e)
            rows.append(row)
        for _ in range(n * 2):
            s = extract_text(r, fmt)
            row = {"kind": "tool_extractor", "tool_format": fmt, "content": s}
            try:
                x = u.tool_extractor(s)
                row["extracted"] = x if isinstance(x, str) else [list(c) for c in x]
                json.dumps(row, ensure_ascii=False).encode()
            except Exception as e:
                row.pop("extracted", None)
                row["error"] = err(e)
            rows.append(row)
    w.write("templates/tool_utils.jsonl", rows)
