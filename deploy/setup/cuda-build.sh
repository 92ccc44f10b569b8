#!/usr/bin/env bash
# Compiles kernels/cuda/*.cu into bin/libtunefleet_cuda.so (CUDA 13) and bin/libtunefleet_cuda12.so (for drivers of CUDA 12) and checks what
# came out. Only files that changed are compiled, two at a time. It needs neither a GPU nor a driver.
#   TUNEFLEET_CUDA_ARCHS  which cards, default "80 89 90a 100", and PTX for others; "90a" is enough for development
#   TUNEFLEET_CUDA_BUILDS which libraries, default "13 12"; "13" is enough for development
#   OUT                   the folder of the libraries, default bin
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}
archs=${TUNEFLEET_CUDA_ARCHS:-80 89 90a 100}
builds=${TUNEFLEET_CUDA_BUILDS:-13 12}
out=${OUT:-bin}
src=kernels/cuda
cache=.cache/cuda/objects
glibc_most=2.34 # of the oldest systems it has to run on (Ubuntu 22.04, RHEL 9)
glibcxx_most=3.4.29

fail() {
  echo "gpu:build: $*" >&2
  exit 1
}

FLAGS="-std=c++17 -O3 -DNDEBUG -I kernels -I $src --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v
  -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-unused-parameter"
for a in $archs; do FLAGS+=" -gencode arch=compute_$a,code=sm_$a"; done
export FLAGS="$FLAGS -gencode arch=compute_90,code=compute_90"

toolkit() {
  case $1 in
    13) echo "$root/13.0" ;;
    12) echo "$root/12.9" ;;
    *) fail "TUNEFLEET_CUDA_BUILDS: there is no build $1 (13, 12)" ;;
  esac
}
# A driver of CUDA 12 may not know how 13.0 packs code: it is left as it is.
more() { [ "$1" = 13 ] || echo --compress-mode=none; }
library() { [ "$1" = 13 ] && echo libtunefleet_cuda.so || echo "libtunefleet_cuda$1.so"; }

# compile FILE OBJECT NVCC FLAG. Registers spilled to memory, and wgmma that runs one by one (C7510), are errors.
compile() {
  local log=$2.log
  # shellcheck disable=SC2086
  "$3" $FLAGS $4 -c "$1" -o "$2.part" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
  if grep C7510 "$log" >&2; then echo "gpu:build: $1: wgmma instructions are serialized" >&2; return 1; fi
  if awk '/Compiling entry function/ {name = $0} /bytes spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ {print name; print; bad = 1}
          END {exit !bad}' "$log" >&2; then
    echo "gpu:build: $1: registers are spilled" >&2
    return 1
  fi
  mv "$2.part" "$2"
}
export -f compile

# An object's name tells what it was made of: compiler, flags, the file and the headers it includes.
mkdir -p "$cache" "$out"
declare -A objects=()
todo=()
for f in "$src"/*.cu; do
  used=$(g++ -MM -x c++ -std=c++17 -DTF_HOST -I kernels -I "$src" "$f" | sed 's/^[^:]*://; s/\\$//')
  for b in $builds; do
    dir=$(toolkit "$b")
    [ -x "$dir/bin/nvcc" ] || fail "there is no $dir/bin/nvcc: run deploy/setup/cuda.sh"
    key=$({ echo "$FLAGS" "$(more "$b")" "$(cat "$dir/WHEELS")"; cat $used; } | sha256sum | cut -c1-24)
    o=$cache/$(basename "$f" .cu)-$key.o
    objects[$b]+=" $o"
    [ -e "$o" ] || todo+=("$f" "$o" "$dir/bin/nvcc" "$(more "$b")")
  done
done

# Where NVIDIA's headers are, our declarations of its libraries are held against them.
for b in $builds; do
  dir=$(toolkit "$b")
  [ ! -d "$dir/headers" ] || g++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I "$dir/include" -I "$dir/headers" "$src/check/declarations.cc" ||
    fail "our declarations differ from NVIDIA's headers of CUDA $b"
done

if [ ${#todo[@]} -gt 0 ]; then
  echo "gpu:build: compiling $((${#todo[@]} / 4)) objects for $archs, CUDA $builds" >&2
  printf '%s\0' "${todo[@]}" | xargs -0 -n4 -P2 bash -c 'compile "$0" "$1" "$2" "$3"' || fail "some files did not compile"
fi

echo '{ global: tf_backend_get; local: *; };' >"$cache/exports"
for b in $builds; do
  so=$out/$(library "$b")
  # shellcheck disable=SC2086
  "$(toolkit "$b")/bin/nvcc" -shared -cudart static ${objects[$b]} -o "$so.part" \
    -Xlinker "--no-undefined,--version-script=$cache/exports,-soname,$(library "$b"),-s" -ldl -lpthread -lrt

  # What a loader sees: one symbol, an old enough libc, and nothing of NVIDIA's, so that it can be opened anywhere to say what is missing.
  symbols=$(nm -D --defined-only "$so.part" | awk '{print $3}' | tr '\n' ' ')
  [ "$symbols" = "tf_backend_get " ] || fail "$so exports: $symbols"
  glibc=$(objdump -T "$so.part" | grep -o 'GLIBC_[0-9.]*' | cut -c7- | sort -Vu | tail -1)
  [ "$(printf '%s\n' "$glibc" "$glibc_most" | sort -V | tail -1)" = "$glibc_most" ] || fail "$so needs glibc $glibc, newer than $glibc_most"
  glibcxx=$(objdump -T "$so.part" | grep -o 'GLIBCXX_[0-9.]*' | cut -c9- | sort -Vu | tail -1)
  [ "$(printf '%s\n' "$glibcxx" "$glibcxx_most" | sort -V | tail -1)" = "$glibcxx_most" ] || fail "$so needs libstdc++ $glibcxx, newer than $glibcxx_most"
  needed=$(objdump -p "$so.part" | awk '/NEEDED/ {print $2}' | grep -vE '^(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.so\.[0-9]+$|^ld-linux' || true)
  [ -z "$needed" ] || fail "$so needs $needed"
  mv "$so.part" "$so"
  echo "gpu:build: $so: $(($(stat -c %s "$so") / 1024)) KiB for $archs and PTX, CUDA $b, glibc $glibc, exports $symbols" >&2
done
