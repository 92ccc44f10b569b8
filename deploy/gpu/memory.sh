#!/usr/bin/env bash
# The most memory of one step of Llama-2-7B's shape (random weights, one sequence of 2,048 tokens) as the driver reports it, against the limits
# in GiB. Under 7 minutes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

memory() { step "$1" ./tunefleet verify memory --device cuda --model "$memory_model" --seq "$memory_seq" --recompute --json "${@:2}"; }

memory lora --method lora --limit 16GiB
memory int8 --method int8 --limit 10GiB
memory nf4 --method qlora --limit 6GiB
memory full --method full --pure-bf16 --optim adamw_8bit --by-block --limit 40GiB
# Ranks of one gang share the card; their exchanges go through the host. Small weights: this is about the path, not about size.
TUNEFLEET_DEVICE=cuda step two-ranks ./tunefleet train "$ranks_run" --num_workers 2 --output_dir "$results/two-ranks" --log_dir "$results/two-ranks" --dir "$results/two-ranks-data" --json
finish
