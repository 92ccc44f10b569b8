#!/usr/bin/env bash
# Memory errors, races and uninitialized reads by compute-sanitizer, where it is and the machine allows it; else it says that it was not run.
# Under 7 minutes: operations and two models only, as the tools slow kernels down a hundredfold.
set -euo pipefail
. "$(dirname "$0")/common.sh"
export TUNEFLEET_CUDA_ATTENTION=tiles # what is examined are our own kernels

tool=$(command -v compute-sanitizer || ls ./compute-sanitizer/compute-sanitizer /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1 || true)
if [ -z "$tool" ]; then
  say "NOT RUN: there is no compute-sanitizer on this machine (put it into compute-sanitizer/ here)"
  exit 3
fi
if ! "$tool" --tool memcheck --error-exitcode 9 ./gpucheck ops --dtype f32 --seed 1 --op fill >"$results/probe.log" 2>&1 && grep -qiE 'not supported|permission|unable|debugger' "$results/probe.log"; then
  say "NOT RUN: this machine does not allow compute-sanitizer: $(grep -iE 'not supported|permission|unable|debugger' "$results/probe.log" | head -1)"
  exit 3
fi
for t in memcheck racecheck initcheck synccheck; do
  step "$t-ops-f32" "$tool" --tool "$t" --error-exitcode 9 ./gpucheck ops --dtype f32 --seed 1 "${ops[@]}"
done
step memcheck-ops-bf16 "$tool" --tool memcheck --error-exitcode 9 ./gpucheck ops --dtype bf16 --seed 1 "${ops[@]}"
step memcheck-model "$tool" --tool memcheck --error-exitcode 9 ./gpucheck models --dtype f32 fixtures/models/llama3 fixtures/models/mixtral
finish
