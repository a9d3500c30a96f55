//! What Hearth asks of the kernel: freezer, cgroup limits and statistics, mounts, processes, nftables.
