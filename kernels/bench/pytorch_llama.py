"""One PyTorch + transformers training run of the bench model; prints one JSON line.

The yardstick of `go tool task bench`: the same llama, batch, optimizer and clipping as `tunefleet bench`, in float32 on the CPU.
Times count from the start of the process (imports included), as a user waits: ready_s until the first step begins, first_step_s until it ends.
"""
import time

START = time.time()
import argparse
import json
import os
import resource
import statistics


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--process-start", type=float, default=START, help="unix time at which the driver started this process")
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    os.environ["MKL_NUM_THREADS"] = str(a.threads)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    cfg = LlamaConfig(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1408,
                      vocab_size=8192, max_position_embeddings=512, tie_word_embeddings=False, use_cache=False)
    model = LlamaForCausalLM(cfg).train()
    step_model = torch.compile(model) if a.compile else model
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    losses, times, first, ready = [], [], None, None
    for step in range(a.steps + 1):
        ids = torch.randint(0, cfg.vocab_size, (4, 512), generator=torch.Generator().manual_seed(step))
        t = time.time()
        if step == 0:
            ready = t - a.process_start
        loss = step_model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step == 0:
            first = time.time() - a.process_start
        else:
            times.append(time.time() - t)
    print(json.dumps({
        "name": "torch.compile" if a.compile else "torch eager", "version": torch.__version__, "threads": a.threads,
        "parameters": sum(x.numel() for x in model.parameters()), "ready_s": ready, "first_step_s": first, "step_s": times,
        "tokens_per_second": 4 * 512 / statistics.median(times),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "losses": losses,
    }))


if __name__ == "__main__":
    main()
