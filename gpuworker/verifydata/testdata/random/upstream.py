"""LLaMA-Factory as make.py runs it: from its checkout, on a fixed date, with templates that arguments do not change for good."""

import copy
import json
import logging
import os
import sys
import warnings
from datetime import datetime
from types import SimpleNamespace

CHECKOUT, DATA = sys.argv[1:3]
sys.path.insert(0, CHECKOUT + "/src")
os.environ.update(DISABLE_VERSION_CHECK="1", TRANSFORMERS_VERBOSITY="error", LLAMAFACTORY_VERBOSITY="ERROR")

from llamafactory.data import template as T  # noqa: E402
from llamafactory.data import tool_utils as TU  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2)


TU.datetime = Frozen
ORIGINAL = copy.deepcopy(T.TEMPLATES)
_tok = {}


def args(template, **kw):
    d = dict(
        template=template,
        train_on_prompt=False,
        tool_format=None,
        default_system=None,
        enable_thinking=True,
        preserve_thinking=False,
        cutoff_len=512,
        mask_history=False,
        packing=False,
        neat_packing=False,
    )
    d.update(kw)
    return d


def load(name):
    return AutoTokenizer.from_pretrained(DATA + "/tokenizers/" + name, padding_side="right")  # as upstream loads it


def opened(template, tok, a):
    """A fresh template under arguments and its tokenizer, cached by template and tokenizer: arguments don't change the tokenizer."""
    T.TEMPLATES[template] = copy.deepcopy(ORIGINAL[template])
    k = (template, tok)
    if k not in _tok:
        if len(_tok) > 6:
            _tok.clear()
        _tok[k] = load(tok)
        _tok[k].before = dict(_tok[k].get_vocab())
    t = T.get_template_and_fix_tokenizer(_tok[k], SimpleNamespace(**a))
    return t, _tok[k]


class Seg:
    """A tokenizer that records segments."""

    def __init__(self, t):
        self.t = t

    def encode(self, s, add_special_tokens=False):
        return [["text", s]]

    def convert_tokens_to_ids(self, s):
        return ["token", s]

    @property
    def bos_token_id(self):
        return None if self.t.bos_token_id is None else ["bos", self.t.bos_token]

    @property
    def eos_token_id(self):
        return None if self.t.eos_token_id is None else ["eos", self.t.eos_token]


def err(e):
    return f"{type(e).__name__}: {e}"[:200].encode("utf-8", "replace").decode()


class Writer:
    """Writes files of rows. Rows of more than `most` bytes are left out, as are those whose half surrogates UTF-8 does not have."""

    def __init__(self, root, most):
        self.root, self.most = root, most

    def write(self, path, rows):
        lines = []
        for x in rows:
            try:
                line = json.dumps(x, ensure_ascii=False).encode() + b"\n"
            except UnicodeEncodeError:
                continue
            if len(line) <= self.most:
                lines.append(line)
        if lines:
            p = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(p), exist_ok=True)
            with open(p, "wb") as f:
                f.writelines(lines)
