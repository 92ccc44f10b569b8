#!/usr/bin/env bash
# Runs the three scripts beside this one from a packed folder on the emulation, in place of a card: the scripts, the programs and the way the
# library is found and chosen are known to run before a GPU is there to be used. Nothing follows from it about results on a card, times or
# memory. Under 4 minutes on 2 cores once the tests have been built.
# Usage: rehearse.sh [correctness|sanitizer|memory...]; exits 0 if all that ran passed. Needs what gpu:pack needs but no CUDA compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
fixtures=${TUNEFLEET_FIXTURES:-$PWD/../shared/fixtures}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The emulation in place of both libraries, and stand-ins for what a machine with a card has: driver, management library, nvidia-smi,
# compute-sanitizer.
mkdir -p "$work/libraries" "$work/system" "$work/tool" "$work/fixtures/models" "$work/fixtures/train"
emulation=$(go run ./kernels/kerneltest/cudahost/build)
for l in libtunefleet_cuda.so libtunefleet_cuda12.so; do cp "$emulation" "$work/libraries/$l"; done
gcc -shared -fPIC -o "$work/system/libcuda.so.1" kernels/kerneltest/cudahost/testdata/driver.c
gcc -shared -fPIC -o "$work/system/libnvidia-ml.so.1" kernels/nvml/testdata/fake.c
for m in llama3 mixtral; do ln -s "$fixtures/models/$m" "$work/fixtures/models/$m"; done
for k in models train; do ln -s "$PWD/gpuworker/verify/testdata/$k/tiny" "$work/fixtures/$k/tiny"; done

OUT=$work/gpu LIBRARIES=$work/libraries TUNEFLEET_FIXTURES=$work/fixtures QUICK=1 deploy/gpu/pack.sh
cat >"$work/gpu/rehearsal.sh" <<'EOF'
say "REHEARSAL on the emulation: this is no result of a GPU"
say "(queue-kill is rehearsed on the CPU: the emulation would take hours to learn what it demands)"
ops=(--op rmsnorm_bwd) perf=(--op slice_add) graphs=(--steps 8) attention=(attn_fwd) cudnn=stand-in memory_model=fixtures/models/llama3/config.json memory_seq=64 queue_device=cpu ranks_run=example/short.yaml
EOF
# A few steps of the example.
sed '/- name: eval/,$d; /eval: prep/d; s/steps: [56]00/steps: 2/; s/warmup_steps: [0-9]*/warmup_steps: 1/; s/commit_every: .*/commit_every: 1/' \
  "$work/gpu/example/run.yaml" >"$work/gpu/example/short.yaml"
cat >"$work/tool/nvidia-smi" <<'EOF'
#!/bin/sh
[ $# = 0 ] && echo '| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0 |' || echo 'emulated, 580.95.05, 65536 MiB, 9.0'
EOF
cat >"$work/tool/compute-sanitizer" <<'EOF'
#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
exec "$@"
EOF
chmod +x "$work/tool/nvidia-smi" "$work/tool/compute-sanitizer"

export PATH=$work/tool:$PATH LD_LIBRARY_PATH=$work/system TUNEFLEET_FAKE_DRIVER=13000
export BUDGET=${BUDGET:-900} # seconds a script: here the time is that of other work on the machine
unset TUNEFLEET_CUDA_LIB
[ $# -gt 0 ] || set -- correctness sanitizer memory
bad=0
for s in "$@"; do
  (cd "$work/gpu" && RESULTS=$work/results/$s ./"$s.sh") || bad=1
done
if [ $bad != 0 ]; then
  keep=logs/gpu-rehearsal
  rm -rf "$keep"
  mkdir -p "$(dirname "$keep")"
  cp -r "$work/results" "$keep"
  echo "gpu:rehearse: logs of what failed are in $keep" >&2
fi
exit $bad
