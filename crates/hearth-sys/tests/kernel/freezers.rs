//! Freezing and thawing in either generation.

use std::fs;
use std::time::{Duration, Instant};

use hearth_sys::fake::FakeFreezer;
use hearth_sys::{FreezeError, Freezer, Method};

use crate::support::{Echo, LONG, Trial, fill_for, put, spinner, v1_only_or_not};

/// What every freezer promises. `vanish` removes its cgroup.
fn keeps_the_contract(freezer: &dyn Freezer, vanish: impl FnOnce()) {
    assert!(!freezer.is_frozen().unwrap());
    for _ in 0..2 {
        freezer.freeze(LONG).unwrap();
        assert!(freezer.is_frozen().unwrap());
    }
    for _ in 0..2 {
        freezer.thaw(LONG).unwrap();
        assert!(!freezer.is_frozen().unwrap());
    }
    freezer.freeze(LONG).unwrap();
    vanish();
    assert!(!freezer.is_frozen().unwrap());
    freezer.thaw(LONG).unwrap();
    assert!(matches!(
        freezer.freeze(LONG),
        Err(FreezeError::Gone { .. })
    ));
}

#[test]
fn all_freezers_keep_one_contract() {
    let fake = FakeFreezer::new();
    keeps_the_contract(&fake, || fake.vanish());
    let trial = Trial::new();
    for &v1 in v1_only_or_not(&trial) {
        let mut pod = trial.pod("contract");
        fill_for(&trial, &mut pod, v1);
        let freezer = pod.cgroup.freezer().unwrap();
        assert_eq!(freezer.method() == Method::CgroupV1, v1);
        keeps_the_contract(freezer.as_ref(), || {
            pod.cgroup.kill(LONG).unwrap();
            pod.cgroup.remove(LONG).unwrap();
        });
    }
}

#[test]
fn frozen_tasks_do_not_run_until_thawed() {
    let trial = Trial::new();
    for &v1 in v1_only_or_not(&trial) {
        let mut pod = trial.pod("work");
        let child = spinner();
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
    // Unless this test itself is off the CPU just after it asked, until all of them have stopped.
    let in_vain = |_| {
        let failed = freezer.freeze(Duration::ZERO).err();
        if failed.is_none() {
            freezer.thaw(LONG).unwrap();
        }
        failed
    };
    let error = (0..20).find_map(in_vain).expect("no freeze is too short");
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
    for &v1 in v1_only_or_not(&trial) {
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
