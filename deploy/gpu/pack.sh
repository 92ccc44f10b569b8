#!/usr/bin/env bash
# Puts all that the three scripts beside this one need into bin/gpu: binaries, the CUDA library, reference folders. Copy that folder to a
# machine with an NVIDIA GPU, which needs the driver and nothing else, and run ./test.sh there.
# OUT names another folder, LIBRARIES another place of the libraries, and QUICK=1 leaves symbols and paths in, as other builds do (rehearse.sh).
# Needs what bin/tunefleet needs, gpu:build done, and the reference fixtures (TUNEFLEET_FIXTURES, by default ../shared/fixtures).
set -euo pipefail
cd "$(dirname "$0")/../.."
fixtures=${TUNEFLEET_FIXTURES:-$PWD/../shared/fixtures}
out=${OUT:-bin/gpu}
libraries=${LIBRARIES:-bin} # where the CUDA backend's libraries are
most=$((15 << 20)) # bytes of the checker

for l in libtunefleet_cuda.so libtunefleet_cuda12.so; do
  [ -f "$libraries/$l" ] || { echo "gpu:pack: there is no $libraries/$l: run go tool task gpu:build" >&2; exit 1; }
done
[ -d "$fixtures/models" ] || { echo "gpu:pack: there are no reference folders at $fixtures (TUNEFLEET_FIXTURES)" >&2; exit 1; }
rm -rf "$out"
mkdir -p "$out/fixtures"
strip=(-trimpath -ldflags '-s -w')
[ -z "${QUICK:-}" ] || strip=()
go build "${strip[@]}" -o "$out/gpucheck" ./gpuworker/gpucheck
size=$(stat -c %s "$out/gpucheck")
[ "$size" -le "$most" ] || [ -n "${QUICK:-}" ] || { echo "gpu:pack: the checker has $size bytes, at most $most are allowed" >&2; exit 1; }
go build "${strip[@]}" -o "$out/tunefleet" ./services/cmd/tunefleet
cp "$libraries/libtunefleet_cuda.so" "$libraries/libtunefleet_cuda12.so" "$out/"
cp -rL "$fixtures/models" "$fixtures/train" "$out/fixtures/"
mkdir -p "$out/example"
cp -r producer/examples/contract-review/. "$out/example/"
cp deploy/gpu/test.sh deploy/gpu/correctness.sh deploy/gpu/sanitizer.sh deploy/gpu/memory.sh deploy/gpu/common.sh "$out/"
git rev-parse HEAD >"$out/COMMIT" 2>/dev/null || true
echo "gpu:pack: $out has $(du -sm "$out" | cut -f1) MiB, the checker $((size >> 10)) KiB" >&2
