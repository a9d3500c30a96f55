//! Daemons that outlive their starter.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use hearth_sys::Signal;
use hearth_sys::spawn::{Daemon, spawn};

use crate::support::{LONG, Trial};

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
