//! Who used the CPU during a run, by process name. Only meaningful when the cluster runs on this machine.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use procfs::CurrentSI as _;
use procfs::process::{Process, all_processes};
use tokio::time::sleep;

/// Processes whose CPU time tells where a claim's time goes. The kernel keeps 15 bytes of a name.
const WATCHED: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kube-controller",
    "agent-sandbox-c",
    "hearthd",
    "containerd",
    "containerd-shim",
    "runc",
    "hearth-bench",
];

/// CPU time of each watched process so far.
#[derive(Debug)]
pub(crate) struct CpuSnapshot(HashMap<(i32, u64), (String, u64)>);

impl CpuSnapshot {
    /// Reads `/proc`; what cannot be read is left out.
    pub(crate) fn take() -> Self {
        let processes = all_processes().into_iter().flatten().flatten();
        let ticks = processes.filter_map(|process| {
            let stat = process.stat().ok()?;
            WATCHED.contains(&stat.comm.as_str()).then(|| {
                let waited_for = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
                (
                    (stat.pid, stat.starttime),
                    (stat.comm, stat.utime + stat.stime + waited_for),
                )
            })
        });
        Self(ticks.collect())
    }

    /// CPU seconds by name since `earlier`. Children that have ended count for who waited for them.
    pub(crate) fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let mut ticks: BTreeMap<String, u64> = BTreeMap::new();
        for (process, (name, now)) in &self.0 {
            let before = earlier.0.get(process).map_or(0, |(_, ticks)| *ticks);
            *ticks.entry(name.clone()).or_default() += now.saturating_sub(before);
        }
        let per_second = procfs::ticks_per_second();
        let seconds = |ticks: u64| ticks as f64 / per_second as f64;
        ticks
            .into_iter()
            .filter(|(_, ticks)| *ticks > 0)
            .map(|(name, ticks)| (name, seconds(ticks)))
            .collect()
    }
}

/// Resident memory of the watched processes by name, in bytes. What cannot be read is left out.
pub(crate) fn resident_bytes() -> BTreeMap<String, u64> {
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let Ok(name) = process.stat().map(|stat| stat.comm) else {
            continue;
        };
        if WATCHED.contains(&name.as_str()) {
            *bytes.entry(name).or_default() += resident(&process).unwrap_or(0);
        }
    }
    bytes
}

fn resident(process: &Process) -> Option<u64> {
    let kib = process.status().ok()?.vmrss?;
    Some(kib * 1024)
}

/// Resident memory of this process in bytes.
pub(crate) fn own_resident_bytes() -> Option<u64> {
    Process::myself().ok().as_ref().and_then(resident)
}

/// CPU time of this process so far, in seconds.
pub(crate) fn own_seconds() -> f64 {
    let stat = Process::myself().and_then(|process| process.stat());
    let ticks = stat.map_or(0, |stat| stat.utime + stat.stime);
    ticks as f64 / procfs::ticks_per_second() as f64
}

/// The pids of the processes of this name.
pub(crate) fn pids_of(name: &str) -> Vec<i32> {
    let processes = all_processes().into_iter().flatten().flatten();
    processes
        .filter(|process| process.stat().is_ok_and(|stat| stat.comm == name))
        .map(|process| process.pid())
        .collect()
}

const REST_INTERVAL: Duration = Duration::from_millis(500);
const REST_SHARE: f64 = 0.2;

/// Waits until the machine is four fifths idle for two intervals in a row, at most `limit`. Nothing tells when a
/// machine comes to rest, so its counters are read. A machine whose counters cannot be read counts as idle.
pub(crate) async fn wait_idle(limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut earlier = busy_and_total();
    let mut at_rest = 0;
    while at_rest < 2 && Instant::now() < deadline {
        sleep(REST_INTERVAL).await;
        let now = busy_and_total();
        at_rest = if busy_share(earlier, now) < REST_SHARE {
            at_rest + 1
        } else {
            0
        };
        earlier = now;
    }
}

fn busy_share((busy_before, total_before): (u64, u64), (busy, total): (u64, u64)) -> f64 {
    let elapsed = total.saturating_sub(total_before).max(1);
    busy.saturating_sub(busy_before) as f64 / elapsed as f64
}

/// Ticks of all CPUs since boot: busy, and altogether.
fn busy_and_total() -> (u64, u64) {
    let Ok(cpu) = procfs::KernelStats::current().map(|stats| stats.total) else {
        return (0, 0);
    };
    let busy = cpu.user + cpu.nice + cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
    let other = cpu.idle + cpu.iowait.unwrap_or(0) + cpu.steal.unwrap_or(0);
    (busy, busy + other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(processes: &[(i32, &str, u64)]) -> CpuSnapshot {
        CpuSnapshot(
            processes
                .iter()
                .map(|(pid, name, ticks)| ((*pid, 7), ((*name).to_owned(), *ticks)))
                .collect(),
        )
    }

    #[test]
    fn the_busy_share_is_that_of_the_interval() {
        assert_eq!(busy_share((100, 1_000), (150, 1_200)), 0.25);
        assert_eq!(busy_share((0, 0), (0, 0)), 0.0);
    }

    #[test]
    fn processes_of_one_name_are_added_and_new_ones_count_from_zero() {
        let before = snapshot(&[(1, "etcd", 100), (2, "hearthd", 50), (3, "runc", 10)]);
        let after = snapshot(&[(1, "etcd", 300), (2, "hearthd", 50), (4, "etcd", 100)]);
        let per_second = procfs::ticks_per_second() as f64;
        assert_eq!(
            after.since(&before),
            BTreeMap::from([("etcd".to_owned(), 300.0 / per_second)])
        );
    }
}
