//! The runtimes that pods can run on. What containerd needs to know of each is in `runtimes/`.

use std::fmt;
use std::path::Path;

/// A runtime that hearthd knows how to configure and how to freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Ordinary containers.
    Runc,
    /// gVisor: a kernel of its own for each pod, in user space.
    Gvisor,
    /// Kata: a virtual machine for each pod.
    Kata,
}

impl Runtime {
    /// All of them. The first one that a node has is containerd's default.
    pub const ALL: [Self; 3] = [Self::Runc, Self::Gvisor, Self::Kata];

    /// The runtime of a CRI handler.
    #[must_use]
    pub fn of_handler(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.handler() == name)
    }

    /// Its CRI handler: what a RuntimeClass names.
    #[must_use]
    pub fn handler(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Gvisor => "runsc",
            Self::Kata => "kata",
        }
    }

    /// What it needs in the bin directory.
    #[must_use]
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Runc => &["runc", "containerd-shim-runc-v2"],
            Self::Gvisor => &["runsc", "containerd-shim-runsc-v1"],
            Self::Kata => &["containerd-shim-kata-v2"],
        }
    }

    /// Whether a bin directory has all that it needs.
    #[must_use]
    pub fn is_in(self, bin_dir: &Path) -> bool {
        let programs = self.programs();
        programs.iter().all(|name| bin_dir.join(name).is_file())
    }

    /// Its part of containerd's configuration, with places for the instance's directories.
    pub(super) fn containerd_config(self) -> &'static str {
        match self {
            Self::Runc => include_str!("../../../../runtimes/runc/containerd.toml"),
            Self::Gvisor => include_str!("../../../../runtimes/gvisor/containerd.toml"),
            Self::Kata => include_str!("../../../../runtimes/kata/containerd.toml"),
        }
    }

    /// A configuration file of its own in the root directory: its name and its content, with places like the above.
    pub(super) fn config_file(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Gvisor => Some((
                "runsc.toml",
                include_str!("../../../../runtimes/gvisor/runsc.toml"),
            )),
            // Kata's installation has its own.
            Self::Runc | Self::Kata => None,
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.handler())
    }
}

/// The runtimes of a node: those that it was told to have, or all whose programs are there.
pub(super) fn choose(named: &[String], bin_dir: &Path) -> Vec<Runtime> {
    let wanted = |runtime: &Runtime| match named {
        // What is missing for it is said, not passed over.
        [] => *runtime == Runtime::Runc || runtime.is_in(bin_dir),
        named => named.iter().any(|name| name == runtime.handler()),
    };
    Runtime::ALL.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_found_by_their_programs_or_named() {
        let bin = tempfile::tempdir().unwrap();
        let check = |named: &[&str], expect: &[Runtime]| {
            let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(choose(&named, bin.path()), expect, "{named:?}");
        };
        check(&[], &[Runtime::Runc]);
        check(&["runsc"], &[Runtime::Gvisor]);
        std::fs::write(bin.path().join("runsc"), "").unwrap();
        check(&[], &[Runtime::Runc]);
        std::fs::write(bin.path().join("containerd-shim-runsc-v1"), "").unwrap();
        check(&[], &[Runtime::Runc, Runtime::Gvisor]);
        check(&["runc"], &[Runtime::Runc]);
        check(&["kata", "runc"], &[Runtime::Runc, Runtime::Kata]);
    }

    #[test]
    fn handlers_have_one_name_each() {
        for runtime in Runtime::ALL {
            assert_eq!(Runtime::of_handler(runtime.handler()), Some(runtime));
            let section = format!("containerd.runtimes.{}]", runtime.handler());
            assert!(runtime.containerd_config().contains(&section), "{runtime}");
        }
        assert_eq!(Runtime::of_handler("gvisor"), None);
    }
}
