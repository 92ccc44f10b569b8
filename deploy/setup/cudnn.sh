#!/usr/bin/env bash
# Has the real cuDNN build all plans of attention for cards that are only described to it: no GPU is needed, and nothing is computed. It installs
# cuDNN and what that opens from PyPI wheels (850 MB, once), outside the repository:
#   ${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}/cudnn
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}/cudnn
wheels=(nvidia-cudnn-cu13==9.19.0.56 nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88)

if [ "$(cat "$dir/WHEELS" 2>/dev/null)" != "${wheels[*]}" ]; then
  echo "setup: installing cuDNN into $dir (850 MB, once)" >&2
  mkdir -p "$(dirname "$dir")"
  work=$(mktemp -d "$dir.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: --target "$work/wheels" "${wheels[@]}"
  rm -rf "$dir"
  mv "$work/wheels" "$dir"
  echo "${wheels[*]}" >"$dir/WHEELS"
fi

check=$(mktemp -d)
trap 'rm -rf "$check" "${work:-}"' EXIT
gcc -shared -fPIC -o "$check/libcuda.so.1" kernels/cuda/check/driver.c
g++ -std=c++17 -O1 -Wall -Wextra -Werror -o "$check/cudnn" -x c++ kernels/cuda/check/cudnn.cc kernels/cuda/cudnn_graph.cu -ldl
LD_LIBRARY_PATH=$check:$dir/nvidia/cu13/lib "$check/cudnn" "$dir/nvidia/cudnn/lib/libcudnn.so.9"
