#!/usr/bin/env bash
# Installs the CUDA compiler from PyPI wheels, outside the repository, so that it outlives clones. Neither a GPU nor root is needed.
#   ${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}/13.0/{bin,include,lib,nvvm}
# Usage: cuda.sh [--check] [--headers]
#   --check    installs nothing, says by its exit status whether all is there
#   --headers  also the headers of cuBLAS and NCCL (large wheels; only to check our declarations of their functions against)
set -euo pipefail

root=${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}
dir=$root/13.0
# nvcc with cudafe++, ptxas and fatbinary; cicc with libdevice; headers; cudart; cub and libcu++. 105 MB.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
headers=(nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.28.9)

check=0 with_headers=0
for a in "$@"; do
  case $a in
    --check) check=1 ;;
    --headers) with_headers=1 ;;
    *) echo "usage: cuda.sh [--check] [--headers]" >&2; exit 2 ;;
  esac
done

has() { [ "$(cat "$dir/$1" 2>/dev/null)" = "${*:2}" ]; }

compiler=0 extra=0
has WHEELS "${wheels[*]}" && [ -x "$dir/bin/nvcc" ] && compiler=1
{ [ $with_headers = 0 ] || has HEADERS "${headers[*]}"; } && extra=1
[ $compiler = 0 ] || [ $extra = 0 ] || exit 0
[ $check = 0 ] || exit 1

mkdir -p "$root"
work=$(mktemp -d "$root/install.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"

fetch() { "$work/venv/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: --target "$work/$1" "${@:2}"; }

if [ $compiler = 0 ]; then
  echo "setup: installing nvcc 13.0 into $dir (105 MB, once)" >&2
  fetch core "${wheels[@]}"
  rm -rf "$dir"
  mv "$work/core/nvidia/cu13" "$dir"
  chmod +x "$dir"/bin/* "$dir/nvvm/bin/"* 2>/dev/null || true
  [ -e "$dir/lib64" ] || ln -s lib "$dir/lib64"
  "$dir/bin/nvcc" --version >"$work/version"
  grep -q 'release 13.0' "$work/version" || { echo "setup: $dir/bin/nvcc is not nvcc 13.0" >&2; exit 1; }
  echo "${wheels[*]}" >"$dir/WHEELS"
fi
if [ $with_headers = 1 ] && ! has HEADERS "${headers[*]}"; then
  echo "setup: installing the headers of cuBLAS and NCCL into $dir/headers (620 MB of wheels, once)" >&2
  fetch full "${headers[@]}"
  mkdir -p "$dir/headers"
  find "$work/full/nvidia" \( -name 'cublas*.h' -o -name 'nccl.h' \) -exec cp {} "$dir/headers/" \;
  echo "${headers[*]}" >"$dir/HEADERS"
fi
