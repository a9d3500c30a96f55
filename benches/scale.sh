#!/bin/sh
# Takes the figures of docs/benchmarks.md that need no machines but this one: claims on fake nodes at 45/s and 100/s,
# 20,000 sandboxes on 200 of them, binds on one. Makes and takes down clusters of its own in .hearth-fake. Wants root,
# 16 GiB, and a machine that does nothing else; takes about two hours.
set -eu
cd "$(dirname "$0")/.."

dir=$PWD/.hearth-fake
results=benches/results
# Aside until all is done, because a result names the commit, and whether anything differed from it.
taken=$(mktemp -d)
bench=${CARGO_TARGET_DIR:-target}/debug/hearth-bench
export KUBECONFIG=$dir/kubeconfig
PATH=$dir/bin:$PATH
trap 'cargo xtask down --dir "$dir"' EXIT

# A missed budget and a void run are results too.
take() {
    name=$1
    shift
    echo "== $name"
    "$bench" "$@" --json "$taken/$name.json" || echo "$name: incomplete" >&2
}

cargo xtask up --yes --dir "$dir" --no-examples --fake-nodes 8 --node-flag=--max-sandboxes=2000
kubectl apply -f benches/pool.yaml
kubectl scale sandboxwarmpool bench --replicas=6000
kubectl wait --for=jsonpath='{.status.readyReplicas}'=6000 --timeout=60m sandboxwarmpool bench
for rate in 45 100; do
    take "fake-rate-$rate" compare rate --pool bench --rate "$rate" --duration 60s --pool-timeout 30m \
        --release-timeout 20m --title "$rate/s for 60 s, eight fake nodes"
done
cargo xtask down --dir "$dir"

cargo xtask up --yes --dir "$dir" --no-examples --fake-nodes 200 \
    --node-flag=--heartbeat-seconds=40 --node-flag=--max-sandboxes=125
take scale scale --members 100,1000,10000,20000 --pools 8 --spec-bytes 2048
cargo xtask down --dir "$dir"

take binds binds --count 5000 --rate 1000 --budget 1000

cp "$taken"/*.json "$results"/
rm -r "$taken"
benches/report.sh
