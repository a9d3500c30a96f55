//! Limits of a pod in Kubernetes' units, and the kubelet's conversion to the kernel's.

use std::path::PathBuf;

use super::{Cgroup, CgroupError, Version, file};

/// Period over which CPU time is limited, in microseconds.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// The least CPU time per period that the kernel takes, in microseconds.
const MIN_QUOTA_MICROS: u64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// Limits of a pod. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Sum of CPU requests in thousandths of a core; 0 gives the smallest share.
    pub cpu_request_millis: u64,
    /// CPU limit in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// How many processes and threads the pod may have.
    pub pids: Option<u64>,
}

impl Limits {
    /// CPU shares as v1 has them: 1024 for each requested core.
    fn shares(&self) -> u64 {
        (self.cpu_request_millis.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
    }

    /// The same as a v2 weight: the range of shares mapped onto 1 to 10000.
    fn weight(&self) -> u64 {
        1 + (self.shares() - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
    }

    /// CPU time per period in microseconds.
    fn quota(&self) -> Option<u64> {
        let quota =
            |millis: u64| (millis.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(MIN_QUOTA_MICROS);
        self.cpu_limit_millis.map(quota)
    }
}

/// Writes the limits of a cgroup, each where its controller works.
pub(super) fn write(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    let v2_max =
        |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
    let v1_max =
        |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());

    let (version, cpu) = place(cgroup, "cpu")?;
    match version {
        Version::V1 => {
            file::write(&cpu.join("cpu.shares"), &limits.shares().to_string())?;
            file::write(
                &cpu.join("cpu.cfs_period_us"),
                &CPU_PERIOD_MICROS.to_string(),
            )?;
            file::write(&cpu.join("cpu.cfs_quota_us"), &v1_max(limits.quota()))?;
        }
        Version::V2 => {
            file::write(&cpu.join("cpu.weight"), &limits.weight().to_string())?;
            file::write(
                &cpu.join("cpu.max"),
                &format!("{} {CPU_PERIOD_MICROS}", v2_max(limits.quota())),
            )?;
        }
    }
    let (version, memory) = place(cgroup, "memory")?;
    match version {
        Version::V1 => file::write(
            &memory.join("memory.limit_in_bytes"),
            &v1_max(limits.memory_bytes),
        )?,
        Version::V2 => file::write(&memory.join("memory.max"), &v2_max(limits.memory_bytes))?,
    }
    let (_, pids) = place(cgroup, "pids")?;
    file::write(&pids.join("pids.max"), &v2_max(limits.pids))
}

/// The directory of the cgroup in the hierarchy of a controller.
pub(super) fn place(
    cgroup: &Cgroup,
    controller: &'static str,
) -> Result<(Version, PathBuf), CgroupError> {
    let missing = || CgroupError::NoController {
        controller,
        path: PathBuf::from(cgroup.path()),
    };
    let hierarchy = cgroup.layout().controller(controller).ok_or_else(missing)?;
    Ok((hierarchy.version, cgroup.directory(hierarchy)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::{CgroupTree, Layout, fixture};

    #[test]
    fn cpu_units() {
        let check = |request, limit, shares, weight, quota| {
            let limits = Limits {
                cpu_request_millis: request,
                cpu_limit_millis: limit,
                ..Limits::default()
            };
            assert_eq!(
                (limits.shares(), limits.weight(), limits.quota()),
                (shares, weight, quota),
                "{request} {limit:?}"
            );
        };
        check(0, None, 2, 1, None);
        check(1, Some(1), 2, 1, Some(1_000));
        check(100, Some(250), 102, 4, Some(25_000));
        check(1_000, Some(1_000), 1_024, 39, Some(100_000));
        check(2_500, Some(10), 2_560, 98, Some(1_000));
        check(1_000_000, None, 262_144, 10_000, None);
        check(
            u64::MAX,
            Some(u64::MAX),
            262_144,
            10_000,
            Some(u64::MAX / 1000),
        );
    }

    fn pod(root: &std::path::Path) -> Cgroup {
        CgroupTree::new(Layout::discover(root).unwrap(), "t")
            .unwrap()
            .pod("a")
            .unwrap()
    }

    const FULL: Limits = Limits {
        cpu_request_millis: 500,
        cpu_limit_millis: Some(1500),
        memory_bytes: Some(1 << 20),
        pids: Some(64),
    };

    #[test]
    fn v2_files() {
        let root = fixture::pure_v2();
        let directory = root.path().join("hearth-t/pods/poda");
        fixture::files(
            &directory,
            &["cpu.weight", "cpu.max", "memory.max", "pids.max"],
        );
        let check = |limits: &Limits, expected: [&str; 4]| {
            pod(root.path()).set_limits(limits).unwrap();
            let got = ["cpu.weight", "cpu.max", "memory.max", "pids.max"]
                .map(|name| fs::read_to_string(directory.join(name)).unwrap());
            assert_eq!(got, expected);
            fixture::files(
                &directory,
                &["cpu.weight", "cpu.max", "memory.max", "pids.max"],
            );
        };
        check(&FULL, ["20", "150000 100000", "1048576", "64"]);
        check(&Limits::default(), ["1", "max 100000", "max", "max"]);
    }

    #[test]
    fn v1_files() {
        let root = fixture::hybrid();
        let cpu = root.path().join("cpu,cpuacct/hearth-t/pods/poda");
        let memory = root.path().join("memory/hearth-t/pods/poda");
        let pids = root.path().join("pids/hearth-t/pods/poda");
        let check = |limits: &Limits, expected: [&str; 5]| {
            fixture::files(
                &cpu,
                &["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"],
            );
            fixture::files(&memory, &["memory.limit_in_bytes"]);
            fixture::files(&pids, &["pids.max"]);
            pod(root.path()).set_limits(limits).unwrap();
            let read = |directory: &std::path::Path, name| {
                fs::read_to_string(directory.join(name)).unwrap()
            };
            let got = [
                read(&cpu, "cpu.shares"),
                read(&cpu, "cpu.cfs_period_us"),
                read(&cpu, "cpu.cfs_quota_us"),
                read(&memory, "memory.limit_in_bytes"),
                read(&pids, "pids.max"),
            ];
            assert_eq!(got, expected);
        };
        check(&FULL, ["512", "100000", "150000", "1048576", "64"]);
        check(&Limits::default(), ["2", "100000", "-1", "-1", "max"]);
    }

    #[test]
    fn a_limit_that_cannot_be_written_names_its_file() {
        let root = fixture::pure_v2();
        let error = pod(root.path()).set_limits(&FULL).unwrap_err();
        assert!(error.is_gone());
        assert!(
            error.to_string().ends_with("hearth-t/pods/poda/cpu.weight"),
            "{error}"
        );
    }
}
