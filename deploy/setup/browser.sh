#!/usr/bin/env bash
# Installs Debian's Chromium (about 100 MB to download) for the test that looks at the dashboard, when there is none and we are root.
# Usage: browser.sh [--check]
set -euo pipefail

there() { for b in chromium chromium-browser google-chrome chrome; do if command -v "$b" >/dev/null; then return 0; fi; done; return 1; }

! there || exit 0
[ "${1:-}" != --check ] || exit 1
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo 'setup: no Chromium is installed. Run: sudo apt-get install -y chromium' >&2
  exit 1
fi
echo 'setup: installing chromium' >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium >/dev/null
there || { echo 'setup: chromium is still missing after apt-get install' >&2; exit 1; }
