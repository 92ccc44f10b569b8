# Sourced by the scripts beside it: where things are, a log per step, and an account of what passed, failed and was not run.
cd "$(dirname "${BASH_SOURCE[0]}")"
# The libraries for CUDA 13 and 12 lie beside the programs, which ask the driver and open the one that it can load.
results=${RESULTS:-$PWD/results/$(basename "$0" .sh)-$(date -u +%Y%m%d-%H%M%S)}
mkdir -p "$results"
summary=$results/summary.txt
deadline=$((SECONDS + ${BUDGET:-400})) # seconds; the scripts end within 7 minutes
failures=0

say() { echo "$*" | tee -a "$summary"; }

# Where cuBLASLt of the driver's CUDA, 13 or 12, may be: the loader's places, a toolkit, Python's wheels. Without it products are our own
# kernel's, and slow.
find_blas() {
  local p so=libcublasLt.so.13
  case $(nvidia-smi 2>/dev/null | grep -o 'CUDA Version: [0-9]*' || true) in *' 12') so=libcublasLt.so.12 ;; esac
  for p in ${TUNEFLEET_CUDA_DEPS:+${TUNEFLEET_CUDA_DEPS//:/ }} /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/lib/x86_64-linux-gnu \
    /usr/lib64 "$PWD"/deps /usr/local/lib/python3*/*-packages/nvidia/{cu13,cublas}/lib "$HOME"/.local/lib/python3*/site-packages/nvidia/{cu13,cublas}/lib; do
    if [ -e "$p/$so" ]; then
      export TUNEFLEET_CUDA_DEPS=$p
      say "cuBLASLt: $p"
      return
    fi
  done
  export TUNEFLEET_CUDA_BLAS=tiles
  say "NOT RUN: anything with cuBLASLt, which is not on this machine (put $so into deps/ here); products are by our own kernel"
}

# Where cuDNN 9 may be, and NVRTC, which it compiles its attention with. Without it attention is our own kernels' alone.
find_dnn() {
  local p q so=libnvrtc.so.13
  case ${TUNEFLEET_CUDA_DEPS:-} in */cublas/lib) so=libnvrtc.so.12 ;; esac
  for p in ${TUNEFLEET_CUDA_DEPS:+${TUNEFLEET_CUDA_DEPS//:/ }} /usr/local/cuda*/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64 "$PWD"/deps \
    {/usr/local/lib/python3*/*-packages,"$HOME"/.local/lib/python3*/site-packages}/nvidia/cudnn/lib; do
    [ -e "$p/libcudnn.so.9" ] && [ -z "${TUNEFLEET_CUDA_BLAS:-}" ] || continue # it needs cuBLASLt
    cudnn=$p
    export TUNEFLEET_CUDA_DEPS=${TUNEFLEET_CUDA_DEPS:+$TUNEFLEET_CUDA_DEPS:}$p
    for q in /usr/local/cuda*/lib64 "$PWD"/deps "$p"/../../cu13/lib "$p"/../../cuda_nvrtc/lib; do
      [ ! -e "$q/$so" ] || export TUNEFLEET_CUDA_DEPS=$TUNEFLEET_CUDA_DEPS:$q
    done
    say "cuDNN: $p"
    return
  done
  say "NOT RUN: attention by cuDNN, which is not on this machine (put libcudnn*.so.9, libnvrtc*.so.13 and libcublasLt.so.13 into deps/ here)"
}

# step NAME COMMAND...: one check with the time that is left; its output is NAME.log.
step() {
  local name=$1 left=$((deadline - SECONDS)) start=$SECONDS rc=0
  shift
  if [ "$left" -le 5 ]; then
    say "NOT RUN: $name: the time is up"
    failures=$((failures + 1))
    return 0
  fi
  timeout "$left" "$@" >"$results/$name.log" 2>&1 || rc=$?
  if [ $rc = 0 ]; then
    say "ok      $name ($((SECONDS - start)) s)"
  else
    say "FAILED  $name (exit $rc, $((SECONDS - start)) s): $(tail -n 1 "$results/$name.log")"
    failures=$((failures + 1))
  fi
}

finish() {
  say "$failures failed or were not run; logs in $results"
  [ "$failures" = 0 ]
}

# rehearse.sh changes these: where a card has work for minutes, an emulation has it for days.
ops=() perf=() graphs=() attention=(attn_fwd attn_bwd) cudnn= memory_model=llama-2-7b memory_seq=2048 queue_device=cuda ranks_run=example/run.yaml
[ ! -f rehearsal.sh ] || . ./rehearsal.sh

say "$(basename "$0") of $(cat COMMIT 2>/dev/null || echo unknown) at $(date -u +%Y-%m-%dT%H:%M:%SZ)"
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2>&1 | tee -a "$summary" || true
find_blas
[ -n "$cudnn" ] || find_dnn
