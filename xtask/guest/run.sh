#!/bin/sh
# Runs in the guest, as root, after its boot: the kernel tests, then hearthd as a service of systemd,
# then the cluster tests against it. What it prints goes to the second serial port, and hearthd's log to
# the third; the last line is the verdict. Afterwards the guest is turned off.
exec >/dev/ttyS1 2>&1
set -u
. /hearth/guest/settings

failed=0
say() { echo "==> guest: $*"; }
verdict() {
    echo "hearth-guest: $([ "$failed" -eq 0 ] && echo passed || echo FAILED)"
    sync
    systemctl poweroff --force
}
trap verdict EXIT

say "$(uname -r), cgroups $(stat -f -c %T /sys/fs/cgroup), $(systemctl --version | head -n 1)"
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || { say "no unified cgroup hierarchy"; failed=1; exit; }

# Delegate makes systemd pass all controllers down to the services.
say "hearthd"
# shellcheck disable=SC2086 # the settings are words
systemd-run --quiet --unit=hearthd --property=Delegate=yes --property=KillMode=process \
    --property=StandardOutput=append:/hearth/log/hearthd.log \
    --property=StandardError=append:/hearth/log/hearthd.log \
    --setenv=PATH="/hearth/bin:$PATH" /hearth/bin/hearthd $HEARTHD_ARGS || { failed=1; exit; }
tail -n +1 -F /hearth/log/hearthd.log /hearth/node/log/containerd.log >/dev/ttyS2 2>/dev/null &

say "kernel tests"
modprobe zram || { say "no zram"; failed=1; }
# How fast something is cannot be told under emulation; mounts, and a socket that runs over, are the same with any cgroups.
/hearth/tests/kernel --test-threads=1 --skip ten_tasks_freeze_and_thaw_fast \
    --skip a_log_that_nobody_reads_says_that_it_has_lost_some \
    --skip mounts:: --skip host_paths:: --skip trees:: || failed=1

# It has had its time to come up while the kernel tests ran.
left=180
until busybox wget -q -O /dev/null "http://127.0.0.1:$METRICS_PORT/readyz" 2>/dev/null; do
    left=$((left - 1))
    if [ "$left" -eq 0 ] || ! systemctl is-active --quiet hearthd; then
        say "hearthd does not become ready"
        busybox wget -O - "http://127.0.0.1:$METRICS_PORT/readyz"
        failed=1
        exit
    fi
    sleep 1
done

say "cluster tests"
# A filter that fits no test would pass without having tested anything.
for filter in $FILTERS; do
    /hearth/tests/cluster --list --skip gvisor:: "$filter" | grep ': test$' >/dev/null ||
        { say "no cluster test fits the filter $filter"; failed=1; }
done
# shellcheck disable=SC2086 # the settings are words
HEARTH_DIR=/hearth KUBECONFIG=/hearth/kubeconfig HEARTH_PATIENCE=4 \
    /hearth/tests/cluster --test-threads=1 --nocapture --skip gvisor:: $FILTERS || failed=1
