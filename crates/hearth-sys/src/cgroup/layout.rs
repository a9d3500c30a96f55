//! Which hierarchies a host has.

use std::path::{Path, PathBuf};

use super::CgroupError;

/// Generation of a cgroup hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller (or per named set of them).
    V1,
    /// The unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Generation.
    pub version: Version,
    /// The mount point.
    pub path: PathBuf,
    /// Controllers that work here; for v2, those its root offers.
    pub controllers: Vec<String>,
}

/// The hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Where cgroups are mounted on a normal host.
    pub const ROOT: &'static str = "/sys/fs/cgroup";

    /// Looks at what is mounted under `root`: the v2 hierarchy at `root` itself, or v1 hierarchies at `root/<name>` and
    /// the v2 one at `root/unified`.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] when there is none.
    pub fn discover(root: &Path) -> Result<Self, CgroupError> {
        let _ = root;
        todo!()
    }

    /// All hierarchies, the v2 one first.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// Mount point of the v2 hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.hierarchies
            .iter()
            .find(|h| h.version == Version::V2)
            .map(|h| h.path.as_path())
    }

    /// The hierarchy in which a controller works: `cpu`, `memory`, `pids`, `freezer` (v1 only), …
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == name))
    }
}
