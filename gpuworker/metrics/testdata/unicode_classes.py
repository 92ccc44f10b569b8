"""Writes the Go file of characters that the regex package (sacrebleu's) has in a class and Go's older Unicode has not.

usage: unicode_classes.py < classes > ../unicodeclasses.go, classes being a line "hex class" of each character that Go has in P, S or N.
"""

import sys

import regex

go = {}
for line in sys.stdin:
    code, name = line.split()
    go[int(code, 16)] = name
print("package metrics")
print("\n// Characters that are newer than Go's Unicode, for character classes: what the regex package", regex.__version__, "has beside Go's.")
print("// testdata/unicode_classes.py writes this file.\nconst (")
for name, what in ("N", "numbers"), ("P", "punctuation"), ("S", "symbols"):
    of = regex.compile(r"\p{%s}" % name)
    new = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and of.match(chr(c)) and go.get(c) != name]
    assert all(of.match(chr(c)) for c, n in go.items() if n == name)
    ranges = []
    for c in new:
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    parts = [rf"\x{{{a:x}}}" if a == b else rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ranges]
    lines = ["`%s`" % "".join(parts[i : i + 6]) for i in range(0, len(parts), 6)]
    print(f"\t// new{name} are {what}.\n\tnew{name} = " + " +\n\t\t".join(lines))
print(")")
