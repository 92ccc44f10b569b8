"""Writes a folder of the layout of fixtures/data (templates, sft, pt, pairwise, kto) with random inputs and what LLaMA-Factory makes of them.

usage: make.py LLAMA_FACTORY_CHECKOUT FIXTURES_DATA OUT [SEED [SIZE]]

FIXTURES_DATA holds the tokenizers. SIZE is "small" (what is committed as golden: small selections) or "large". Needs the packages of
LLaMA-Factory (ff6d4d12 with transformers 4.57.6 and datasets 4.0.0 made golden/, with seed 6). Where LLaMA-Factory raises an exception, a row has `error`.
"""

import random
import sys

from rows_processors import pref, pt, sft
from rows_templates import some_templates, templates, tool_utils
from upstream import Writer

OUT = sys.argv[3]
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else 1
SMALL = len(sys.argv) <= 5 or sys.argv[5] == "small"


def main():
    w, r = Writer(OUT, 20000 if SMALL else sys.maxsize), random.Random(SEED)
    if SMALL:
        tool_utils(w, r, 2)
        some_templates(w, r, 24)
        sft(w, r, 10, 3, 40)
        pt(w, r, 3, 2)
        pref(w, r, 5, 1)
    else:
        tool_utils(w, r, 250)
        templates(w, r, 16, 8)
        sft(w, r, 140, 30)
        pt(w, r, 25)
        pref(w, r, 140, 15)


main()
