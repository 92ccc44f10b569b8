#!/usr/bin/env bash
# gofmt, go vet, golangci-lint and govulncheck over the whole module. Linters are built once, with cgo off, into .cache/tools.
set -euo pipefail
cd "$(dirname "$0")/../.."

golangci=v2.15.0
govulncheck=v1.9.0
bin="$PWD/.cache/tools"
mkdir -p "$bin"
failed=0

tool() { # tool NAME MODULE VERSION
  if [ "$(cat "$bin/$1.version" 2>/dev/null)" != "$3" ]; then
    echo "lint: building $1 $3" >&2
    CGO_ENABLED=0 GOBIN="$bin" go install "$2@$3"
    echo "$3" >"$bin/$1.version"
  fi
}

echo '== gofmt'
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { echo "$unformatted"; echo 'run: gofmt -w on these files'; failed=1; }

echo '== file length (at most 800 lines)'
long=$(git ls-files -co --exclude-standard '*.go' '*.c' '*.h' '*.py' '*.sh' | while read -r f; do n=$(wc -l <"$f"); [ "$n" -le 800 ] || echo "$f $n"; done)
[ -z "$long" ] || { echo "$long"; failed=1; }

echo '== golangci-lint'
tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci"
"$bin/golangci-lint" run --allow-parallel-runners --timeout 20m ./... || failed=1

echo '== govulncheck'
tool govulncheck golang.org/x/vuln/cmd/govulncheck "$govulncheck"
if out=$("$bin/govulncheck" ./... 2>&1); then
  echo 'no known vulnerabilities are called'
elif grep -qE 'vuln\.go\.dev|no such host|dial tcp|fetching vulnerabilities' <<<"$out"; then
  echo 'skipped: the vulnerability database cannot be reached'
else
  echo "$out"
  failed=1
fi
exit $failed
