#!/usr/bin/env bash
# Makes the Python environment that the tests and the benchmark compare with (PyTorch, transformers, peft, optimizers), outside the repository,
# so that it outlives clones: ${TUNEFLEET_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/venv}.
# Usage: python.sh [--check]
set -euo pipefail

venv=${TUNEFLEET_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/venv}
torch=2.9.1
more=()
wanted=(transformers==4.57.6 peft==0.18.1
  adam-mini==1.1.1 apollo-torch==1.0.3 badam==1.4 bitsandbytes==0.50.2 galore-torch==1.0 lion-pytorch==0.2.5)
python=python3
. "$(dirname "$0")/venv.sh"
