//! A root of containerd that cannot be used any more.
//!
//! containerd's databases are not synced for each pod, so that a power cut can leave them damaged. What is lost with
//! them can be made anew: images from their archives, pods from the journal and the API.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hearth_sys::{CgroupError, mount};

use super::{Host, HostError, files};

/// How long the tasks of all pods may take to end when they are killed.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// What a root is called that was set aside; seconds since 1970 follow.
const ASIDE: &str = "containerd.damaged-";

/// A root that could not be set aside.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetAsideError {
    #[error("end what runs from the damaged root")]
    Kill(#[source] CgroupError),
    #[error("unmount what lies in the damaged root")]
    Unmount(#[source] mount::MountError),
    #[error("move the damaged root")]
    Move(#[source] HostError),
}

/// Ends all pods, whose description is lost, removes what was known of them, and moves the root away; returns where
/// it is now. A root that was set aside before is removed. Can be repeated at any point.
pub(super) fn set_aside(host: &Host) -> Result<PathBuf, SetAsideError> {
    let paths = host.paths();
    host.cgroups()
        .kill(KILL_LIMIT)
        .map_err(SetAsideError::Kill)?;
    for directory in [&paths.containerd_state(), &paths.containerd_root()] {
        mount::unmount_all(directory).map_err(SetAsideError::Unmount)?;
    }
    let renew = || -> Result<PathBuf, HostError> {
        for old in damaged_roots(paths.root())? {
            files::remove(&old)?;
        }
        for directory in [
            &paths.containerd_state(),
            &paths.shim_sockets(),
            &paths.runc_state(),
            &paths.cni_data(),
        ] {
            files::remove(directory)?;
            files::private_dir(directory)?;
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let aside = paths.root().join(format!("{ASIDE}{}", now.as_secs()));
        fs::rename(paths.containerd_root(), &aside)
            .map_err(|source| HostError::io("move", &paths.containerd_root(), source))?;
        files::private_dir(&paths.containerd_root())?;
        Ok(aside)
    };
    renew().map_err(SetAsideError::Move)
}

fn damaged_roots(root_dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let failed = |source| HostError::io("list", root_dir, source);
    let mut roots = Vec::new();
    for entry in fs::read_dir(root_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            roots.push(entry.path());
        }
    }
    Ok(roots)
}

/// What opening a database says that is damaged. One that is in use, or a full disk, is no reason to give it up.
const DAMAGED: [&str; 4] = [
    "invalid database",
    "file size too small",
    "checksum error",
    "version mismatch",
];
/// How a Go program dies of damage that opening did not notice.
const CRASHES: [&str; 2] = ["panic: ", "fatal error: "];

/// Whether a containerd that ended told of a database that it cannot use.
pub(super) fn tells_of_damage(log: &str) -> bool {
    let refused = |line: &str| {
        line.contains("load required plugin io.containerd.metadata.v1.bolt")
            && DAMAGED.iter().any(|damage| line.contains(damage))
    };
    log.lines().any(refused) || (crash(log).is_some() && log.contains("go.etcd.io/bbolt."))
}

/// What a containerd that ended gave as its reason.
pub(super) fn last_words(log: &str) -> Option<&str> {
    let words = |line: &&str| line.starts_with("containerd: ") || line.contains("level=fatal");
    crash(log).or_else(|| log.lines().rev().find(words))
}

fn crash(log: &str) -> Option<&str> {
    log.lines()
        .find(|line| CRASHES.iter().any(|crash| line.starts_with(crash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As containerd 2.4 with bbolt 1.5 wrote it, shortened.
    const REFUSED: &str = r#"time="…" level=warning msg="failed to load plugin" error="invalid database" id=io.containerd.metadata.v1.bolt
containerd: load required plugin io.containerd.metadata.v1.bolt: invalid database
"#;
    const CRASHED: &str =
        "panic: assertion failed: Page expected to be: 4, but self identifies as 0

goroutine 51 [running]:
go.etcd.io/bbolt.(*Tx).recursivelyCheckBucket(0x21b7994e00e0)
\tgo.etcd.io/bbolt@v1.5.0/tx_check.go:135 +0x73
";
    const IN_USE: &str =
        "containerd: load required plugin io.containerd.metadata.v1.bolt: timeout\n";
    const OTHER_PANIC: &str = "panic: runtime error\n\ngoroutine 1 [running]:\nmain.main()\n";
    const KILLED: &str = "time=\"…\" level=warning msg=\"using async mode for boltdb\"\n";

    #[test]
    fn only_a_damaged_database_tells_of_damage() {
        let check = |log, expected| assert_eq!(tells_of_damage(log), expected, "{log}");
        check(REFUSED, true);
        check(CRASHED, true);
        check(IN_USE, false);
        check(OTHER_PANIC, false);
        check(KILLED, false);
        check("", false);
    }

    #[test]
    fn the_reason_of_an_end_is_found() {
        let check = |log, expected: Option<&str>| {
            let words = last_words(log);
            assert_eq!(words.is_some(), expected.is_some(), "{log}");
            assert!(
                words
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default()),
                "{log}"
            );
        };
        check(REFUSED, Some("invalid database"));
        check(CRASHED, Some("Page expected to be"));
        check(KILLED, None);
    }
}
