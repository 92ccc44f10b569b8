#!/usr/bin/env bash
# Builds .cache/libtokenizers/libtokenizers.a, the static library behind github.com/daulet/tokenizers, from the Rust source that the
# Go module ships (deploy/libtokenizers holds our manifest and Cargo.lock). Does nothing when it is already built for this version.
#
# The project's releases also carry prebuilt archives. They are not used: no checksum that we could pin is published beside them.
# Usage: libtokenizers.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/../.."

module=github.com/daulet/tokenizers
min_cargo=85 # 1.85: what the crates in Cargo.lock ask for
out=.cache/libtokenizers
version=$(go list -m -f '{{.Version}}' "$module")
stamp="$version $(sha256sum deploy/libtokenizers/Cargo.lock | cut -c1-16) $(go env GOARCH)"

if [ -f "$out/libtokenizers.a" ] && [ "$(cat "$out/VERSION" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
[ "${1:-}" != --check ] || exit 1

cargo_minor() { cargo --version 2>/dev/null | sed -nE 's/^cargo [0-9]+\.([0-9]+)\..*/\1/p'; }

if ! command -v cargo >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo 'setup: no cargo; installing cargo-web and rustc-web (the newer Rust that Debian 12 keeps for its browsers)' >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cargo-web rustc-web >/dev/null
  else
    echo 'setup: libtokenizers needs cargo >= 1.85. Install Rust from https://rustup.rs, or: sudo apt-get install -y cargo-web rustc-web' >&2
    exit 1
  fi
fi
minor=$(cargo_minor)
if [ -z "$minor" ] || [ "$minor" -lt "$min_cargo" ]; then
  {
    echo "setup: $(command -v cargo) is $(cargo --version 2>/dev/null || echo 'not working'), older than the 1.85 that libtokenizers needs."
    echo '       It looks like the cargo package of Debian 12, which is from 2022. Either'
    echo '         apt-get install -y cargo-web rustc-web     (replaces it by a newer one from Debian 12 itself), or'
    echo '         install Rust from https://rustup.rs        and put ~/.cargo/bin first in PATH,'
    echo '       then run this again.'
  } >&2
  exit 1
fi

echo "setup: building libtokenizers $version with $(cargo --version | cut -d' ' -f1,2) (2 to 4 minutes on 2 cores)" >&2
go mod download "$module"
source_dir=$(go list -m -f '{{.Dir}}' "$module")
build="$out/build"
mkdir -p "$build/src"
install -m 644 deploy/libtokenizers/Cargo.toml deploy/libtokenizers/Cargo.lock "$build/"
install -m 644 "$source_dir/src/lib.rs" "$build/src/"
(cd "$build" && cargo build --release --locked --quiet)
# The linker must never meet half a file: copy beside it, then rename.
cp "$build/target/release/libtokenizers.a" "$out/libtokenizers.a.new"
mv "$out/libtokenizers.a.new" "$out/libtokenizers.a"
echo "$stamp" >"$out/VERSION"
rm -rf "$build/target"
