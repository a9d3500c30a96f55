//! The supervisor as a process: what it does when its program ends, and when it is told to end.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A supervisor under test, and the pids that its program has had.
struct Supervised {
    dir: tempfile::TempDir,
    supervisor: Child,
    pids: BufReader<File>,
}

/// Writes a specification of `program` and starts a supervisor on it.
fn supervise(dir: &Path, program: &[&str]) -> Child {
    let spec = json!({
        "name": "example",
        "argv": program,
        "env": { "PATH": "/usr/bin:/bin", "GREETING": "hello" },
        "program": "",
        "health": null,
        "grace_ms": 10_000,
        "log": dir.join("log"),
        "root": dir,
    });
    let file = dir.join("example.spec.json");
    fs::write(&file, spec.to_string()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("supervise")
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Supervised {
    /// `script` finds its pid in `$$` and writes it to the pipe `pids`.
    fn start(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pids");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        // Open for both, so that neither side waits for the other to open it.
        let pids = File::options().read(true).write(true).open(&pipe).unwrap();
        let supervisor = supervise(dir.path(), &["sh", "-c", script]);
        Self {
            dir,
            supervisor,
            pids: BufReader::new(pids),
        }
    }

    /// Waits for the next start of the program.
    fn next_pid(&mut self) -> Pid {
        let mut line = String::new();
        self.pids.read_line(&mut line).unwrap();
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    }

    /// Tells the supervisor to end, waits until it has, and returns its last record.
    fn end(mut self) -> (Value, String) {
        let pid = Pid::from_child(&self.supervisor);
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.supervisor.wait().unwrap().success());
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap();
        let status = serde_json::from_str(&read("example.json")).unwrap();
        (status, read("log"))
    }
}

fn is_running(pid: Pid) -> bool {
    PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn a_killed_program_is_started_again_and_the_record_says_so() {
    let mut supervised = Supervised::start("echo $$ > pids; exec tail -f /dev/null");
    let first = supervised.next_pid();
    kill_process(first, Signal::KILL).unwrap();
    let second = supervised.next_pid();
    assert_ne!(first, second);

    let (status, log) = supervised.end();
    assert_eq!(status["restarts"], 1);
    assert_eq!(status["child"], Value::Null);
    assert_eq!(status["last_exit"], "signal 15");
    assert!(log.contains("ended by signal 9"), "{log}");
    assert!(!is_running(first) && !is_running(second));
}

#[test]
fn a_program_that_keeps_failing_can_still_be_ended() {
    let mut supervised = Supervised::start("echo $$ > pids; exit 3");
    let pids = [(); 3].map(|()| supervised.next_pid());

    let (status, log) = supervised.end();
    // The last run may have been ended rather than have failed.
    assert!(log.contains("ended by exit code 3"), "{log}");
    assert!(status["restarts"].as_u64().unwrap() >= 2);
    assert!(log.contains("starting again in 0.2 s"), "{log}");
    assert!(pids.iter().all(|pid| !is_running(*pid)));
}

#[test]
fn the_program_gets_the_environment_of_its_specification_and_no_other() {
    let script = "env > seen; echo $$ > pids; exec tail -f /dev/null";
    let mut supervised = Supervised::start(script);
    supervised.next_pid();
    let seen = fs::read_to_string(supervised.dir.path().join("seen")).unwrap();
    supervised.end();
    let lines: Vec<_> = seen.lines().collect();
    assert!(lines.contains(&"GREETING=hello"), "{seen}");
    assert!(
        !lines.iter().any(|line| line.starts_with("CARGO")),
        "{seen}"
    );
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_and_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervise(dir.path(), &["/nowhere/at-all"]);
    let mut said = String::new();
    let mut stdout = supervisor.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert!(!supervisor.wait().unwrap().success());
}
