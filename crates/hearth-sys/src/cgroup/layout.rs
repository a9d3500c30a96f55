//! Which hierarchies a host has.

use std::path::{Path, PathBuf};

use super::{CgroupError, file};

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

    /// Looks at what is mounted under `root`: the v2 hierarchy at `root` itself, or v1 hierarchies at
    /// `root/<controllers>` and the v2 one beside them.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] when there is none.
    pub fn discover(root: &Path) -> Result<Self, CgroupError> {
        let mut hierarchies = Vec::new();
        if let Some(unified) = unified(root)? {
            hierarchies.push(unified);
        } else {
            // `file::children` skips symbolic links, which some hosts have for the single names of joint controllers.
            for path in file::children(root)? {
                if let Some(unified) = unified(&path)? {
                    hierarchies.push(unified);
                } else if path.join("cgroup.procs").exists() {
                    hierarchies.push(Hierarchy {
                        version: Version::V1,
                        controllers: named_controllers(&path),
                        path,
                    });
                }
            }
        }
        if hierarchies.is_empty() {
            return Err(CgroupError::NoHierarchy {
                root: root.to_owned(),
            });
        }
        hierarchies.sort_by(|a, b| {
            (a.version == Version::V1, &a.path).cmp(&(b.version == Version::V1, &b.path))
        });
        Ok(Self { hierarchies })
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

/// The v2 hierarchy mounted at `path`: only its cgroups have a list of controllers.
fn unified(path: &Path) -> Result<Option<Hierarchy>, CgroupError> {
    let Some(controllers) = file::unless_gone(file::read(&path.join("cgroup.controllers")))? else {
        return Ok(None);
    };
    let controllers = controllers.split_whitespace().map(str::to_owned).collect();
    Ok(Some(Hierarchy {
        version: Version::V2,
        path: path.to_owned(),
        controllers,
    }))
}

/// The controllers of a v1 hierarchy by the name of its mount point: `memory`, `cpu,cpuacct`, or `systemd`, which has
/// none but does no harm.
fn named_controllers(path: &Path) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fixture;

    #[test]
    fn a_pure_v2_host_has_one_hierarchy() {
        let root = fixture::pure_v2();
        let layout = Layout::discover(root.path()).unwrap();
        assert_eq!(layout.hierarchies().len(), 1);
        assert_eq!(layout.unified(), Some(root.path()));
        assert_eq!(
            layout.controller("memory").map(|h| h.version),
            Some(Version::V2)
        );
        assert_eq!(layout.controller("freezer"), None);
    }

    #[test]
    fn a_hybrid_host_has_v1_controllers_beside_v2() {
        let root = fixture::hybrid();
        let layout = Layout::discover(root.path()).unwrap();
        assert_eq!(
            layout.unified(),
            Some(root.path().join("unified").as_path())
        );
        assert_eq!(layout.hierarchies()[0].version, Version::V2);
        let path_of = |name| layout.controller(name).map(|h| h.path.clone());
        assert_eq!(path_of("memory"), Some(root.path().join("memory")));
        assert_eq!(path_of("cpu"), Some(root.path().join("cpu,cpuacct")));
        assert_eq!(path_of("cpuacct"), Some(root.path().join("cpu,cpuacct")));
        assert_eq!(path_of("freezer"), Some(root.path().join("freezer")));
    }

    #[test]
    fn nothing_mounted_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(
            Layout::discover(root.path()),
            Err(CgroupError::NoHierarchy { .. })
        ));
        assert!(matches!(
            Layout::discover(&root.path().join("absent")),
            Err(CgroupError::NoHierarchy { .. })
        ));
    }
}
