#!/usr/bin/env bash
# Installs the CUDA compiler from PyPI wheels, outside the repository, so that it outlives clones. Neither a GPU nor root is needed.
#   ${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}/{13.0,12.9}/{bin,include,lib,nvvm}
# 13.0 is nvcc as it comes. 12.9 makes what drivers of CUDA 12 load: PyPI's wheels of CUDA 12 have its assembler (ptxas), headers and runtime, but
# no front end, so that of 13.0 is used, with its own headers (crt/), and what it writes is given to the older assembler. All that ends in the
# library, machine code and runtime, is 12.9's.
# Usage: cuda.sh [--check] [--headers]
#   --check    installs nothing, says by its exit status whether all is there
#   --headers  also the headers of cuBLAS, NCCL and cuDNN (large wheels; only to check our declarations of their functions against)
set -euo pipefail

root=${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}
dir=$root/13.0
dir12=$root/12.9
layout12=2 # raised when how 12.9 is put together changes
# nvcc with cudafe++, ptxas and fatbinary; cicc with libdevice; headers; cudart; cub and libcu++. 105 MB.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
wheels12=(nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-runtime-cu12==12.9.79) # 43 MB
headers=(nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.28.9 nvidia-cudnn-cu13==9.19.0.56)

check=0 with_headers=0
for a in "$@"; do
  case $a in
    --check) check=1 ;;
    --headers) with_headers=1 ;;
    *) echo "usage: cuda.sh [--check] [--headers]" >&2; exit 2 ;;
  esac
done

has() { [ "$(cat "$1" 2>/dev/null)" = "${*:2}" ]; }

compiler=0 older=0 extra=0
has "$dir/WHEELS" "${wheels[*]}" && [ -x "$dir/bin/nvcc" ] && compiler=1
has "$dir12/WHEELS" "${wheels[*]} ${wheels12[*]} $layout12" && [ -x "$dir12/bin/nvcc" ] && older=1
{ [ $with_headers = 0 ] || has "$dir/HEADERS" "${headers[*]}"; } && extra=1
[ $compiler = 0 ] || [ $older = 0 ] || [ $extra = 0 ] || exit 0
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
if [ $older = 0 ]; then
  echo "setup: installing the assembler and the runtime of CUDA 12.9 into $dir12 (43 MB, once)" >&2
  fetch older "${wheels12[@]}"
  new=$work/12.9 from=$work/older/nvidia
  mkdir -p "$new/nvvm/bin"
  cp -rl "$dir/bin" "$new/bin"
  rm "$new/bin/ptxas"
  cp "$from/cuda_nvcc/bin/ptxas" "$new/bin/ptxas"
  chmod +x "$new/bin/ptxas"
  mv "$from/cuda_runtime/include" "$new/include"
  mv "$from/cuda_runtime/lib" "$new/lib"
  ln -s lib "$new/lib64"
  # What the front end and its parts agree on: its own intrinsics, how kernels are registered, the section they lie in; and cub.
  cp -rl "$dir/include/crt" "$dir/include/cccl" "$dir/include/fatbinary_section.h" "$new/include/"
  cp -rl "$dir/nvvm/libdevice" "$new/nvvm/libdevice"
  cp -l "$dir/nvvm/bin/cicc" "$new/nvvm/bin/cicc-13"
  # PTX says which version of the language it is in. 13.0 writes 9.0, which the older assembler and driver do not read whatever it contains;
  # this says the oldest version that has what we use, and ptxas refuses a file with anything that it lacks.
  cat >"$new/nvvm/bin/cicc" <<'EOF'
#!/usr/bin/env bash
set -euo pipefail
"$(dirname "$0")/cicc-13" "$@"
version=8.3 out=
while [ $# -gt 0 ]; do
  case $1 in
    -o) out=$2 ;;
    -arch) case $2 in compute_1??*) version=8.8 ;; esac ;;
  esac
  shift
done
sed -i "s/^\.version 9\.0$/.version $version/" "$out"
grep -q "^\.version $version$" "$out"
EOF
  chmod +x "$new/nvvm/bin/cicc"
  "$new/bin/ptxas" --version >"$work/version"
  grep -q 'release 12.9' "$work/version" || { echo "setup: $new/bin/ptxas is not ptxas 12.9" >&2; exit 1; }
  echo "${wheels[*]} ${wheels12[*]} $layout12" >"$new/WHEELS"
  rm -rf "$dir12"
  mv "$new" "$dir12"
fi
if [ $with_headers = 1 ] && ! has "$dir/HEADERS" "${headers[*]}"; then
  echo "setup: installing the headers of cuBLAS, NCCL and cuDNN into $dir/headers (990 MB of wheels, once)" >&2
  fetch full "${headers[@]}"
  mkdir -p "$dir/headers"
  find "$work/full/nvidia" \( -name 'cublas*.h' -o -name 'nccl.h' -o -name 'cudnn*.h' \) -exec cp {} "$dir/headers/" \;
  echo "${headers[*]}" >"$dir/HEADERS"
fi
