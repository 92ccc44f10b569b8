#!/usr/bin/env bash
# Compiles kernels/cuda/*.cu into bin/libtunefleet_cuda.so and checks what came out. Only files that changed are compiled, two at a time.
# It needs neither a GPU nor a driver.
#   TUNEFLEET_CUDA_ARCHS  which cards, default "80 89 90a 100", and PTX for others; "90a" is enough for development
#   OUT                   the library's path
set -euo pipefail
cd "$(dirname "$0")/../.."

cuda=${TUNEFLEET_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/cuda}/13.0
archs=${TUNEFLEET_CUDA_ARCHS:-80 89 90a 100}
out=${OUT:-bin/libtunefleet_cuda.so}
src=kernels/cuda
cache=.cache/cuda/objects
glibc_most=2.34 # of the oldest systems it has to run on (Ubuntu 22.04, RHEL 9)
glibcxx_most=3.4.29
export NVCC=$cuda/bin/nvcc

fail() {
  echo "gpu:build: $*" >&2
  exit 1
}
[ -x "$NVCC" ] || fail "there is no $NVCC: run deploy/setup/cuda.sh"

flags=(-std=c++17 -O3 -DNDEBUG -I kernels -I "$src" --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v
  -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-unused-parameter)
for a in $archs; do flags+=(-gencode "arch=compute_$a,code=sm_$a"); done
export FLAGS="${flags[*]} -gencode arch=compute_90,code=compute_90"

# Where NVIDIA's headers are, our declarations of its libraries are held against them.
[ ! -d "$cuda/headers" ] || g++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I "$cuda/include" -I "$cuda/headers" "$src/check/declarations.cc" ||
  fail "our declarations differ from NVIDIA's headers"

# An object's name tells what it was made of: compiler, flags, the file and the headers it includes.
mkdir -p "$cache" "$(dirname "$out")"
objects=() todo=()
for f in "$src"/*.cu; do
  used=$(g++ -MM -x c++ -std=c++17 -DTF_HOST -I kernels -I "$src" "$f" | sed 's/^[^:]*://; s/\\$//')
  key=$({ echo "$FLAGS" "$(cat "$cuda/WHEELS")"; cat $used; } | sha256sum | cut -c1-24)
  o=$cache/$(basename "$f" .cu)-$key.o
  objects+=("$o")
  [ -e "$o" ] || todo+=("$f" "$o")
done

# compile FILE OBJECT. Registers spilled to memory, and wgmma that runs one by one (C7510), are errors.
compile() {
  local log=$2.log
  # shellcheck disable=SC2086
  "$NVCC" $FLAGS -c "$1" -o "$2.part" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
  if grep C7510 "$log" >&2; then echo "gpu:build: $1: wgmma instructions are serialized" >&2; return 1; fi
  if awk '/Compiling entry function/ {name = $0} /bytes spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ {print name; print; bad = 1}
          END {exit !bad}' "$log" >&2; then
    echo "gpu:build: $1: registers are spilled" >&2
    return 1
  fi
  mv "$2.part" "$2"
}
export -f compile

if [ ${#todo[@]} -gt 0 ]; then
  echo "gpu:build: compiling $((${#todo[@]} / 2)) of ${#objects[@]} files for $archs" >&2
  printf '%s\0' "${todo[@]}" | xargs -0 -n2 -P2 bash -c 'compile "$0" "$1"' || fail "some files did not compile"
fi

echo '{ global: tf_backend_get; local: *; };' >"$cache/exports"
"$NVCC" -shared -cudart static "${objects[@]}" -o "$out.part" -Xlinker "--no-undefined,--version-script=$cache/exports,-soname,libtunefleet_cuda.so,-s" -ldl -lpthread -lrt

# What a loader sees: one symbol, an old enough libc, and nothing of NVIDIA's, so that it can be opened anywhere to say what is missing.
symbols=$(nm -D --defined-only "$out.part" | awk '{print $3}' | tr '\n' ' ')
[ "$symbols" = "tf_backend_get " ] || fail "it exports: $symbols"
glibc=$(objdump -T "$out.part" | grep -o 'GLIBC_[0-9.]*' | cut -c7- | sort -Vu | tail -1)
[ "$(printf '%s\n' "$glibc" "$glibc_most" | sort -V | tail -1)" = "$glibc_most" ] || fail "it needs glibc $glibc, newer than $glibc_most"
glibcxx=$(objdump -T "$out.part" | grep -o 'GLIBCXX_[0-9.]*' | cut -c9- | sort -Vu | tail -1)
[ "$(printf '%s\n' "$glibcxx" "$glibcxx_most" | sort -V | tail -1)" = "$glibcxx_most" ] || fail "it needs libstdc++ $glibcxx, newer than $glibcxx_most"
needed=$(objdump -p "$out.part" | awk '/NEEDED/ {print $2}' | grep -vE '^(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.so\.[0-9]+$|^ld-linux' || true)
[ -z "$needed" ] || fail "it needs $needed"
mv "$out.part" "$out"
echo "gpu:build: $out: $(($(stat -c %s "$out") / 1024)) KiB for $archs and PTX, glibc $glibc, exports $symbols" >&2
