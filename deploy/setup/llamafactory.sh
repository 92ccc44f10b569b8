#!/usr/bin/env bash
# Makes the Python environment with LLaMA-Factory that the benchmark of data preparation and the golden runs compare with, outside the
# repository: ${TUNEFLEET_LF_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/llamafactory}.
# Usage: llamafactory.sh [--check]
set -euo pipefail

venv=${TUNEFLEET_LF_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/llamafactory}
torch=2.9.1
# The versions of the fixtures (fixtures/e2e/README.md), with LLaMA-Factory as PyPI has it.
wanted=(llamafactory==0.9.5 transformers==4.57.6 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 datasets==4.0.0 tokenizers==0.22.2 numpy==2.4.6
  jieba==0.42.1 nltk==3.10.4 rouge-chinese==1.0.3)

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
python3.11 -m venv "$venv" 2>/dev/null || python3 -m venv "$venv"
# The CPU build is a tenth of PyPI's; take it where its index can be reached.
cpu=https://download.pytorch.org/whl/cpu
if python3 -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=8).read(1)" 2>/dev/null; then
  "$venv/bin/pip" install -q --index-url "$cpu" "torch==$torch" torchvision==0.24.1 torchaudio==2.9.1
else
  "$venv/bin/pip" install -q "torch==$torch" torchvision==0.24.1 torchaudio==2.9.1
fi
"$venv/bin/pip" install -q "${wanted[@]}"
works || { echo "setup: $venv does not hold what was installed" >&2; exit 1; }
