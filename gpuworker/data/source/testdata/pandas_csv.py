"""Writes csv.jsonl: what pandas reads in made-up CSV files (dtype=str, everything else default, as datasets has it).

python pandas_csv.py > csv.jsonl

Each line: {text, columns, rows} with null for missing values, or {text, error}.
"""
import io, json, random, re

import pandas as pd

r = random.Random(5)
BITS = ['"', '""', ",", "\n", "\r\n", "\r", " ", "\t", "a", "b c", "中", "NA", "nan", "None", "1", '"x"', '"y,z"', '"p\nq"', '"', "'", ";", "''", '"k""l"', "\\"]


def value():
    k = r.random()
    if k < 0.4:
        return r.choice(["a", "b c", "中文", "NA", "", "1.5", " x ", "it's", "null", "None "])
    if k < 0.6:
        return '"' + "".join(r.choice(["a", "b c", ",", "\n", '""', "中", " "]) for _ in range(r.randint(0, 4))) + '"'
    return "".join(r.choice(BITS) for _ in range(r.randint(0, 3)))


def file():
    n = r.randint(1, 3)
    ends = r.choice(["\n", "\n", "\r\n", "\r"])
    lines = [",".join("abc"[:n])]
    for _ in range(r.randint(0, 5)):
        lines.append(",".join(value() for _ in range(n + r.choice([0] * 12 + [-1, 1]))))
        if r.random() < 0.1:
            lines.append(r.choice(["", "  ", "\t"]))
    return ends.join(lines) + r.choice(["", ends, ends + ends])


seen = set()
while len(seen) < 500:
    t = file()
    if t in seen or re.search(r"[\r\n][ \t]*\r,", t):
        continue  # pandas loses the comma behind an empty line that ends with a carriage return
    seen.add(t)
    try:
        d = pd.read_csv(io.StringIO(t, newline=""), dtype=str)
        if not isinstance(d.index, pd.RangeIndex):
            raise ValueError("the first row is longer than the header: pandas takes columns for an index")
        rows = [[None if pd.isna(x) else x for x in row] for row in d.values.tolist()]
        print(json.dumps({"text": t, "columns": list(d.columns), "rows": rows}, ensure_ascii=False))
    except Exception as e:
        print(json.dumps({"text": t, "error": str(e)[:100]}, ensure_ascii=False))
