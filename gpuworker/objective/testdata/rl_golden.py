"""Writes rl_golden.json: losses and gradients of PPO and GRPO on fixed log-probabilities, by TRL 0.24.0.

Needs trl 0.24.0, datasets 4.0.0, torch 2.9.1, transformers 4.57.6. GRPO's losses are GRPOTrainer._compute_loss itself, with a model whose
log-probabilities are given; PPO's are the lines of PPOTrainer.train with trl.core's functions, since they are not a function of their own.
"""
import json
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl.core import masked_mean, masked_whiten
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.ppo_trainer import INVALID_LOGPROB

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
out = {"grpo": [], "ppo": [], "advantages": []}
B, T = 6, 7
lens = [7, 3, 5, 1, 4, 6]
mask = torch.tensor([[1 if t < n else 0 for t in range(T)] for n in lens])


def rows(x, n=None):
    return [r[: (n or lens)[i]].tolist() for i, r in enumerate(x)]


class Fake(SimpleNamespace):
    def __getattr__(self, name):
        raise AttributeError(name)


for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
    for beta, have_old in ((0.0, True), (0.04, True), (0.04, False)):
        new = (-torch.rand(B, T) * 2 - 0.1).requires_grad_()
        old = new.detach() + 0.4 * torch.randn(B, T)
        ref = new.detach() + 0.3 * torch.randn(B, T)
        adv = torch.randn(B)
        fake = Fake(
            top_entropy_quantile=1.0, beta=beta, importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.28, use_vllm=False,
            args=SimpleNamespace(delta=None), loss_type=loss_type, current_gradient_accumulation_steps=1, max_completion_length=9,
            accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x), model=SimpleNamespace(training=True),
            _metrics={"train": defaultdict(list)},
        )
        fake._get_per_token_logps_and_entropies = lambda *a, **k: (new, torch.zeros(B, T))
        inputs = dict(prompt_ids=torch.zeros(B, 1, dtype=torch.long), prompt_mask=torch.ones(B, 1), completion_ids=torch.zeros(B, T, dtype=torch.long),
                      completion_mask=mask, advantages=adv, ref_per_token_logps=ref, num_items_in_batch=mask.sum())
        if have_old:
            inputs["old_per_token_logps"] = old
        loss = GRPOTrainer._compute_loss(fake, None, inputs)
        loss.backward()
        out["grpo"].append(dict(loss_type=loss_type, beta=beta, max_len=9, new=rows(new.detach()), old=rows(old if have_old else new.detach()), ref=rows(ref),
                                advantages=adv.tolist(), loss=loss.item(), grad=rows(new.grad)))

# Advantages of groups: GRPOTrainer._generate_and_score_completions, lines after the rewards are summed.
for scale in ("group", "batch", "none"):
    r, g = torch.randn(8), 4
    r[4:] = 0.5 if scale == "group" else r[4:]
    mean = r.view(-1, g).mean(dim=1).repeat_interleave(g, dim=0)
    a = r - mean
    std = r.std().expand_as(r) if scale == "batch" else r.view(-1, g).std(dim=1).repeat_interleave(g, dim=0)
    if scale != "none":
        a = a / (std + 1e-4)
    out["advantages"].append(dict(scale=scale, group=g, rewards=r.tolist(), advantages=a.tolist()))

# PPO.
sequence_lengths = torch.tensor([n - 1 for n in lens])
for whiten, gamma in ((False, 1.0), (True, 0.9)):
    logprobs, ref_logprobs = -torch.rand(B, T) * 2, -torch.rand(B, T) * 2
    values, scores = torch.randn(B, T), torch.randn(B)
    args = SimpleNamespace(kl_coef=0.05, whiten_rewards=whiten, gamma=gamma, lam=0.95, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1)
    idx = torch.arange(T).repeat(B, 1)
    padding_mask = idx > sequence_lengths.unsqueeze(1)
    logprobs = torch.masked_fill(logprobs, padding_mask, INVALID_LOGPROB)
    ref_logprobs = torch.masked_fill(ref_logprobs, padding_mask, INVALID_LOGPROB)
    p1 = sequence_lengths + 1
    padding_mask_p1 = idx > p1.unsqueeze(1)
    values = torch.masked_fill(values, padding_mask_p1, 0)
    kl = -(ref_logprobs - logprobs)
    rewards = (-args.kl_coef * kl).clone()
    actual_end = torch.where(p1 < T, p1, sequence_lengths)
    rewards[[torch.arange(B), actual_end]] += scores
    if whiten:
        rewards = masked_whiten(rewards, mask=~padding_mask_p1, shift_mean=False)
        rewards = torch.masked_fill(rewards, padding_mask_p1, 0)
    last, rev = 0, []
    for t in reversed(range(T)):
        nextvalues = values[:, t + 1] if t < T - 1 else 0.0
        delta = rewards[:, t] + args.gamma * nextvalues - values[:, t]
        last = delta + args.gamma * args.lam * last
        rev.append(last)
    advantages = torch.stack(rev[::-1], axis=1)
    returns = advantages + values
    advantages = masked_whiten(advantages, ~padding_mask)
    advantages = torch.masked_fill(advantages, padding_mask, 0)
    new = (logprobs + 0.3 * torch.randn(B, T)).requires_grad_()
    vpred = (values + 0.3 * torch.randn(B, T)).requires_grad_()
    n2 = torch.masked_fill(new, padding_mask, INVALID_LOGPROB)
    v2 = torch.masked_fill(vpred, padding_mask_p1, 0)
    clipped = torch.clamp(v2, values - args.cliprange_value, values + args.cliprange_value)
    vf = 0.5 * masked_mean(torch.max(torch.square(v2 - returns), torch.square(clipped - returns)), ~padding_mask_p1)
    ratio = torch.exp(n2 - logprobs)
    pg = masked_mean(torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - args.cliprange, 1 + args.cliprange)), ~padding_mask)
    loss = pg + args.vf_coef * vf
    loss.backward()
    ends = [min(n + 1, T) for n in lens]
    out["ppo"].append(dict(whiten=whiten, gamma=gamma, max_len=T, old=rows(logprobs), ref=rows(ref_logprobs), values=rows(values, ends), scores=scores.tolist(),
                           advantages=rows(advantages), returns=rows(returns, ends), new=rows(new.detach()), vpred=rows(vpred.detach(), ends), loss=loss.item(),
                           pg_loss=pg.item(), vf_loss=vf.item(), grad=rows(new.grad), vgrad=rows(vpred.grad, ends)))

def rounded(x):
    if isinstance(x, float):
        return float(f"{x:.10g}")
    if isinstance(x, list):
        return [rounded(y) for y in x]
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else x


json.dump(rounded(out), open("rl_golden.json", "w"))
