#!/usr/bin/env bash
# Builds a MinIO server for the store's conformance test, outside the repository:
# ${TUNEFLEET_MINIO:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/minio}/bin/minio. It is a program that a test starts, never a dependency:
# MinIO is AGPL, so its module does not enter go.mod. About 3 minutes on 2 cores, downloads included.
# Usage: minio.sh [--check]
set -euo pipefail

version=v0.0.0-20260212201848-7aac2a2c5b7c
dir=${TUNEFLEET_MINIO:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/minio}

[ ! -x "$dir/bin/minio" ] || [ "$(cat "$dir/VERSION" 2>/dev/null)" != "$version" ] || exit 0
[ "${1:-}" != --check ] || exit 1

echo "setup: building MinIO $version into $dir (about 3 minutes on 2 cores)" >&2
mkdir -p "$dir/bin"
# Outside of any module, so that nothing of this one is touched.
cd "$dir"
CGO_ENABLED=0 GOFLAGS='' GOBIN="$dir/bin" go install "github.com/minio/minio@$version"
echo "$version" >"$dir/VERSION"
