"""LLaMA-Factory's own preprocessing of a YAML, for the benchmark: python llamafactory_prep.py train.yaml [--digest].

Prints one JSON line: seconds of get_dataset alone (imports and the tokenizer come before), rows, sequences and tokens; with --digest a SHA-256
over ids and labels of all sequences without their padding, as the benchmark takes it of tunefleet's shards.
"""

import hashlib
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["DISABLE_VERSION_CHECK"] = "1"

from importlib.metadata import version  # noqa: E402

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_tokenizer  # noqa: E402


def main():
    with open(sys.argv[1]) as f:
        config = yaml.safe_load(f)
    config.pop("pool", None)
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(config)
    module = load_tokenizer(model_args)
    tokenizer = module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    start = time.perf_counter()
    data = get_dataset(template, model_args, data_args, training_args, stage=finetuning_args.stage, **module)["train_dataset"]
    seconds = time.perf_counter() - start
    digest, tokens = hashlib.sha256(), 0
    columns = data.with_format("numpy")
    for batch in columns.iter(batch_size=200) if "--digest" in sys.argv else []:
        for i, ids in enumerate(batch["input_ids"]):
            ids = np.asarray(ids)
            n = len(ids)
            if "position_ids" in batch:
                positions = np.asarray(batch["position_ids"][i])
                while n > 1 and ids[n - 1] == tokenizer.pad_token_id and positions[n - 1] == 0:
                    n -= 1
            digest.update(ids[:n].astype("<i4").tobytes())
            digest.update(np.asarray(batch["labels"][i])[:n].astype("<i4").tobytes())
            tokens += n
    print(json.dumps({"version": version("llamafactory"), "seconds": seconds, "sequences": len(data), "tokens": tokens,
                      "digest": digest.hexdigest() if "--digest" in sys.argv else ""}))


main()
