"""Writes folders of LLaMA-Factory configurations for record.py: python variants.py OUT DATA MODELS [SEED N].

OUT receives data/ (LLaMA-Factory's demo sets from DATA, and sets of odd rows made here), the models of MODELS (model_llama3, model_llama3_nodrop,
model_llama3_memo and model_qwen2 of the fixtures) and a folder for each variant: combinations of keys that the recorded fixtures do not have.
With SEED and N there are N random ones instead, named random_SEED_0 and so on.
Then `python record.py OUT/*/` runs the real LLaMA-Factory, and `tunefleet verify e2e OUT/NAME` repeats what it did.
"""

import json
import pathlib
import random
import re
import shutil
import sys

BASE = {
    "trust_remote_code": True, "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "dataset_dir": "../data",
    "cutoff_len": 200, "overwrite_cache": True, "output_dir": "./out", "logging_steps": 1, "save_strategy": "no", "overwrite_output_dir": True,
    "report_to": "none", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 3.0e-3, "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "per_device_eval_batch_size": 4, "seed": 7,
}  # fmt: skip
DEEP = "../model_deep"
LLAMA, NODROP, MEMO, QWEN = "../model_llama3", "../model_llama3_nodrop", "../model_llama3_memo", "../model_qwen2"
FULL = {"finetuning_type": "full", "learning_rate": 1.0e-3}
EVAL = {"eval_strategy": "steps", "eval_steps": 5}
PREDICT = {"do_train": False, "do_predict": True, "predict_with_generate": True, "do_sample": False, "max_new_tokens": 24}


def variants():
    """Name -> keys over BASE."""
    v = {}

    def add(name, model, template, dataset, **keys):
        c = {"model_name_or_path": model, **BASE, "template": template, "dataset": dataset, **keys}
        v[name] = {k: x for k, x in c.items() if x is not None}

    add("pt_streaming", LLAMA, None, "c4_demo,wiki_demo", stage="pt", **FULL, streaming=True, dataloader_num_workers=1, max_steps=12, buffer_size=50, seed=3)
    add("pt_streaming_packed", QWEN, None, "wiki_demo,c4_demo", stage="pt", **FULL, streaming=True, dataloader_num_workers=1, max_steps=10, buffer_size=40, packing=True,
        preprocessing_batch_size=7, val_size=6, **EVAL)
    add("pt_rows", LLAMA, None, "wiki_demo,c4_demo", stage="pt", **FULL, packing=False, max_samples=25, val_size=8, **EVAL, weight_decay=0.1)
    add("dpo_ftx_ld", LLAMA, "llama3", "dpo_en_demo", stage="dpo", pref_ftx=0.3, ld_alpha=0.5, max_samples=60, val_size=0.2, **EVAL)
    add("dpo_smooth_zh", QWEN, "qwen", "dpo_zh_demo", stage="dpo", dpo_label_smoothing=0.2, pref_beta=0.3, max_samples=40, lora_rank=4, lora_alpha=6)
    add("dpo_bco", LLAMA, "llama3", "dpo_en_demo", stage="dpo", pref_bco_weight=0.5, max_samples=40)
    add("dpo_ref_adapters", LLAMA, "llama3", "dpo_en_demo", stage="dpo", max_samples=32, ref_model=LLAMA, ref_model_adapters="../adapter_llama3")
    add("orpo_freeze", LLAMA, "llama3", "dpo_zh_demo", stage="dpo", pref_loss="orpo", finetuning_type="freeze", freeze_trainable_layers=-2,
        freeze_trainable_modules="mlp,self_attn", freeze_extra_modules="embed_tokens,lm_head", max_samples=40, val_size=5, **EVAL)
    add("kto_tools", LLAMA, "llama3", "kto_tools", stage="kto", kto_chosen_weight=1.3, kto_rejected_weight=0.7, pref_ftx=0.1,
        per_device_train_batch_size=4, preprocessing_batch_size=13, max_samples=50)
    add("rm_freeze", NODROP, "llama3", "dpo_zh_demo", stage="rm", finetuning_type="freeze", max_samples=40, val_size=0.25, **EVAL)
    add("neat_mask_history", QWEN, "qwen", "multiturn_en", neat_packing=True, mask_history=True, max_samples=70, preprocessing_num_workers=3, seed=11)
    add("packing_efficient_eos", LLAMA, "falcon", "multiturn_en,identity", packing=True, max_samples=40, preprocessing_batch_size=30, preprocessing_num_workers=2)
    add("efficient_eos_history", LLAMA, "glm4", "multiturn_en", mask_history=True, max_samples=40, resize_vocab=True)
    add("freeze_extra", LLAMA, "llama3", "alpaca_zh_demo", finetuning_type="freeze", freeze_trainable_layers=1, freeze_extra_modules="embed_tokens,norm",
        max_samples=60, val_size=10, **EVAL, weight_decay=0.05)
    add("lora_additional", QWEN, "qwen", "identity", additional_target="embed_tokens", lora_target="q_proj,v_proj,down_proj", max_samples=50, adam_beta2=0.95)
    add("lora_additional_head", LLAMA, "llama3", "identity", additional_target="embed_tokens,lm_head", max_samples=50)
    add("resize_tokens", LLAMA, "llama3", "alpaca_en_demo", **FULL, resize_vocab=True, add_tokens="<think>,</think>,Give three", add_special_tokens="<a>,<b>", max_samples=40)
    add("resize_template", LLAMA, "qwen", "alpaca_en_demo", resize_vocab=True, max_samples=40)
    add("min_lr", LLAMA, "llama3", "identity,alpaca_zh_demo", lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.2}, max_samples=30,
        val_size=17, eval_strategy="epoch", num_train_epochs=1.6, adam_beta1=0.8, adam_epsilon=1e-6, max_grad_norm=0.5)
    add("restarts", LLAMA, "llama3", "identity", **FULL, lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs={"num_cycles": 3}, warmup_ratio=0, warmup_steps=3, max_samples=48)
    add("polynomial_adafactor", LLAMA, "llama3", "identity", **FULL, lr_scheduler_type="polynomial", lr_scheduler_kwargs={"power": 2.0, "lr_end": 1e-5}, optim="adafactor", max_samples=40)
    add("stable_decay", LLAMA, "llama3", "identity", **FULL, lr_scheduler_type="warmup_stable_decay", max_samples=40, weight_decay=0.1)
    add("inverse_sqrt_by_length", LLAMA, "llama3", "alpaca_en_demo", **FULL, lr_scheduler_type="inverse_sqrt", group_by_length=True, max_samples=60, label_smoothing_factor=0.1)
    add("by_length_epochs", QWEN, "qwen", "alpaca_zh_demo", group_by_length=True, max_samples=75, num_train_epochs=2.0, per_device_train_batch_size=3, data_seed=5)
    add("two_eval_sets", LLAMA, "llama3", "identity", eval_dataset="alpaca_en_demo,alpaca_zh_demo", max_samples=30, eval_strategy="steps", eval_steps=0.3, compute_accuracy=True)
    add("eval_on_start", LLAMA, "llama3", "identity", eval_on_start=True, max_samples=40, val_size=0.2, **EVAL)
    add("eval_only", MEMO, "llama3", "identity", do_train=False, do_eval=True, eval_dataset="identity", max_samples=21)
    add("eval_only_dpo", LLAMA, "llama3", "dpo_en_demo", stage="dpo", do_train=False, do_eval=True, val_size=0.5, max_samples=30)
    add("eval_only_dpo_adapter", LLAMA, "llama3", "dpo_en_demo", stage="dpo", do_train=False, do_eval=True, val_size=0.5, max_samples=30, adapter_name_or_path="../adapter_llama3")
    add("eval_only_kto_adapter", LLAMA, "llama3", "kto_tools", stage="kto", do_train=False, do_eval=True, val_size=0.5, max_samples=30, adapter_name_or_path="../adapter_llama3")
    add("train_eval_predict", MEMO, "llama3", "identity", **{**PREDICT, "do_train": True}, do_eval=True, **EVAL, max_samples=40, val_size=8)
    add("eval_predict", MEMO, "llama3", None, eval_dataset="identity", do_eval=True, **PREDICT, max_samples=20)
    add("pad_loss_predict", MEMO, "llama3", None, eval_dataset="identity", ignore_pad_token_for_loss=False, **PREDICT, max_samples=12)
    add("pad_loss_lora_eval", QWEN, "qwen", "alpaca_en_demo", ignore_pad_token_for_loss=False, max_samples=40, val_size=0.2, **EVAL, compute_accuracy=True)
    add("pad_loss_pt", LLAMA, None, "wiki_demo", stage="pt", **FULL, ignore_pad_token_for_loss=False, max_samples=25, packing=False)
    add("pad_loss_dpo", LLAMA, "llama3", "dpo_en_demo", stage="dpo", ignore_pad_token_for_loss=False, max_samples=30)
    add("pad_loss_dpo_base", LLAMA, "llama3", "dpo_en_demo", stage="dpo", max_samples=30)
    add("pad_loss_kto", LLAMA, "llama3", "kto_tools", stage="kto", ignore_pad_token_for_loss=False, max_samples=30)
    add("pad_loss_dpo_ld", QWEN, "qwen", "dpo_en_demo", stage="dpo", ignore_pad_token_for_loss=False, pref_ftx=0.3, ld_alpha=0.5, max_samples=30, val_size=0.2, **EVAL)
    add("pad_loss_orpo", LLAMA, "llama3", "dpo_en_demo", stage="dpo", pref_loss="orpo", ignore_pad_token_for_loss=False, **FULL, max_samples=24, per_device_train_batch_size=3)
    add("pad_loss_kto_eval", LLAMA, "llama3", "kto_en_demo", stage="kto", ignore_pad_token_for_loss=False, pref_ftx=0.2, max_samples=30, val_size=0.3, **EVAL)
    add("kto_ftx_eval", LLAMA, "llama3", "kto_en_demo", stage="kto", pref_ftx=0.2, max_samples=30, val_size=0.3, **EVAL)
    add("pad_loss_packing", LLAMA, "llama3", "identity", packing=True, cutoff_len=99, ignore_pad_token_for_loss=False, max_samples=60, **FULL)
    add("pad_loss_packing_eval", QWEN, "qwen", "alpaca_en_demo", packing=True, cutoff_len=195, ignore_pad_token_for_loss=False, max_samples=60, val_size=0.3, **EVAL, compute_accuracy=True)
    add("pad_loss_neat", LLAMA, "llama3", "identity", neat_packing=True, cutoff_len=96, ignore_pad_token_for_loss=False, max_samples=60)
    add("pad_loss_neat_odd", LLAMA, "llama3", "identity", neat_packing=True, cutoff_len=99, ignore_pad_token_for_loss=False, max_samples=60)
    add("tokenized", LLAMA, "llama3", "identity", tokenized_path="./tokenized", max_samples=40, val_size=8, **EVAL)
    add("tokenized_neat", LLAMA, "llama3", "identity", tokenized_path="./tokenized", max_samples=40, val_size=8, neat_packing=True, preprocessing_num_workers=2, **EVAL)
    add("tokenized_packing", LLAMA, "llama3", "identity", tokenized_path="./tokenized", max_samples=40, val_size=8, packing=True, **EVAL)
    add("tokenized_pt_packed", LLAMA, None, "wiki_demo", stage="pt", **FULL, tokenized_path="./tokenized", max_samples=24)
    add("tokenized_dpo", LLAMA, "llama3", "dpo_en_demo", stage="dpo", tokenized_path="./tokenized", max_samples=30)
    add("tokenized_kto", LLAMA, "llama3", "kto_tools", stage="kto", tokenized_path="./tokenized", max_samples=30)
    add("tokenized_rm", NODROP, "llama3", "dpo_en_demo", stage="rm", tokenized_path="./tokenized", max_samples=24, val_size=6, **EVAL)
    add("tokenized_pt", LLAMA, None, "wiki_demo", stage="pt", **FULL, packing=False, tokenized_path="./tokenized", max_samples=24)
    add("tokenized_predict", MEMO, "llama3", None, eval_dataset="identity", tokenized_path="./tokenized", **PREDICT, max_samples=12)
    add("predict_special_trained", MEMO, "llama3", "identity", **{**PREDICT, "do_train": True}, skip_special_tokens=False, max_samples=20, val_size=6)
    add("train_and_predict", MEMO, "llama3", "identity", **{**PREDICT, "do_train": True}, max_samples=40, val_size=8)
    add("interleave_under", LLAMA, "llama3", "identity,alpaca_zh_demo", mix_strategy="interleave_under", interleave_probs="0.7,0.3", max_samples=50, seed=9)
    add("stream_under", LLAMA, "llama3", "identity,alpaca_zh_demo", streaming=True, dataloader_num_workers=1, mix_strategy="interleave_under", interleave_probs="0.6,0.4", max_steps=15, buffer_size=30)
    add("stream_over", LLAMA, "llama3", "alpaca_zh_demo,identity", streaming=True, dataloader_num_workers=1, mix_strategy="interleave_over", interleave_probs="0.5,0.5", max_steps=40, buffer_size=30, val_size=9, **{**EVAL, "eval_steps": 20})
    add("stream_even", LLAMA, "llama3", "identity,alpaca_zh_demo", streaming=True, dataloader_num_workers=1, mix_strategy="interleave_under", max_steps=60, buffer_size=30)
    add("stream_tail", LLAMA, "llama3", "identity", streaming=True, dataloader_num_workers=1, max_steps=61, buffer_size=30, gradient_accumulation_steps=4)
    add("stream_tail_under", LLAMA, "llama3", "identity,alpaca_zh_demo", streaming=True, dataloader_num_workers=1, mix_strategy="interleave_under", max_steps=75, buffer_size=30, gradient_accumulation_steps=3, **FULL)
    add("stream_tail_pt", LLAMA, None, "wiki_demo", stage="pt", **FULL, streaming=True, dataloader_num_workers=1, max_steps=24, buffer_size=20, gradient_accumulation_steps=7, label_smoothing_factor=0.1)
    add("stream_tail_dpo", LLAMA, "llama3", "dpo_zh_demo", stage="dpo", streaming=True, dataloader_num_workers=1, max_steps=20, buffer_size=16, gradient_accumulation_steps=7, per_device_train_batch_size=3)
    add("think_tools", QWEN, "qwen3", "reason_tool_use", enable_thinking=True, cutoff_len=1200, per_device_train_batch_size=1, max_samples=24)
    add("think_off", QWEN, "qwen3", "thoughts", enable_thinking=False, max_samples=40)
    add("think_mask", QWEN, "qwen3", "thoughts", mask_history=True, max_samples=40)
    add("glaive_zh_llama3", LLAMA, "llama3", "glaive_toolcall_zh_demo", max_samples=30, cutoff_len=500, tool_format="default")
    add("odd_rows", LLAMA, "llama3", "odd_alpaca,odd_sharegpt", cutoff_len=60)
    add("odd_packed", QWEN, "qwen", "odd_sharegpt,odd_alpaca", neat_packing=True, cutoff_len=48, default_system="Be brief.")
    add("prompt_accuracy", LLAMA, "vicuna", "alpaca_en_demo", train_on_prompt=True, compute_accuracy=True, max_samples=40, val_size=0.2, **EVAL, use_dft_loss=True)
    add("eaft", LLAMA, "llama3", "alpaca_zh_demo", use_eaft_loss=True, eaft_alpha=0.7, max_samples=40)
    add("asft", LLAMA, "llama3", "alpaca_zh_demo", **FULL, use_asft_loss=True, asft_alpha=0.2, max_samples=40)
    add("scratch", LLAMA, "llama3", "identity", **FULL, train_from_scratch=True, max_samples=40)
    add("scratch_qwen", QWEN, "qwen", "identity", **FULL, train_from_scratch=True, max_samples=40)
    add("muon", LLAMA, "llama3", "identity", **FULL, use_muon=True, weight_decay=0.1, max_samples=40)
    add("muon_lora", LLAMA, "llama3", "identity", use_muon=True, lora_target="q_proj,down_proj", weight_decay=0.05, max_samples=40)
    add("adam_mini", LLAMA, "llama3", "identity", **FULL, use_adam_mini=True, max_samples=40)
    add("llama_pro", LLAMA, "llama3", "identity", finetuning_type="freeze", use_llama_pro=True, freeze_trainable_layers=1, max_samples=40)
    add("llama_pro_deep", DEEP, "llama3", "identity", finetuning_type="freeze", use_llama_pro=True, freeze_trainable_layers=2, max_samples=40)
    add("llama_pro_lora", DEEP, "llama3", "identity", use_llama_pro=True, freeze_trainable_layers=2, max_samples=40)
    add("llama_pro_lora_parts", DEEP, "llama3", "identity", use_llama_pro=True, freeze_trainable_layers=3, lora_target="v_pro,mlp.up", additional_target="embed_tokens", max_samples=40)
    add("tied_both", QWEN, "qwen", "identity", additional_target="embed_tokens,lm_head", lora_target="q_proj,down_proj", max_samples=40)
    add("tied_head", QWEN, "qwen", "identity", lora_target="q_proj,down_proj,lm_head", max_samples=40)
    add("tied_head_dora", QWEN, "qwen", "identity", lora_target="v_proj,lm_head", use_dora=True, max_samples=40)
    add("tied_head_and_table", QWEN, "qwen", "identity", lora_target="embed_tokens,lm_head", max_samples=40)
    add("tied_resize", QWEN, "qwen", "identity", resize_vocab=True, add_tokens="<think>,</think>,Give three", max_samples=40)
    add("tied_merged", QWEN, "qwen", "identity", adapter_name_or_path="../tied_both/out", create_new_adapter=True, max_samples=40)
    add("dora_loraplus", QWEN, "qwen", "identity", use_dora=True, loraplus_lr_ratio=8.0, max_samples=40, preprocessing_num_workers=3, packing=True)
    add("split_special", LLAMA, "llama3", "specials", split_special_tokens=True, **FULL)
    add("pad_loss", LLAMA, "llama3", "identity", ignore_pad_token_for_loss=False, max_samples=30, **FULL)
    add("drop_last_first", LLAMA, "llama3", "identity", dataloader_drop_last=True, disable_shuffling=True, num_train_epochs=1.7, max_samples=37, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    for name, keys in {"predict_beams": {"num_beams": 3, "length_penalty": 0.7}, "predict_penalty": {"repetition_penalty": 1.3}, "predict_special": {"skip_special_tokens": False}}.items():
        add(name, MEMO, "llama3", None, eval_dataset="identity", max_samples=12, **{**PREDICT, **keys})
    add("predict_val", MEMO, "llama3", "odd_alpaca,identity", val_size=0.3, **PREDICT, cutoff_len=64, max_samples=30)
    return v


def random_variants(seed, n):
    """Name -> keys over BASE: stages, data, methods, optimizers, schedules and batches, each drawn."""
    v = {}
    for i in range(n):
        r = random.Random(f"{seed} {i}")
        maybe = lambda p, **keys: keys if r.random() < p else {}  # noqa: E731
        stage = r.choice(["sft"] * 6 + ["pt", "dpo", "dpo", "kto", "rm"])
        model, template = r.choice([(LLAMA, "llama3"), (LLAMA, "llama3"), (QWEN, "qwen"), (QWEN, "qwen3"), (LLAMA, "vicuna"), (LLAMA, "mistral")])
        if stage == "rm":
            model, template = NODROP, "llama3"
        sets = {
            "sft": ["identity", "alpaca_en_demo", "alpaca_zh_demo", "multiturn_en", "glaive_toolcall_en_demo", "glaive_toolcall_zh_demo", "thoughts", "odd_alpaca"],
            "pt": ["c4_demo", "wiki_demo"], "dpo": ["dpo_en_demo", "dpo_zh_demo"], "rm": ["dpo_en_demo", "dpo_zh_demo"], "kto": ["kto_en_demo", "kto_tools"],
        }[stage]  # fmt: skip
        names = r.sample(sets, r.choice([1, 1, 2]))
        c = {"model_name_or_path": model, **BASE, "template": template, "dataset": ",".join(names), "stage": stage}
        c.update(seed=r.randrange(1000), cutoff_len=r.choice([64, 120, 200, 256]), max_samples=r.choice([14, 20, 27]), per_device_train_batch_size=r.choice([1, 2, 3]),
                 gradient_accumulation_steps=r.choice([1, 2, 3]), num_train_epochs=r.choice([0.7, 1.0, 1.3]), weight_decay=r.choice([0, 0.1]))  # fmt: skip
        c["lr_scheduler_type"] = r.choice(["cosine", "linear", "constant_with_warmup", "inverse_sqrt", "polynomial"])
        method = r.choice(["lora", "lora", "full", "freeze"])
        c["finetuning_type"] = method
        if method == "lora":
            c.update(lora_rank=r.choice([2, 4, 8]), **maybe(0.3, lora_alpha=5), **maybe(0.2, use_dora=True), **maybe(0.2, use_rslora=True), **maybe(0.2, loraplus_lr_ratio=4.0),
                     **maybe(0.3, lora_target="q_proj,up_proj"))  # fmt: skip
        else:
            c.update(learning_rate=1.0e-3, **maybe(0.2, optim="adafactor"))
        if method == "freeze":
            c.update(freeze_trainable_layers=r.choice([1, 2, -1]), **maybe(0.3, freeze_extra_modules="embed_tokens"))
        c.update(maybe(0.3, max_grad_norm=0.3), **maybe(0.2, adam_beta2=0.95), **maybe(0.2, warmup_ratio=0, warmup_steps=2))
        c.update(maybe(0.15, group_by_length=True) if stage in ("sft", "pt", "kto") else {})  # pairs have no length upstream
        if r.random() < 0.4:
            c.update(EVAL, val_size=r.choice([0.2, 5]), per_device_eval_batch_size=r.choice([2, 3]))
        if len(names) > 1:
            c.update(maybe(0.4, mix_strategy=r.choice(["interleave_under", "interleave_over"]), interleave_probs="0.6,0.4"))
        if stage == "sft":
            c.update(r.choice([{}, {}, {"packing": True}, {"neat_packing": True}]))
            c.update(r.choice([{}, {}, {"mask_history": True}, {"train_on_prompt": True}]))
            c.update(maybe(0.2, label_smoothing_factor=0.1), **maybe(0.15, use_dft_loss=True), **maybe(0.2, preprocessing_batch_size=7, preprocessing_num_workers=2))
            c.update(maybe(0.2, enable_thinking=False), **maybe(0.15, default_system="Be brief."))
        if stage == "dpo":
            c.update(pref_loss=r.choice(["sigmoid", "orpo", "simpo", "ipo", "hinge"]), pref_beta=r.choice([0.1, 0.4]), **maybe(0.3, pref_ftx=0.2))
            if c["pref_loss"] == "sigmoid":
                c.update(maybe(0.3, dpo_label_smoothing=0.1))
        if stage == "kto":
            c.update(pref_beta=r.choice([0.1, 0.3]), **maybe(0.3, kto_rejected_weight=0.7), **maybe(0.3, pref_ftx=0.1), per_device_train_batch_size=r.choice([2, 3]))
        if stage == "pt":
            c.update(template=None, **maybe(0.5, packing=False))
        v[f"random_{seed}_{i}"] = {k: x for k, x in c.items() if x is not None}
    return v


def written(x):
    """JSON whose numbers YAML 1.1 reads as numbers: it wants a point in 1e-06."""
    return re.sub(r"(?<=[ :\[])(\d+)(e-\d+)", r"\1.0\2", " " + json.dumps(x)).strip()


def thought(rng, turns):
    words = "alpha beta gamma delta two plus four river stone why because therefore 你好 天气".split()
    say = lambda n: " ".join(rng.choices(words, k=n))  # noqa: E731
    out = []
    for _ in range(turns):
        kind = rng.randrange(3)
        think = f"<think>\n{say(rng.randrange(1, 9))}\n</think>\n\n" if kind == 0 else "<think>\n\n</think>\n\n" if kind == 1 else ""
        out += [{"from": "human", "value": say(rng.randrange(1, 12))}, {"from": "gpt", "value": think + say(rng.randrange(1, 12))}]
    return out


def made(demo):
    """Data sets that the demo sets lack."""
    rng = random.Random(5)
    glaive = json.loads((demo / "glaive_toolcall_en_demo.json").read_text())
    kto = [{"conversations": r["conversations"][: 2 + 2 * rng.randrange(2)], "tools": r["tools"], "label": rng.random() < 0.6} for r in glaive[:80]]
    alpaca = [
        {"instruction": "Say hello", "input": "", "output": "Hello!"}, {"instruction": "", "input": "", "output": "No question."},
        {"instruction": "No answer", "input": "x", "output": ""}, {"instruction": "  spaces  ", "input": "\n", "output": "  kept  \n"},
        {"instruction": "你好" * 60, "input": "😀 é e\u0301", "output": "好" * 80}, {"instruction": "a\tb", "input": "c\u0000d", "output": "\u200b"},
        {"instruction": "long " * 100, "input": "", "output": "x"}, {"instruction": "x", "input": "", "output": "long " * 100},
        {"instruction": "<|eot_id|> inside", "input": "", "output": "<|im_end|> and <|eot_id|>"},
        {"instruction": "with system", "input": "", "output": "yes", "system": "You are odd.", "history": [["q1", "a1"], ["q2", ""]]},
        {"instruction": "null input", "input": None, "output": "fine", "history": []}, {"instruction": "null system", "input": "i", "output": "o", "system": None},
    ]  # fmt: skip
    h, g = lambda x: {"from": "human", "value": x}, lambda x: {"from": "gpt", "value": x}
    share = [
        [h("hi"), g("hello")], [h("one"), g("two"), h("three")], [g("assistant first"), h("then human")], [{"from": "system", "value": "Sys."}, h("q"), g("a")],
        [{"from": "system", "value": "Only system"}], [], [h("a"), h("b"), g("c"), g("d")], [h("x"), g(""), h("y"), g("z")],
        [h("call"), {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}, {"from": "observation", "value": '{"r": 2}'}, g("done")],
        [{"from": "narrator", "value": "?"}, g("!")], [h("q " * 50), g("a " * 50), h("r " * 9), g("s " * 9)], [h("empty answer"), g("")],
    ]  # fmt: skip
    sets = {
        "kto_tools": (kto, {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools", "kto_tag": "label"}}),
        "thoughts": ([{"conversations": thought(rng, rng.randrange(1, 4))} for _ in range(60)], {"formatting": "sharegpt"}),
        "odd_alpaca": (alpaca * 3, {"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}}),
        "odd_sharegpt": ([{"conversations": s} for s in share] * 3, {"formatting": "sharegpt"}),
        "specials": ([{"instruction": f"<|eot_id|>{i} <|begin_of_text|>", "input": "", "output": f"a <|eom_id|> b{i} <|python_tag|>"} for i in range(20)], {}),
    }
    reason = [json.loads(line) for line in (demo / "reason_tool_use_demo_50.jsonl").read_text().splitlines()]
    rows = []
    for r in reason:
        messages = []
        for m in r["messages"]:
            text = "".join(("<think>\n%s\n</think>\n\n" % c["value"]) if c["type"] == "reasoning" else c["value"] for c in m["content"] if c["type"] in ("text", "reasoning"))
            calls = [c["value"] for c in m["content"] if c["type"] == "tool_call"]
            x = {"role": m["role"], "content": text, "tool_calls": None}
            if calls:
                x["tool_calls"] = [{"type": "function", "function": json.loads(c) if isinstance(c, str) else c} for c in calls]
                for f in x["tool_calls"]:
                    f["function"]["arguments"] = json.dumps(f["function"].get("arguments"), ensure_ascii=False)
            messages.append(x)
        rows.append({"messages": messages, "tools": r["tools"] if isinstance(r["tools"], str) else json.dumps(r["tools"], ensure_ascii=False)})
    sets["reason_tool_use"] = (rows, {"formatting": "openai", "columns": {"messages": "messages", "tools": "tools"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function_call", "system_tag": "system"}})  # fmt: skip
    return sets


def deep(source, to):
    """A model of six layers: each of the three twice."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, to, dirs_exist_ok=True)
    weights = load_file(source / "model.safetensors")
    more = {re.sub(r"\.layers\.(\d)\.", lambda m: f".layers.{int(m[1]) + 3}.", n): w for n, w in weights.items() if ".layers." in n}
    save_file({**weights, **more}, to / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))


def main():
    out, demo, models = (pathlib.Path(p) for p in sys.argv[1:4])
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    info = json.loads((demo / "dataset_info.json").read_text())
    for f in demo.iterdir():
        if f.suffix in (".json", ".jsonl", ".txt") and f.name != "dataset_info.json":
            shutil.copyfile(f, data / f.name)
    shutil.copyfile(models / "data" / "multiturn_en.json", data / "multiturn_en.json")
    info["multiturn_en"] = {"file_name": "multiturn_en.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}}
    for name, (rows, entry) in made(demo).items():
        (data / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False))
        info[name] = {"file_name": f"{name}.json", **entry}
    (data / "dataset_info.json").write_text(json.dumps(info, indent=1))
    for m in ("model_llama3", "model_llama3_nodrop", "model_llama3_memo", "model_qwen2"):
        (out / m).mkdir(exist_ok=True)
        for f in (models / m).iterdir():
            shutil.copyfile(f, out / m / f.name)
    deep(out / "model_llama3", out / "model_deep")
    adapter = out / "adapter_llama3"
    adapter.mkdir(exist_ok=True)
    for f in (models / "sft_lora" / "out").iterdir():
        if f.name.startswith("adapter_"):
            shutil.copyfile(f, adapter / f.name)
    chosen = random_variants(int(sys.argv[4]), int(sys.argv[5])) if len(sys.argv) > 5 else variants()
    for name, keys in chosen.items():
        (out / name).mkdir(exist_ok=True)
        text = "".join(f"{k}: {written(x)}\n" for k, x in keys.items())
        (out / name / ("predict.yaml" if keys.get("do_predict") and not keys.get("do_train") else "train.yaml")).write_text(text)


main()
