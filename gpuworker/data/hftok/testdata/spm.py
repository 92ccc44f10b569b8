"""Writes spm.model and spm.json: a small SentencePiece model and what transformers' LlamaTokenizerFast makes of it.

usage: spm.py TEXT_FILE (needs sentencepiece, protobuf and transformers 4.57)
"""
import io
import json
import os
import sys
import tempfile

import sentencepiece
from transformers import LlamaTokenizerFast

here = os.path.dirname(os.path.abspath(__file__))
model = os.path.join(here, "spm.model")
written = io.BytesIO()  # no path ends up in the model
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(open(sys.argv[1])), model_writer=written, model_type="bpe", vocab_size=600, byte_fallback=True, character_coverage=0.995,
    normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
    user_defined_symbols=["<|user|>"], minloglevel=2)
with open(model, "wb") as f:
    f.write(written.getvalue())
texts = ["", " ", "Hello world", "  two  spaces ", "train a model on a queue", "runs\n\nand lines\t", "中文 und Ümläute 😀", "<s> a</s><unk>", "a<|user|>b <|user|> c", "12345 3.14",
         "The worker resumes from the last checkpoint, bit for bit.", "▁x ▁▁ y", "\x00\x01", "snake_case CamelCase kebab-case", "    indent"]
out = []
for legacy in (True, False):
    with tempfile.TemporaryDirectory() as d:
        with open(model, "rb") as f, open(os.path.join(d, "tokenizer.model"), "wb") as g:
            g.write(f.read())
        config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
        with open(os.path.join(d, "tokenizer_config.json"), "w") as f:
            json.dump(config, f)
        t = LlamaTokenizerFast.from_pretrained(d)
        t.save_pretrained(d)
        with open(os.path.join(d, "tokenizer.json")) as f:
            merges = json.load(f)["model"]["merges"]
        rows = [{"text": x, "ids": t.encode(x, add_special_tokens=False), "special": t.encode(x), "decode": t.decode(t.encode(x))} for x in texts]
        out.append({"config": config, "size": len(t), "merges": len(merges), "last_merge": merges[-1], "rows": rows})
with open(os.path.join(here, "spm.json"), "w") as f:
    json.dump(out, f, ensure_ascii=False, indent=1)
