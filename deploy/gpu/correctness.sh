#!/usr/bin/env bash
# Results on the GPU: every operation against the float64 oracle and central differences with fresh random operands and poisoned outputs
# (relative L2 1e-5 in f32, 1e-2 in bf16), attention also without and with cuDNN, all reference models in fp32 and bf16, training runs, equal bits of two runs, with and without CUDA graphs, and of several ranks
# (on one card, and by NCCL where there are several), and a run through the queue whose worker is killed and whose weights have to be those of
# an undisturbed one, bit for bit. Under 7 minutes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

step doctor ./tunefleet doctor --dir "$results/doctor"
step ops-f32 ./gpucheck ops --dtype f32 "${ops[@]}"
TUNEFLEET_CUDA_ATTENTION=tiles step ops-bf16 ./gpucheck ops --dtype bf16 "${ops[@]}"
TUNEFLEET_CUDA_ATTENTION=tiles step ops-f16 ./gpucheck ops --dtype f16 "${ops[@]}"
# Attention once more by cuDNN, wherever that may have it: where it is, it has to be usable.
for dt in bf16 f16; do
  for op in "${attention[@]}"; do
    [ -z "$cudnn" ] || TUNEFLEET_CUDA_ATTENTION=cudnn step "cudnn-$op-$dt" ./gpucheck ops --dtype "$dt" --op "$op"
  done
done
step models-fp32 ./gpucheck models --dtype f32 fixtures/models/*
step models-bf16 ./gpucheck models --dtype bf16 fixtures/models/*
step train ./gpucheck train fixtures/train/*
step same-bits ./gpucheck bits fixtures/train/*
step ranks ./gpucheck ranks
step graphs ./gpucheck graphs "${graphs[@]}"
TUNEFLEET_DEVICE=$queue_device step queue-kill ./tunefleet demo --run example/run.yaml --output_dir "$results/demo" --json
step perf-bf16 ./gpucheck perf --dtype bf16 "${perf[@]}"
if [ -n "$cudnn" ] && [ ${#perf[@]} = 0 ]; then
  for op in "${attention[@]}"; do TUNEFLEET_CUDA_ATTENTION=tiles step "perf-own-$op-bf16" ./gpucheck perf --dtype bf16 --op "$op"; done
fi
finish
