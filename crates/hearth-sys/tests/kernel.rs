//! On the real kernel, as root.
#![allow(clippy::unwrap_used)] // test code, which the lint only recognises inside test functions

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hearth_sys::nft::{Nft, NodePolicy};
use hearth_sys::spawn::{Daemon, spawn};
use hearth_sys::{CgroupError, FreezeError, Limits, Signal, link, mount, netns};
use support::{Echo, LONG, Trial, assert_root, instance, sleeper, spinner};

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
        let name = if hierarchy.version == hearth_sys::cgroup::Version::V1 {
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
    let child = Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .spawn()
        .unwrap();
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
    for v1 in [false, true] {
        let mut pod = trial.pod("frozen");
        fill_for(&trial, &mut pod, v1);
        pod.cgroup.freezer().unwrap().freeze(LONG).unwrap();
        pod.cgroup.kill(LONG).unwrap();
    }
}

#[test]
fn frozen_tasks_do_not_run_until_thawed() {
    let trial = Trial::new();
    for v1 in [false, true] {
        let mut pod = trial.pod("work");
        let child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        put(&trial, &pod.cgroup, pid, v1);
        pod.adopt(child);
        let freezer = pod.cgroup.freezer().unwrap();
        assert!(!freezer.is_frozen().unwrap());
        freezer.freeze(LONG).unwrap();
        freezer.freeze(LONG).unwrap();
        assert!(freezer.is_frozen().unwrap());
        let before = cpu_ticks(pid);
        // A loop of its own takes some CPU time, in which the frozen one must get none.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert_eq!(cpu_ticks(pid), before, "v1: {v1}");
        freezer.thaw(LONG).unwrap();
        freezer.thaw(LONG).unwrap();
        assert!(!freezer.is_frozen().unwrap());
        let limit = Instant::now() + LONG;
        // CPU time is told by no event.
        while cpu_ticks(pid) == before {
            assert!(Instant::now() < limit, "the thawed loop does not run");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_freeze_in_vain_leaves_the_pod_running() {
    let trial = Trial::new();
    let mut pod = trial.pod("vain");
    // Far more running tasks than cores: a task must get the CPU once to stop, so that no time is too little time.
    for _ in 0..40 {
        let child = spinner();
        pod.cgroup.add(i32::try_from(child.id()).unwrap()).unwrap();
        pod.adopt(child);
    }
    let freezer = pod.cgroup.freezer().unwrap();
    let error = freezer.freeze(Duration::ZERO).unwrap_err();
    assert!(matches!(error, FreezeError::NotFrozen { .. }), "{error:?}");
    assert!(!freezer.is_frozen().unwrap());
    freezer.freeze(LONG).unwrap();
    assert!(freezer.is_frozen().unwrap());
}

/// Not a benchmark: a bound that only a mistake breaks, such as waiting for an event that was already there.
#[test]
fn ten_tasks_freeze_and_thaw_fast() {
    const ROUNDS: usize = 200;
    let trial = Trial::new();
    for v1 in [false, true] {
        let mut pod = trial.pod("fast");
        let mut echoes: Vec<Echo> = (0..10).map(|_| Echo::start()).collect();
        for echo in &echoes {
            put(&trial, &pod.cgroup, echo.pid(), v1);
        }
        let freezer = pod.cgroup.freezer().unwrap();
        let (mut freezes, mut thaws, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            freezer.freeze(LONG).unwrap();
            freezes.push(start.elapsed());
            let start = Instant::now();
            freezer.thaw(LONG).unwrap();
            thaws.push(start.elapsed());
            // Also so that each of them has run between two freezes.
            echoes.iter_mut().for_each(Echo::round_trip);
            answers.push(start.elapsed());
        }
        echoes
            .into_iter()
            .for_each(|echo| pod.adopt(echo.into_child()));
        let summary = |mut times: Vec<Duration>| {
            times.sort();
            (times[ROUNDS / 2], times[ROUNDS * 99 / 100])
        };
        let (freeze, thaw, answer) = (summary(freezes), summary(thaws), summary(answers));
        let version = if v1 { "v1" } else { "v2" };
        println!(
            "{version}: p50/p99 of freeze {freeze:?}, thaw {thaw:?}, thaw and an answer of each {answer:?}"
        );
        assert!(freeze.0 < Duration::from_millis(5) && thaw.0 < Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_lives_in_its_own_session_and_cgroup() {
    let trial = Trial::new();
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon {
        program: "/bin/sh".into(),
        args: [
            "-c",
            "echo started in $PWD with $ONLY; cat /proc/self/cgroup; env | wc -l; exec sleep 1000",
        ]
        .map(Into::into)
        .to_vec(),
        env: vec![
            ("ONLY".into(), "this".into()),
            ("PATH".into(), "/bin:/usr/bin".into()),
        ],
        directory: "/".into(),
        log: directory.path().join("log"),
        cgroup: Some(trial.tree.supervisor()),
    };
    let process = spawn(&daemon).unwrap();
    let pid = process.id().pid;
    assert!(process.id().is_alive().unwrap());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(session, pid.to_string(), "leads its own session");
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(
        cgroups
            .lines()
            .all(|line| line.ends_with(trial.tree.supervisor().path())),
        "{cgroups}"
    );

    let limit = Instant::now() + LONG;
    let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    // What a program has executed is told by no event.
    while comm().trim() != "sleep" {
        assert!(
            Instant::now() < limit,
            "the script does not come to its end"
        );
        std::thread::yield_now();
    }
    assert_eq!(
        trial.tree.supervisor().processes().unwrap(),
        BTreeSet::from([pid])
    );
    let log = fs::read_to_string(&daemon.log).unwrap();
    assert!(log.contains("started in / with this"), "{log}");

    assert!(process.signal(Signal::TERM).unwrap());
    assert!(process.wait(LONG).unwrap());
    assert!(process.reap().unwrap().is_some());
    assert!(!process.id().is_alive().unwrap());
}

#[test]
fn a_program_that_is_not_there_is_an_error_and_not_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon {
        program: "/no/such/program".into(),
        args: Vec::new(),
        env: Vec::new(),
        directory: "/".into(),
        log: directory.path().join("log"),
        cgroup: None,
    };
    let error = spawn(&daemon).unwrap_err();
    assert_eq!(error.to_string(), "start /no/such/program");
}

#[test]
fn mounts_are_listed_and_detached_with_all_below() {
    assert_root();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [volume, inner, copy] = ["a volume", "a volume/inner", "copy"].map(|name| root.join(name));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&copy).unwrap();
    mount::tmpfs(&volume, Some(1 << 20)).unwrap();
    fs::create_dir(&inner).unwrap();
    mount::tmpfs(&inner, None).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    mount::bind(&volume, &copy, true).unwrap();
    mount::make_shared(&copy).unwrap();

    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "content");
    assert!(
        fs::write(copy.join("file"), "changed").is_err(),
        "read-only"
    );
    assert!(
        fs::write(volume.join("big"), vec![0; 2 << 20]).is_err(),
        "larger than its size"
    );
    let targets: Vec<_> = mount::under(&root)
        .unwrap()
        .into_iter()
        .map(|m| m.target)
        .collect();
    assert_eq!(
        targets,
        [volume.clone(), inner, copy.clone(), copy.join("inner")]
    );

    assert_eq!(mount::unmount_all(&root).unwrap(), 4);
    assert_eq!(mount::under(&root).unwrap(), []);
    mount::unmount(&volume).unwrap();
    mount::unmount(&root.join("never")).unwrap();
}

#[test]
fn network_namespaces_are_listed_and_removed() {
    assert_root();
    let name = format!("hearth-{}", instance());
    let run = |args: &[&str]| {
        assert!(
            Command::new("ip").args(args).status().unwrap().success(),
            "ip {args:?}"
        )
    };
    run(&["netns", "add", &name]);
    let path = Path::new("/run/netns").canonicalize().unwrap().join(&name);
    let listed = netns::list(path.parent().unwrap()).unwrap();
    netns::remove(&path).unwrap();
    assert!(listed.contains(&path), "{listed:?}");
    assert!(!path.exists());
    netns::remove(&path).unwrap();
}

#[test]
fn links_are_found_and_deleted() {
    assert_root();
    let name = format!("hth-{}", instance());
    assert!(!link::exists(&name));
    let made = Command::new("ip")
        .args(["link", "add", &name, "type", "bridge"])
        .status()
        .unwrap();
    assert!(made.success());
    let (found, listed) = (link::exists(&name), link::list("hth-").unwrap());
    link::delete(&name, LONG).unwrap();
    assert!(found && listed.contains(&name), "{listed:?}");
    assert!(!link::exists(&name));
    link::delete(&name, LONG).unwrap();
}

#[test]
fn the_nodes_table_is_replaced_and_removed() {
    assert_root();
    let nft = Nft::new("nft", LONG);
    let instance = instance();
    let policy = NodePolicy {
        instance: instance.clone(),
        bridge: format!("hth-{instance}"),
        pod_cidr: "10.88.0.0/16".into(),
    };
    nft.apply(&policy).unwrap();
    let again = nft.apply(&NodePolicy {
        pod_cidr: "10.89.0.0/16".into(),
        ..policy
    });
    let listed = nft.instances();
    let rules = Command::new("nft")
        .args(["list", "table", "inet", &format!("hearth-{instance}")])
        .output()
        .unwrap();
    nft.delete(&instance).unwrap();
    again.unwrap();
    assert!(listed.unwrap().contains(&instance));
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(
        rules.contains("10.89.0.0/16") && !rules.contains("10.88.0.0/16"),
        "{rules}"
    );
    nft.delete(&instance).unwrap();
    assert!(!nft.instances().unwrap().contains(&instance));
}

/// Makes a cgroup below a pod's in every hierarchy and returns the directories.
fn below(trial: &Trial, uid: &str, name: &str) -> Vec<PathBuf> {
    let pod = trial.tree.pod(uid).unwrap();
    let directories = trial.layout.hierarchies().iter().map(|hierarchy| {
        let parent = hierarchy.path.join(pod.path().trim_start_matches('/'));
        let child = parent.join(name);
        fs::create_dir(&child).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if child.join(file).exists() && hierarchy.version == hearth_sys::cgroup::Version::V1 {
                fs::copy(parent.join(file), child.join(file)).unwrap();
            }
        }
        child
    });
    directories.collect()
}

/// Puts a process into the pod: into all hierarchies, or into the v1 ones only, as some runtimes do.
fn put(trial: &Trial, cgroup: &hearth_sys::Cgroup, pid: i32, v1_only: bool) {
    if !v1_only {
        return cgroup.add(pid).unwrap();
    }
    let freezer = trial
        .layout
        .controller("freezer")
        .expect("this host has a v1 freezer");
    let directory = freezer.path.join(cgroup.path().trim_start_matches('/'));
    fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
}

fn fill_for(trial: &Trial, pod: &mut support::Pod, v1: bool) {
    for _ in 0..10 {
        let child = sleeper();
        put(trial, &pod.cgroup, i32::try_from(child.id()).unwrap(), v1);
        pod.adopt(child);
    }
}

fn stat_fields(pid: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .map(str::to_owned)
        .collect()
}

fn cpu_ticks(pid: i32) -> u64 {
    let fields = stat_fields(pid);
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
