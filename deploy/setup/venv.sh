# Sourced by python.sh and llamafactory.sh: makes the Python environment $venv with PyTorch $torch, the further packages of PyTorch's index
# in ${more[@]}, and ${wanted[@]} (NAME==VERSION), with the Python $python. With --check it only tells whether all of them are there.

works() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" - "torch==$torch" "${wanted[@]}" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
for w in sys.argv[1:]:
    name, v = w.split("==")
    if version(name).split("+")[0] != v:
        sys.exit(1)
PY
}

works && exit 0
[ "${1:-}" != --check ] || exit 1

echo "setup: installing PyTorch $torch, ${wanted[*]} into $venv (a large download, once)" >&2
mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv"
# The CPU build is a tenth of PyPI's; take it where its index can be reached.
cpu=https://download.pytorch.org/whl/cpu
index=()
if python3 -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=8).read(1)" 2>/dev/null; then
  index=(--index-url "$cpu")
fi
"$venv/bin/pip" install -q "${index[@]}" "torch==$torch" "${more[@]}"
"$venv/bin/pip" install -q "${wanted[@]}" numpy
works || { echo "setup: $venv does not hold what was installed" >&2; exit 1; }
