#!/bin/sh
# The table against upstream's own controller: builds it, starts it on a cluster that runs no other, stands in for scheduler
# and kubelet, tries the rows, and takes away again what it started. README.md says what the cluster must be.
#
#   KUBECONFIG=… run.sh DIR [options of `hearth-conformance run`]
#
# DIR gets the program, the logs, the rows as they came out (rows.txt) and their record (upstream.json). Ends with 1 when
# a row fails, with 2 when it cannot be tried.
set -eu

release=${UPSTREAM_RELEASE:-v0.5.6}
module=sigs.k8s.io/agent-sandbox
metrics=127.0.0.1:${METRICS_PORT:-18080}
health=127.0.0.1:${HEALTH_PORT:-18081}
node=conformance-stand-in
system=agent-sandbox-system
lease=a3317529.agent-sandbox.x-k8s.io
here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-$here/../../../target/debug/hearth-conformance}

say() { echo "==> $*"; }
die() {
    echo "error: $*" >&2
    exit 2
}

[ $# -ge 1 ] || die "usage: KUBECONFIG=… $0 DIR [options of hearth-conformance run]"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
[ -n "${KUBECONFIG:-}" ] || die "KUBECONFIG is not set"
export KUBECONFIG
for tool in go kubectl curl timeout; do
    command -v "$tool" >/dev/null || die "there is no $tool"
done
[ -x "$suite" ] || die "there is no $suite: cargo build -p hearth-conformance, or SUITE=…"
controller=$dir/agent-sandbox-controller

# Nothing on the way takes longer than this for one request.
kubectl() { command kubectl --request-timeout=30s "$@"; }

# Tries a command once a second, for so many seconds.
until_true() {
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 1
    done
}

# ---- the program

say "$module@$release"
description=$(timeout 300 go mod download -json "$module@$release") || die "no such module: $description"
source=$(printf '%s\n' "$description" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
[ -d "$source/cmd/agent-sandbox-controller" ] || die "the module has no controller"
if [ ! -x "$controller" ] || [ "$(cat "$dir/release" 2>/dev/null)" != "$release" ]; then
    (
        cd "$source"
        GOFLAGS=-mod=readonly timeout 3600 nice -n 19 go build -trimpath -o "$controller" ./cmd/agent-sandbox-controller
    ) || die "the controller cannot be built"
    echo "$release" >"$dir/release"
fi

# ---- the cluster: of this machine, and nobody's yet

server=$(kubectl config view --minify --output=jsonpath='{.clusters[0].cluster.server}')
case $server in
https://127.* | https://localhost:* | 'https://[::1]'*) ;;
*) die "$server is not on this machine: the CRDs of the cluster are replaced, and there is no way back" ;;
esac
kubectl get --raw=/readyz >/dev/null || die "$server is not ready"
renewed=$(kubectl get lease "$lease" --namespace="$system" --ignore-not-found --output=jsonpath='{.spec.renewTime}' 2>/dev/null || true)
if [ -n "$renewed" ]; then
    age=$(($(date +%s) - $(date --date="$renewed" +%s)))
    holder=$(kubectl get lease "$lease" --namespace="$system" --output=jsonpath='{.spec.holderIdentity}')
    [ -z "$holder" ] || [ "$age" -gt 30 ] || die "$holder leads there: stop it first"
fi
for kind in sandboxes.agents.x-k8s.io sandboxclaims.extensions.agents.x-k8s.io \
    sandboxtemplates.extensions.agents.x-k8s.io sandboxwarmpools.extensions.agents.x-k8s.io; do
    [ -z "$(kubectl get crd "$kind" --ignore-not-found --output=name)" ] && continue
    [ -z "$(kubectl get "$kind" --all-namespaces --output=name)" ] || die "there are $kind already: take an empty cluster"
done

say "upstream's CRDs, without v1alpha1: its conversion wants a webhook that the API server can reach"
kubectl create namespace "$system" --dry-run=client --output=yaml | kubectl apply --server-side --filename=- >/dev/null
for file in "$source"/k8s/crds/*.yaml; do
    # Where there is no v1alpha1 (since v1.0.0) the file is taken as it is.
    if ! kubectl patch --local --filename="$file" --type=json --output=json --patch='[
        {"op": "test", "path": "/spec/versions/1/name", "value": "v1alpha1"},
        {"op": "remove", "path": "/spec/versions/1"},
        {"op": "replace", "path": "/spec/conversion", "value": {"strategy": "None"}}
    ]' >"$dir/crd.json" 2>/dev/null; then
        cp "$file" "$dir/crd.json"
    fi
    kubectl apply --server-side --force-conflicts --filename="$dir/crd.json"
done
kubectl wait --for=condition=Established --timeout=60s --filename="$source/k8s/crds" >/dev/null

# ---- what runs

started=
finish() {
    status=$?
    trap - EXIT INT TERM
    for pid in $started; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    kubectl delete node "$node" --ignore-not-found --wait=false >/dev/null 2>&1 || true
    kubectl delete lease "$node" --namespace=kube-node-lease --ignore-not-found >/dev/null 2>&1 || true
    exit "$status"
}
trap finish EXIT
trap 'exit 2' INT TERM

say "the controller, with a grace period of 30 s for members (as rows set it in a field that $release may not have)"
webhook=
"$controller" -h 2>&1 | grep -q -- '-enable-webhook' && webhook=--enable-webhook=false
# shellcheck disable=SC2086 # no word or one
"$controller" --kubeconfig="$KUBECONFIG" --extensions $webhook \
    --leader-elect --leader-election-namespace="$system" \
    --metrics-bind-address="$metrics" --health-probe-bind-address="$health" \
    --sandbox-warm-pool-readiness-grace-period=30s >"$dir/controller.log" 2>&1 &
started="$started $!"
until_true 60 curl --fail --silent --max-time 5 "http://$health/readyz" ||
    die "the controller does not get ready: $(tail -n 5 "$dir/controller.log")"
leads() { curl --fail --silent --max-time 5 "http://$metrics/metrics" | grep -q '^leader_election_master_status.* 1$'; }
until_true 60 leads || die "the controller does not lead: $(tail -n 5 "$dir/controller.log")"

say "a stand-in for scheduler and kubelet"
"$suite" stand-in --kubeconfig="$KUBECONFIG" --node="$node" >"$dir/stand-in.log" 2>&1 &
started="$started $!"
is_ready() { [ "$(kubectl get node "$node" --output=jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
until_true 60 is_ready || die "the stand-in does not stand in: $(tail -n 5 "$dir/stand-in.log")"

say "the rows; those that look into a sandbox need 'reach', which a stand-in has not"
rm -f "$dir/upstream.json"
timeout 5400 "$suite" run --kubeconfig="$KUBECONFIG" --implementation=upstream --release="$release" \
    --have=node,pods,controllers,metrics,program --metrics="$metrics" --program="$controller" \
    --image=localhost/none:1 --parallel-nodes=12 --namespace-prefix=upstream \
    --record="$dir/upstream.json" --write "$@" >"$dir/rows.txt" 2>&1 || {
    tail -n 5 "$dir/rows.txt" >&2
    die "the rows could not be tried"
}

say "what fails"
grep '^FAILS' "$dir/rows.txt" || echo "nothing"
tail -n 1 "$dir/rows.txt"
! grep -q '^FAILS' "$dir/rows.txt"
