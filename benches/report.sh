#!/bin/sh
# Writes the results there are into docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."

bench=${CARGO_TARGET_DIR:-target}/debug/hearth-bench
for name in one rate-10 rate-45 burst-100 burst-300 first-answer fake-rate-45 fake-rate-100 scale binds; do
    file=benches/results/$name.json
    [ ! -f "$file" ] || set -- "$@" "$file"
done
"$bench" report --into docs/benchmarks.md "$@"
