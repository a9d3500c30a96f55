//! What the node daemon needs of its host, checked before it starts.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use rustix::fs::Access;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::cgroup::Layout;

/// Capabilities without which pods cannot be made, and what each is for.
const CAPABILITIES: [(Capability, &str); 5] = [
    (Capability::CAP_SYS_ADMIN, "cgroups and mounts"),
    (Capability::CAP_NET_ADMIN, "links and packet filters"),
    (Capability::CAP_KILL, "stopping the processes of pods"),
    (Capability::CAP_CHOWN, "the volumes of pods"),
    (Capability::CAP_DAC_OVERRIDE, "the volumes of pods"),
];

/// What to check.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Where cgroups are mounted.
    pub cgroup_root: PathBuf,
    /// Tools and binaries that must be there and executable: names are looked up in `PATH`, paths taken as they are.
    pub programs: Vec<PathBuf>,
}

/// Something the host lacks: one sentence with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The sentence.
    pub sentence: String,
}

impl Problem {
    fn new(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Everything the host lacks; empty when the node can run.
#[must_use]
pub fn host(needs: &Needs) -> Vec<Problem> {
    let mut problems = capabilities();
    problems.extend(cgroups(&needs.cgroup_root));
    problems.extend(needs.programs.iter().filter_map(|program| missing(program)));
    problems.extend(pidfd());
    problems
}

/// Whether this process and its children may lower OOM scores. A container runtime that may not must be told to keep to
/// what is allowed.
#[must_use]
pub fn may_lower_oom_scores() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false)
}

fn capabilities() -> Vec<Problem> {
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => {
            return vec![Problem::new(format!(
                "Cannot read this process's capabilities ({error}): is /proc mounted?"
            ))];
        }
    };
    let lacking = CAPABILITIES
        .iter()
        .filter(|(capability, _)| !held.contains(capability));
    lacking
        .map(|(capability, purpose)| {
            Problem::new(format!(
                "The capability {capability} is missing, which {purpose} need: run as root, in a container as privileged."
            ))
        })
        .collect()
}

fn cgroups(root: &Path) -> Vec<Problem> {
    let layout = match Layout::discover(root) {
        Ok(layout) => layout,
        Err(error) => {
            return vec![Problem::new(format!(
                "{error}: mount cgroup v2 there, or pass the place where it is."
            ))];
        }
    };
    let mut problems = Vec::new();
    for hierarchy in layout.hierarchies() {
        if let Err(error) = rustix::fs::access(&hierarchy.path, Access::WRITE_OK) {
            let path = hierarchy.path.display();
            problems.push(Problem::new(format!(
                "The cgroup hierarchy {path} cannot be written ({error}): mount it read-write, in a container with the host's cgroup namespace."
            )));
        }
    }
    for controller in ["cpu", "memory", "pids"] {
        if layout.controller(controller).is_none() {
            let root = root.display();
            problems.push(Problem::new(format!(
                "No cgroup hierarchy under {root} has the {controller} controller: enable it in the kernel's command line or in the cgroup.subtree_control above."
            )));
        }
    }
    if layout.unified().is_none() && layout.controller("freezer").is_none() {
        problems.push(Problem::new(
            "The host can freeze no cgroup: mount cgroup v2, or the v1 freezer.",
        ));
    }
    problems
}

fn missing(program: &Path) -> Option<Problem> {
    let executable =
        |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    let shown = program.display();
    if program.components().count() > 1 {
        return (!executable(program)).then(|| {
            Problem::new(format!(
                "{shown} is not there or cannot be executed: install it, or pass where it is."
            ))
        });
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).any(|directory| executable(&directory.join(program)));
    (!found).then(|| Problem::new(format!("The program {shown} is not in PATH: install it.")))
}

fn pidfd() -> Option<Problem> {
    let error = pidfd_open(getpid(), PidfdFlags::empty()).err()?;
    Some(Problem::new(format!(
        "The kernel cannot open processes as file descriptors ({error}): use Linux 5.4 or later."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lack_is_one_sentence_with_a_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let needs = Needs {
            cgroup_root: empty.path().to_owned(),
            programs: vec![
                "sh".into(),
                "no-such-tool".into(),
                empty.path().join("no-such-file"),
            ],
        };
        let problems: Vec<String> = host(&needs).iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:#?}");
        for (problem, part) in problems
            .iter()
            .zip(["cgroup", "no-such-tool", "no-such-file"])
        {
            assert!(
                problem.contains(part) && problem.contains(": ") && problem.ends_with('.'),
                "{problem}"
            );
        }
    }

    #[test]
    fn missing_controllers_are_named() {
        let root = crate::cgroup::fixture::pure_v2();
        std::fs::write(root.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        let needs = Needs {
            cgroup_root: root.path().to_owned(),
            programs: Vec::new(),
        };
        let problems = host(&needs);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(
            problems[0].sentence.contains("memory controller"),
            "{problems:#?}"
        );
    }
}
