#!/bin/sh
# Takes the figures of docs/benchmarks.md: five loads, each against the floor of the same cluster in five rounds.
# Wants a cluster that `cargo xtask up` made (or KUBECONFIG), and a machine that does nothing else. Takes about an
# hour, most of it until the pool is whole again after each round.
set -eu
cd "$(dirname "$0")/.."

: "${KUBECONFIG:=$PWD/.hearth/kubeconfig}"
: "${POOL:=bench}"
: "${REPLICAS:=450}"
export KUBECONFIG
PATH=$PWD/.hearth/bin:$PATH
results=benches/results
# Aside until all is done, because a result names the commit, and whether anything differed from it.
taken=$(mktemp -d)
bench=${CARGO_TARGET_DIR:-target}/debug/hearth-bench

[ -x "$bench" ] || { echo "$bench is not there: cargo xtask up builds it" >&2; exit 1; }
kubectl apply -f benches/pool.yaml
kubectl scale sandboxwarmpool "$POOL" --replicas="$REPLICAS"
kubectl wait --for=jsonpath='{.status.readyReplicas}'="$REPLICAS" --timeout=30m sandboxwarmpool "$POOL"

# A missed budget and a void run are results too: they stand in the file, and the next load is measured all the same.
compare() {
    name=$1
    shift
    echo "== $name"
    "$bench" compare "$@" --pool "$POOL" --json "$taken/$name.json" || echo "$name: incomplete" >&2
}
compare one one --count 100 --budget 1.5
compare rate-10 rate --rate 10 --duration 30s
compare rate-45 rate --rate 45 --duration 10s --budget 2
compare burst-100 burst --count 100
compare burst-300 burst --count 300 --budget 2

# By itself, because asking the sandboxes takes CPU from the cluster that is measured.
echo "== first answer"
"$bench" one --count 100 --ttfi --wait-pool --pool "$POOL" --title "First HTTP answer, one at a time" \
    --json "$taken/first-answer.json" || echo "first-answer: incomplete" >&2

cp "$taken"/*.json "$results"/
rm -r "$taken"
benches/report.sh
