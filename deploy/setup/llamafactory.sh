#!/usr/bin/env bash
# Makes the Python environment with LLaMA-Factory that the benchmark of data preparation and the golden runs compare with, outside the
# repository: ${TUNEFLEET_LF_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/llamafactory}.
# Usage: llamafactory.sh [--check]
set -euo pipefail

venv=${TUNEFLEET_LF_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tunefleet/llamafactory}
torch=2.9.1
more=(torchvision==0.24.1 torchaudio==2.9.1)
# The versions of the fixtures (fixtures/e2e/README.md), with LLaMA-Factory as PyPI has it.
wanted=(llamafactory==0.9.5 transformers==4.57.6 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 datasets==4.0.0 tokenizers==0.22.2 numpy==2.4.6
  jieba==0.42.1 nltk==3.10.4 rouge-chinese==1.0.3)

# LLaMA-Factory knows this Python.
python=$(command -v python3.11 || echo python3)
. "$(dirname "$0")/venv.sh"
