//! Limits, usage, killing and removing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_sys::cgroup::Version;
use hearth_sys::{CgroupError, Limits};

use crate::support::{LONG, Trial, fill_for, sleeper, spinner, v1_only_or_not};

#[test]
fn a_tree_is_made_and_removed_in_every_hierarchy() {
    let trial = Trial::new();
    let paths: Vec<PathBuf> = trial
        .layout
        .hierarchies()
        .iter()
        .map(|h| h.path.join(format!("hearth-{}", trial.instance)))
        .collect();
    for path in &paths {
        assert!(
            path.join("supervisor").is_dir() && path.join("pods").is_dir(),
            "{}",
            path.display()
        );
    }
    trial.tree.create().unwrap();
    drop(trial);
    for path in &paths {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn limits_are_taken_by_the_kernel_and_lifted_again() {
    let trial = Trial::new();
    let pod = trial.pod("limits");
    let limits = Limits {
        cpu_request_millis: 250,
        cpu_limit_millis: Some(500),
        memory_bytes: Some(64 << 20),
        pids: Some(100),
    };
    let file = |controller: &str, v1: &str, v2: &str| {
        let hierarchy = trial.layout.controller(controller).unwrap();
        let name = if hierarchy.version == Version::V1 {
            v1
        } else {
            v2
        };
        let path = hierarchy
            .path
            .join(pod.cgroup.path().trim_start_matches('/'))
            .join(name);
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    pod.cgroup.set_limits(&limits).unwrap();
    assert_eq!(
        file("memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(file("pids", "pids.max", "pids.max"), "100");
    assert!(
        ["50000", "50000 100000"].contains(&file("cpu", "cpu.cfs_quota_us", "cpu.max").as_str())
    );

    pod.cgroup.set_limits(&Limits::default()).unwrap();
    assert_eq!(file("pids", "pids.max", "pids.max"), "max");
    assert!(["-1", "max 100000"].contains(&file("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
}

#[test]
fn usage_counts_what_runs_in_the_pod() {
    let trial = Trial::new();
    let mut pod = trial.pod("usage");
    assert_eq!(pod.cgroup.usage().unwrap().pids, 0);
    let child = spinner();
    pod.cgroup.add(i32::try_from(child.id()).unwrap()).unwrap();
    pod.adopt(child);
    pod.fill(2);
    assert_eq!(pod.cgroup.usage().unwrap().pids, 3);
    let limit = Instant::now() + LONG;
    // CPU time is told by no event; the loop in the pod produces it as long as this one waits.
    while pod.cgroup.usage().unwrap().cpu_micros == 0 {
        assert!(
            Instant::now() < limit,
            "a process that only spins has used no CPU time"
        );
        std::thread::yield_now();
    }
}

#[test]
fn killing_a_pod_reaches_containers_below_and_leaves_others_alone() {
    let trial = Trial::new();
    let mut pod = trial.pod("a");
    let mut other = trial.pod("b");
    other.fill(1);
    pod.fill(3);
    let below = below(&trial, "a", "container");
    let child = sleeper();
    for directory in &below {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    pod.adopt(child);
    assert_eq!(pod.cgroup.processes().unwrap().len(), 4);

    let error = pod.cgroup.remove(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, CgroupError::Busy { .. }), "{error:?}");
    assert_eq!(
        pod.cgroup.processes().unwrap().len(),
        4,
        "removal kills nothing"
    );

    pod.cgroup.kill(LONG).unwrap();
    assert_eq!(pod.cgroup.processes().unwrap(), BTreeSet::new());
    assert_eq!(other.cgroup.processes().unwrap().len(), 1);
    pod.cgroup.remove(LONG).unwrap();
    assert!(!pod.cgroup.exists());
    assert_eq!(trial.tree.pods().unwrap(), BTreeSet::from(["b".to_owned()]));
}

#[test]
fn killing_a_container_leaves_the_others_of_its_pod_alone() {
    let trial = Trial::new();
    let mut pod = trial.pod("a");
    for name in ["c1", "c2"] {
        let below = below(&trial, "a", name);
        for _ in 0..2 {
            let child = sleeper();
            for directory in &below {
                fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
            }
            pod.adopt(child);
        }
    }
    let container = |name| pod.cgroup.container(name).unwrap();
    container("c1").kill(LONG).unwrap();
    let left = |name| container(name).processes().unwrap().len();
    assert_eq!((left("c1"), left("c2"), left("c3")), (0, 2, 0));
}

#[test]
fn removal_waits_for_the_last_task() {
    let trial = Trial::new();
    let mut pod = trial.pod("a");
    pod.fill(5);
    let cgroup = pod.cgroup.clone();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| cgroup.remove(LONG));
        pod.cgroup.kill(LONG).unwrap();
        removal.join().unwrap().unwrap();
    });
    assert!(!pod.cgroup.exists());
}

#[test]
fn a_frozen_pod_is_killed() {
    let trial = Trial::new();
    for &v1 in v1_only_or_not(&trial) {
        let mut pod = trial.pod("frozen");
        fill_for(&trial, &mut pod, v1);
        pod.cgroup.freezer().unwrap().freeze(LONG).unwrap();
        pod.cgroup.kill(LONG).unwrap();
    }
}

/// Makes a cgroup below a pod's in every hierarchy and returns the directories.
fn below(trial: &Trial, uid: &str, name: &str) -> Vec<PathBuf> {
    let pod = trial.tree.pod(uid).unwrap();
    let directories = trial.layout.hierarchies().iter().map(|hierarchy| {
        let parent = hierarchy.path.join(pod.path().trim_start_matches('/'));
        let child = parent.join(name);
        fs::create_dir(&child).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if child.join(file).exists() && hierarchy.version == Version::V1 {
                fs::copy(parent.join(file), child.join(file)).unwrap();
            }
        }
        child
    });
    directories.collect()
}
