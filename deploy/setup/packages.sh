#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, when they are missing and we are root.
# Usage: packages.sh [--check]     --check only says (by its exit status) whether something is missing.
set -euo pipefail

commands=(gcc g++ make redis-server python3)
packages=(gcc g++ make redis-server python3 python3-venv)

missing() {
  local c
  for c in "${commands[@]}"; do
    command -v "$c" >/dev/null || { echo "$c"; return; }
  done
  [ -f /usr/include/stdio.h ] || { echo "C library headers"; return; }
  python3 -c 'import ensurepip' 2>/dev/null || echo "python3-venv"
}

what=$(missing)
[ -n "$what" ] || exit 0
[ "${1:-}" != --check ] || exit 1

if ! command -v apt-get >/dev/null; then
  echo "setup: $what is missing and this is no Debian system: install ${packages[*]} (or their likes) and run this again" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "setup: $what is missing. Run: sudo apt-get install -y ${packages[*]}" >&2
  exit 1
fi
echo "setup: $what is missing; installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Packages start no servers here: a redis-server on the default port would only be in the way.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
what=$(missing)
[ -z "$what" ] || { echo "setup: $what is still missing after apt-get install" >&2; exit 1; }
