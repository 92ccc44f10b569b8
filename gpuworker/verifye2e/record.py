"""Records runs of LLaMA-Factory for `tunefleet verify e2e`: python record.py DIR... Each DIR holds a train.yaml with logging_steps: 1, or a predict.yaml.

Runs LLaMA-Factory on the CPU in each folder and writes full_log.jsonl there: a line for each call of Trainer.log, with the loss before it is
rounded. `go tool task llamafactory` makes the Python.
"""

import json
import os
import sys
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
os.environ["WANDB_DISABLED"] = "true"

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402

Trainer = transformers.Trainer


def record(path):
    """Makes Trainer write what it logs to path."""
    out = open(path, "w")
    exact = {}
    log, step = Trainer.log, Trainer._maybe_log_save_evaluate

    def maybe(self, tr_loss, *args, **kwargs):
        if self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            exact["loss"] = tr_loss.detach().float().mean().item() / (self.state.global_step - self._globalstep_last_logged)
        return step(self, tr_loss, *args, **kwargs)

    def logged(self, logs, *args, **kwargs):
        line = {"step": self.state.global_step, "epoch": self.state.epoch}
        if "loss" in logs and "loss" in exact:
            line["loss_exact"] = exact.pop("loss")
        line.update({k: v for k, v in logs.items() if isinstance(v, (int, float))})
        out.write(json.dumps(line) + "\n")
        out.flush()
        return log(self, logs, *args, **kwargs)

    Trainer.log, Trainer._maybe_log_save_evaluate = logged, maybe


def run(folder):
    os.chdir(folder)
    with open("train.yaml" if os.path.exists("train.yaml") else "predict.yaml") as f:
        config = yaml.safe_load(f)
    torch.set_num_threads(1)  # two threads that wait for each other are slow on a busy machine
    record("full_log.jsonl")
    run_exp(config)


def main():
    failed = 0
    for folder in sys.argv[1:]:
        if not any(os.path.exists(os.path.join(folder, n)) for n in ("train.yaml", "predict.yaml")):
            continue  # data and models lie beside the runs
        pid = os.fork()  # a fresh state for each run, without importing everything again
        if pid == 0:
            try:
                run(folder)
            except BaseException:
                traceback.print_exc()
                print(f"{folder}: failed", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        failed += os.waitpid(pid, 0)[1] != 0
    sys.exit(1 if failed else 0)


main()
