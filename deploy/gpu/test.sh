#!/usr/bin/env bash
# The three scripts one after another; each writes results/<name>-<time>/summary.txt and logs.
set -uo pipefail
cd "$(dirname "$0")"
bad=0
for s in correctness sanitizer memory; do
  ./$s.sh
  rc=$?
  [ $rc = 0 ] || [ $rc = 3 ] || bad=1
done
exit $bad
