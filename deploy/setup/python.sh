#!/usr/bin/env bash
# Makes the Python environment that the tests and the benchmark compare with (PyTorch, transformers, peft), outside the repository,
# so that it outlives clones: ${TUNEFLEET_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/venv}.
# Usage: python.sh [--check]
set -euo pipefail

venv=${TUNEFLEET_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/venv}
torch=2.9.1
wanted=(transformers==4.57.6 peft==0.18.1)

works() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" - "$torch" "${wanted[@]}" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
ok = version("torch").split("+")[0] == sys.argv[1]
for w in sys.argv[2:]:
    name, v = w.split("==")
    ok = ok and version(name) == v
sys.exit(0 if ok else 1)
PY
}

works && exit 0
[ "${1:-}" != --check ] || exit 1

echo "setup: installing PyTorch $torch, ${wanted[*]} into $venv (a large download, once)" >&2
mkdir -p "$(dirname "$venv")"
python3 -m venv "$venv"
# The CPU build is a tenth of PyPI's; take it where its index can be reached.
cpu=https://download.pytorch.org/whl/cpu
if python3 -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=8).read(1)" 2>/dev/null; then
  "$venv/bin/pip" install -q --index-url "$cpu" "torch==$torch"
else
  "$venv/bin/pip" install -q "torch==$torch"
fi
"$venv/bin/pip" install -q "${wanted[@]}" numpy
works || { echo "setup: $venv does not hold what was installed" >&2; exit 1; }
