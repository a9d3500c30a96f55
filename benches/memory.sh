#!/bin/sh
# Prints what a node with pods takes in memory, by program: proportional set size, so that what is shared is counted
# once, and not what is swapped out. Wants root, and a cluster that `cargo xtask up` made, whose directory is
# HEARTH_DIR (default: .hearth).
set -eu
cd "$(dirname "$0")/.."

: "${HEARTH_DIR:=$PWD/.hearth}"
instance=$(sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' "$HEARTH_DIR/instance.json" | head -n 1)
[ -n "$instance" ] || { echo "no instance in $HEARTH_DIR" >&2; exit 1; }

for process in /proc/[0-9]*; do
    grep -qs "hearth-$instance" "$process/cgroup" || [ "$(cat "$process/comm" 2>/dev/null)" = hearthd ] || continue
    # Whoever ends meanwhile has no memory.
    kib=$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "$process/smaps_rollup" 2>/dev/null) || continue
    echo "$(cat "$process/comm" 2>/dev/null) ${kib:-0}"
done | awk '
    { count[$1]++; kib[$1] += $2 }
    END { for (name in count) printf "%-20s %5d processes %9.1f MiB %8.2f MiB each\n", name, count[name], kib[name] / 1024, kib[name] / 1024 / count[name] }
' | sort
