#!/usr/bin/env bash
# The kernels' tests, compiled for AArch64 and run by qemu-user: plain C and NEON have equal bits, and they are those of x86
# (kernels/testdata/bits.json). Installs the cross compiler and the emulator when they are missing and we are root.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "neon: run as root: apt-get install -y ${packages[*]}" >&2
    exit 1
  fi
  echo "neon: installing ${packages[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# The other tests of the package compile with the machine's own compiler, or ask what Linux says of a process.
skip='TestAuto|TestOpenRefuses|TestThreadMemory'
CGO_ENABLED=1 GOOS=linux GOARCH=arm64 CC=aarch64-linux-gnu-gcc CGO_LDFLAGS= go test -c -o "$out/kernels.test" ./kernels
cd kernels
qemu-aarch64 -L /usr/aarch64-linux-gnu "$out/kernels.test" -test.skip "$skip" -test.timeout 10m "$@"
